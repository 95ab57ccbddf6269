package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAFailpointKillsOnceAtItsCount(t *testing.T) {
	died := 0
	at, err := testFailpoint("committed:3", func() { died++ })
	if err != nil {
		t.Fatal(err)
	}
	for i, step := range []string{"committed", "appended", "committed", "appended", "committed", "committed"} {
		if at(step); died != min(1, i/4) {
			t.Errorf("died %d times after step %d", died, i+1)
		}
	}
	file := filepath.Join(t.TempDir(), "armed")
	died = 0
	if at, err = testFailpoint("committed:1:"+file, func() { died++ }); err != nil {
		t.Fatal(err)
	}
	if at("committed"); died != 0 {
		t.Error("it died before it was armed")
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if at("committed"); died != 1 {
		t.Error("it was armed and lives")
	}
	if at, err := testFailpoint("", nil); at != nil || err != nil {
		t.Errorf("without the setting: %v", err)
	}
	for _, text := range []string{"committed", "committed:", ":1", "committed:0", "committed:-1", "committed:x"} {
		if _, err := testFailpoint(text, nil); err == nil || !strings.Contains(err.Error(), "CVLAB_TEST_FAILPOINT") {
			t.Errorf("%q gives %v", text, err)
		}
	}
}
