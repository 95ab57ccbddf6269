package main

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestACutHostIsSilent makes two hosts, as root; anybody else is told that only root can.
func TestACutHostIsSilent(t *testing.T) {
	if os.Geteuid() != 0 {
		var out, errs bytes.Buffer
		if code := run([]string{"failover", "--cut"}, &out, &errs); code != 2 || !strings.Contains(errs.String(), "root") {
			t.Errorf("code %d, %q", code, errs.String())
		}
		return
	}
	h, err := newHosts(t.Context(), 35, 2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.remove(); err != nil {
			t.Error(err)
		}
		if out, _ := exec.Command("ip", "link", "show").Output(); strings.Contains(string(out), h.bridge) {
			t.Errorf("left behind:\n%s", out)
		}
	})
	if !h.all[0].answers() || !h.all[1].answers() {
		t.Fatal("the hosts do not answer")
	}
	if err := h.all[0].cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	if h.all[0].answers() {
		t.Error("the host that was cut off answers")
	}
	if !h.all[1].answers() {
		t.Error("the other host was cut off too")
	}
	if err := h.all[0].heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := until(t.Context(), "the host to answer again", func() (bool, error) { return h.all[0].answers(), nil }); err != nil {
		t.Error(err)
	}
}
