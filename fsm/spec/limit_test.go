package spec_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/deveronica/cvlab/fsm/spec"
)

// bomb is nine levels of aliases, ten each: 10^9 values in some 300 bytes.
func bomb() string {
	var b strings.Builder
	b.WriteString("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 9; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	return b.String()
}

// mergeBomb does the same by merge keys, which leave little behind and yet cost as much work.
func mergeBomb() string {
	var b strings.Builder
	b.WriteString("a0: &a0 {k: 1}\n")
	for i := 1; i < 9; i++ {
		fmt.Fprintf(&b, "a%d: &a%d {<<: [%s]}\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	return b.String()
}

func TestLimits(t *testing.T) {
	axis := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat("1, ", n), ", ") + "]" }
	for _, c := range []struct{ name, text, want string }{
		{"alias bomb", bomb(), "more than 100000 values, the limit"},
		{"merge bomb", mergeBomb(), "more than 100000 values, the limit"},
		{"anchor in itself", "a: &a [1, *a]", "line 1, column 4: the anchor &a contains itself"},
		{"merge of itself", "a: &a {<<: *a}", "contains itself"},
		{"10,000 brackets", "a: " + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000), "nested deeper than 100 levels"},
		{"10,000 braces", strings.Repeat("{a: ", 9_999) + "1" + strings.Repeat("}", 9_999), "nested deeper than 100 levels"},
		{"10,000 dashes", "a:\n" + strings.Repeat("- ", 9_990) + "1", "nested deeper than 100 levels"},
		{"open brackets", "a: " + strings.Repeat("[", 9_000), "not valid YAML"},
		{"a million brackets", strings.Repeat("[", 1_000_000), "not valid YAML"},
		{"half a million values", "a: [" + strings.Repeat("1,", 500_000) + "]", "far more than the limit of 100000 values"},
		{"too many values", "a: [" + strings.Repeat("1,", 100_000) + "]", "more than 100000 values, the limit"},
		{"too long", "a: " + strings.Repeat("x", 1<<20), "the limit is 1048576 (1 MiB)"},
		{"10,001 values", "a: " + axis(10_001), "more than 10000 experiments, the limit"},
		{"product", "a: " + axis(1000) + "\nb: " + axis(11), "line 2, column 1: b: the sweep has more than 10000 experiments, the limit"},
		{"10^30 by product", strings.Join([]string{"a: ", "\nb: ", "\nc: ", "\nd: ", "\ne: ", "\nf: ", "\ng: ", "\nh: ", "\ni: ", "\nj: ", "\n"}, axis(1000)), "more than 10000 experiments, the limit"},
		{"invalid UTF-8", "a: 1\nb: x\xff\n", "line 2, column 5: the config is not valid UTF-8"},
		{"replacement character, then invalid", "a: \ufffd\nb: \xc3\n", "line 2, column 4: the config is not valid UTF-8"},
		{"UTF-16", "\xff\xfea\x00", "not valid UTF-8"},
		{"NUL", "a: 1\nb: \x00\n", "line 2, column 4: the config has a NUL byte"},
		{"NUL in quotes", `a: "\0"`, "line 1, column 4: a text has a NUL character"},
		{"duplicate", "a: 1\nb: 2\na: 3\n", `line 3, column 1: a: the key "a" is there twice, first in line 1`},
		{"nested duplicate", "a: {b: 1, c: 2, b: 3}", `line 1, column 17: b: the key "b" is there twice`},
		{"dotted duplicate", "a: {b: [1, 2]}\na.b: [3, 4]", "once nested and once with a dot"},
		{"object", "a: !!python/object/apply:os.system [x]", "line 1, column 4: the tag !!python/object/apply:os.system can run code"},
		{"key is a list", "? [a]\n: 1", "a key is a list or a map"},
		{"merge of a number", "a: &a 1\nb: {<<: *a}", "a merge key needs a map"},
		{"list", "- 1", "not a map at its top level"},
		{"text", "hello", "not a map at its top level"},
		{"empty", "", "empty"},
		{"only a comment", "# x\n", "empty"},
		{"two documents", "a: 1\n---\nb: 2\n", "line 2: the config is not valid YAML: a second document"},
		{"list in a list that is no literal", "a: [[2020-01-01], [2]]", "cannot be handed on as one value"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := spec.Parse(c.text, spec.Options{})
			if _, ok := errors.AsType[*spec.Error](err); !ok || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %.300v, want an *Error that says %q", err, c.want)
			}
			if len(err.Error()) > 2000 {
				t.Errorf("the message has %d bytes", len(err.Error()))
			}
		})
	}
}

// TestBombsCostLittle counts what is allocated, which bounds time and memory: a bomb must not cost much more than its text.
func TestBombsCostLittle(t *testing.T) {
	for name, text := range map[string]string{
		"aliases": bomb(),
		"merges":  mergeBomb(),
		"nesting": "a: " + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000),
	} {
		allocs := testing.AllocsPerRun(1, func() {
			if _, err := spec.Parse(text, spec.Options{}); err == nil {
				t.Errorf("%s: accepted", name)
			}
		})
		if allocs > 1_000_000 {
			t.Errorf("%s: %.0f allocations", name, allocs)
		}
	}
}

// TestAtTheLimit says: what is just within the limits works.
func TestAtTheLimit(t *testing.T) {
	made, err := spec.Parse("agent: x\na: ["+strings.TrimSuffix(strings.Repeat("1, ", 10_000), ", ")+"]", spec.Options{})
	if err != nil || made.Count != 10_000 {
		t.Fatalf("%v, %v", made, err)
	}
	if out, err := spec.Render(&made.Spec, 9_999, spec.Handed{}); err != nil || out != "agent: x\na: 1" {
		t.Errorf("%q, %v", out, err)
	}
	for _, n := range []int{-1, 10_000} {
		if _, err := spec.Render(&made.Spec, n, spec.Handed{}); err == nil {
			t.Errorf("experiment %d was rendered", n)
		}
	}
	if _, err := spec.Parse("a: "+strings.Repeat("[", 99)+"1"+strings.Repeat("]", 99), spec.Options{}); err != nil {
		t.Errorf("99 levels: %v", err)
	}
}

// TestStrangeNumbersAreData says: outside of cvlab's own keys, numbers that no float holds are the user's business.
func TestStrangeNumbersAreData(t *testing.T) {
	made, err := spec.Parse("a: [1e309, .nan, -.inf, 99999999999999999999, 0x10, 1_000]\nepochs: 1e309\n", spec.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range made.Spec.Axes[0].Values {
		got = append(got, string(v))
	}
	if s := strings.Join(got, " "); s != `"1e309" ".nan" "-.inf" 99999999999999999999 16 1000` {
		t.Errorf("shown as %s", s)
	}
	if made.Spec.Epochs != 0 {
		t.Errorf("epochs %d", made.Spec.Epochs)
	}
}

// TestErrorsPointAtTheMistake checks place and hint of what people get wrong most.
func TestErrorsPointAtTheMistake(t *testing.T) {
	long := strings.Repeat("k: {a: 1}\n", 1)
	for i := range 200 {
		long += fmt.Sprintf("key%d: value\n", i)
	}
	for _, c := range []struct {
		name, text   string
		line, column int
		hint         string
	}{
		{"tab", "a:\n\tb: 1\n", 2, 1, "spaces"},
		{"tab after spaces", "a:\n  b: 1\n \tc: 2\n", 3, 2, "spaces"},
		{"colon", "a: 1\nname: run: 7\n", 2, 10, "quotes"},
		{"bracket", "a: 1\nlr: [0.1, 0.2\nb: 2\n", 2, 5, "close every"},
		{"brace", "a: {b: 1\n", 1, 4, "close every"},
		{"quotes", "a: 1\nb: \"x\n", 2, 4, "quotes"},
		{"indentation", "a: 1\n  b: 2\n", 2, 3, "indentation"},
		{"dedent", "x:\n    a: 1\n  b: 2\n", 3, 3, "indentation"},
		{"far down", long + "    bad: 1\n", 202, 5, "indentation"},
		{"star", "a: 1\nb: *.png\n", 2, 4, "quotes"},
		{"at sign", "a: @x\n", 1, 4, "quotes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := spec.Parse(c.text, spec.Options{})
			bad, ok := errors.AsType[*spec.Error](err)
			if !ok {
				t.Fatalf("got %v", err)
			}
			p := bad.Problems[0]
			if p.Line != c.line || p.Column != c.column || !strings.Contains(p.Hint, c.hint) {
				t.Errorf("line %d, column %d, hint %q; want %d, %d, %q\n%v", p.Line, p.Column, p.Hint, c.line, c.column, c.hint, err)
			}
		})
	}
}
