package spec_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/deveronica/cvlab/fsm/spec"
)

func seedConfigs(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		f.Fatalf("found no configs: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	for _, text := range []string{
		"? a\n? b\n", "{a, b: , c}", "a: &x !!str\nb: *x\n", "a: !t [1, 2]\n? {x: 1}\n: y", "--- !!map\na: [1,\n\n 2]\n...\n", "\ufeffa: [1, 2]",
		"a:\n- - 1\n  - 2\n- |+\n  x\n\n- ? k\n  : v\n", "a: [b: 1, {c: d}]", "\"<<\": 1\n<<: {a: [1, 2]}", "a: \"x\\\n  y\"\r\nb: 'it''s'\r", "%YAML 1.1\n---\na: 1",
		"cvlab: {command: '{a} {{b}} \"{a}\"'}\na: ['x y', \"it's\"]\nb: 1", "device: {", "device:\ncvlab:\n", "a: [1, 2] # c\n\n\n", "x: [!!null '', ~, ]",
	} {
		f.Add(text)
	}
}

// FuzzParse says: whatever the text, Parse answers with an *Error or with a spec within the limits, all of whose experiments
// can be named.
func FuzzParse(f *testing.F) {
	seedConfigs(f)
	f.Fuzz(func(t *testing.T, text string) {
		made, err := spec.Parse(text, spec.Options{})
		if err != nil {
			bad, ok := errors.AsType[*spec.Error](err)
			if !ok || len(bad.Problems) == 0 || bad.Error() == "" {
				t.Fatalf("refused with %#v", err)
			}
			return
		}
		if made.Count < 1 || made.Count > spec.MaxSweep || made.Count != made.Spec.Count() {
			t.Fatalf("%d experiments", made.Count)
		}
		made.Spec.Params(made.Count - 1)
	})
}

// FuzzRender says: what Parse accepted can be handed on, for the first and the last experiment, to GPUs and to CPUs, and what
// is handed on is itself a config that stands for one experiment.
func FuzzRender(f *testing.F) {
	seedConfigs(f)
	f.Fuzz(func(t *testing.T, text string) {
		made, err := spec.Parse(text, spec.Options{})
		if err != nil {
			return
		}
		for _, ordinal := range []int{0, made.Count - 1} {
			for _, cpu := range []bool{false, true} {
				out, err := spec.Render(&made.Spec, ordinal, spec.Handed{CPU: cpu})
				if err != nil {
					t.Fatalf("render %d, cpu %v: %v", ordinal, cpu, err)
				}
				again, err := spec.Parse(out, spec.Options{})
				if err != nil {
					t.Fatalf("what is handed on is refused: %v\n%s", err, out)
				}
				if again.Count != 1 && made.Spec.NeedsKit() && len(made.Spec.Axes) > 0 {
					t.Fatalf("what is handed on would be swept again:\n%s", out)
				}
			}
			if _, err := spec.Argv(&made.Spec, ordinal); err != nil {
				t.Fatalf("argv %d: %v", ordinal, err)
			}
		}
	})
}

// FuzzSet says: an edit is refused, or leaves a config that can be read.
func FuzzSet(f *testing.F) {
	f.Add("a: {b: 1}\n", "a.b=[1, 2]")
	f.Add("a: [1, 2]\n", "c.d=x")
	f.Add("{}", "a=: b")
	f.Add("a:\n  b: |\n    x\n", "a.c=1")
	f.Fuzz(func(t *testing.T, text, set string) {
		made, err := spec.Parse(text, spec.Options{Set: []string{set}})
		if err != nil {
			return
		}
		if _, err := spec.Parse(made.Spec.Config, spec.Options{}); err != nil {
			t.Fatalf("after %q: %v\n%s", set, err, made.Spec.Config)
		}
	})
}
