package spec_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deveronica/cvlab/fsm/spec"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGolden reads every config in testdata and compares all that comes of it with the file next to it: the spec, the
// warnings or problems, each experiment's values, and what the first and the last are handed.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) < 10 {
		t.Fatalf("found %d configs in testdata: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := story(t, string(text))
			golden := strings.TrimSuffix(file, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s changed (-want +got); if this is right, run the test with -update\n%s", golden, diff)
			}
		})
	}
}

// story tells all that comes of a config.
func story(t *testing.T, text string) string {
	t.Helper()
	var b strings.Builder
	made, err := spec.Parse(text, spec.Options{})
	if bad, ok := errors.AsType[*spec.Error](err); ok {
		b.WriteString("refused\n")
		for _, p := range bad.Problems {
			fmt.Fprintf(&b, "  %s\n", p)
		}
		return b.String()
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range made.Warnings {
		fmt.Fprintf(&b, "warning %s\n", w)
	}
	shown := made.Spec
	shown.Config, shown.Axes = "", nil
	body, err := json.MarshalIndent(shown, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "spec %s\n", body)
	for i := range made.Count {
		if i >= 12 {
			fmt.Fprintf(&b, "experiment %d of %d is the last shown\n", i, made.Count)
			break
		}
		fmt.Fprintf(&b, "experiment %d:", i)
		for _, p := range made.Spec.Params(i) {
			fmt.Fprintf(&b, " %s=%s", p.Key, p.Value)
		}
		b.WriteByte('\n')
	}
	for _, h := range []struct {
		ordinal int
		cpu     bool
	}{{0, false}, {made.Count - 1, true}} {
		out, err := spec.Render(&made.Spec, h.ordinal, spec.Handed{CPU: h.cpu})
		if err != nil {
			t.Fatalf("render %d: %v", h.ordinal, err)
		}
		argv, err := spec.Argv(&made.Spec, h.ordinal)
		if err != nil {
			t.Fatalf("argv %d: %v", h.ordinal, err)
		}
		fmt.Fprintf(&b, "--- experiment %d, cpu %v, argv %q\n%s", h.ordinal, h.cpu, argv, out)
		if !strings.HasSuffix(out, "\n") {
			b.WriteString("(no end of line)\n")
		}
	}
	return b.String()
}
