package spec_test

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/deveronica/cvlab/fsm/spec"
)

func TestCommandIsPassedAsIs(t *testing.T) {
	argv := []string{"python", "-c", "print(';', '$(x)', '{lr}')\n", "--", "-x", ""}
	made, err := spec.Command(argv, spec.Options{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := spec.Argv(&made.Spec, 0)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(argv, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if made.Spec.Config != "" || made.Count != 1 || len(made.Warnings) != 0 {
		t.Errorf("a bare command made %+v", made)
	}
	for _, bad := range [][]string{nil, {}, {""}, {" "}, {"a", "b\x00"}, {"a", strings.Repeat("x", 200_000)}} {
		_, err := spec.Command(bad, spec.Options{})
		if _, ok := errors.AsType[*spec.Error](err); !ok {
			t.Errorf("%.40q: %v, want an *Error", bad, err)
		}
	}
}

// TestCommandSweepsOverSettings is `cvlab run --set lr=[0.1,0.2] --set opt.name=adam -- python train.py --lr {lr}`.
func TestCommandSweepsOverSettings(t *testing.T) {
	made, err := spec.Command([]string{"python", "train.py", "--lr={lr}", "{opt.name}"}, spec.Options{Set: []string{"lr=[0.1, 0.2]", "opt.name=adam", "opt.one=[x]"}})
	if err != nil {
		t.Fatal(err)
	}
	if want := "lr: [0.1, 0.2]\nopt: {name: adam, one: [x]}\n"; made.Spec.Config != want {
		t.Errorf("config %q, want %q", made.Spec.Config, want)
	}
	got, err := spec.Argv(&made.Spec, 1)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"python", "train.py", "--lr=0.2", "adam"}, got); diff != "" {
		t.Error(diff)
	}
	text, err := spec.Render(&made.Spec, 1, spec.Handed{})
	if err != nil || text != "lr: 0.2\nopt: {name: adam, one: x}\n" {
		t.Errorf("config handed on: %q, %v", text, err)
	}
	if _, err := spec.Command([]string{"a"}, spec.Options{Set: []string{"cvlab.command=b"}}); err == nil {
		t.Error("two commands were accepted")
	}
}

func TestArgvOfTheKitIsNone(t *testing.T) {
	made, err := spec.Parse("lr: 1", spec.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if argv, err := spec.Argv(&made.Spec, 0); argv != nil || err != nil {
		t.Errorf("got %v, %v", argv, err)
	}
}

// TestShellValuesCannotBreakOut runs real shells: whatever the value and wherever its place, the program sees the value as
// one word, and nothing else happens.
func TestShellValuesCannotBreakOut(t *testing.T) {
	script := `printf '%s\n' {v} "{v}" '{v}' a"{{v}}"b end\"{v} # '`
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.StringOfN(rapid.RuneFrom([]rune("ab; '\"\\$(){}`|&<>*?~#!\t\n=-é")), 0, 12, -1).Draw(t, "value")
		config := "cvlab:\n  command: " + yamlQuote(script) + "\nv: " + yamlQuote(v) + "\n"
		made, err := spec.Parse(config, spec.Options{})
		if err != nil {
			t.Fatal(err)
		}
		argv, err := spec.Argv(&made.Spec, 0)
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		want := strings.Join([]string{v, v, v, "a" + v + "b", `end"` + v, ""}, "\n")
		if err != nil || string(out) != want {
			t.Fatalf("ran %q\ngot  %q, %v\nwant %q", argv, out, err, want)
		}
	})
}

// yamlQuote writes any text as a YAML scalar.
func yamlQuote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`).Replace(s) + `"`
}

func TestSet(t *testing.T) {
	const text = "# head\nlr: 0.1  # rate\noptimizer:\n  name: adam   # which\n  list:\n    - 1\n    - 2\nflow: {a: 1, b: {c: 2}}\ndotted.key: 1\nnull_one:\nlast: x   # tail\n"
	for _, c := range []struct {
		set, want string // want: what of the text becomes what, as old=>new; or the whole refusal after "refused: "
	}{
		{"lr=0.2", "lr: 0.1=>lr: 0.2"},
		{"lr=[0.1, 0.2]", "lr: 0.1=>lr: [0.1, 0.2]"},
		{"lr=", "lr: 0.1=>lr: null"},
		{"optimizer.name=sgd", "name: adam =>name: sgd "},
		{"optimizer.list=3", "list:\n    - 1\n    - 2\n=>list: 3\n"},
		{"optimizer=sgd", "optimizer:\n  name: adam   # which\n  list:\n    - 1\n    - 2\n=>optimizer: sgd\n"},
		{"optimizer.wd=1e-4", "    - 2\n=>    - 2\n  wd: 1e-4\n"},
		{"optimizer.a.b=1", "    - 2\n=>    - 2\n  a: {b: 1}\n"},
		{"flow.a=7", "{a: 1,=>{a: 7,"},
		{"flow.b.d=7", "{c: 2}=>{c: 2, d: 7}"},
		{"flow.e=[1,2]", "{c: 2}}=>{c: 2}, e: [1,2]}"},
		{"dotted.key=2", "dotted.key: 1=>dotted.key: 2"},
		{"null_one=5", "null_one:=>null_one: 5"},
		{"new=1", "# tail\n=># tail\nnew: 1\n"},
		{"model=a: b", "# tail\n=># tail\nmodel: {a: b}\n"},
		{"model=\"x # y\"", "# tail\n=># tail\nmodel: \"x # y\"\n"},
		{"cvlab.priority=high", "# tail\n=># tail\ncvlab: {priority: high}\n"},
		{"on=1", "# tail\n=># tail\n\"on\": 1\n"},
		{"lr.x=1", "refused: lr is not a map"},
		{"nothing", "refused: is not key=value"},
		{"=1", "refused: is not key=value"},
		{"a..b=1", "refused: is not key=value"},
		{"a=[1", "refused: is not YAML"},
		{"a=*x", "refused: is not YAML"},
		{"a=\x00", "refused: NUL"},
	} {
		t.Run(c.set, func(t *testing.T) {
			made, err := spec.Parse(text, spec.Options{Set: []string{c.set}})
			if say, refused := strings.CutPrefix(c.want, "refused: "); refused {
				if err == nil || !strings.Contains(err.Error(), say) {
					t.Fatalf("got %v, want %q", err, say)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			old, young, _ := strings.Cut(c.want, "=>")
			if diff := cmp.Diff(strings.Replace(text, old, young, 1), made.Spec.Config); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestSetsFollowEachOther(t *testing.T) {
	made, err := spec.Parse("{\"a\": {}}", spec.Options{Set: []string{"a.x=1", "a.y=[1, 2]", "a.y=[3, 4, 5]", "b.c.d=x y"}})
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"a": {x: 1, y: [3, 4, 5]}, b: {c: {d: x y}}}`; made.Spec.Config != want || made.Count != 3 {
		t.Errorf("%d experiments of %s, want 3 of %s", made.Count, made.Spec.Config, want)
	}
}
