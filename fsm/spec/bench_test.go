package spec_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/deveronica/cvlab/fsm/spec"
)

func BenchmarkParseMebibyte(b *testing.B) {
	var text strings.Builder
	text.WriteString("agent: supervised\nlr: [0.1, 0.2]\n")
	for i := 0; text.Len() < spec.MaxText-100; i++ {
		fmt.Fprintf(&text, "key%d: some text that is about as long as a value is  # %d\n", i, i)
	}
	b.SetBytes(int64(text.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := spec.Parse(text.String(), spec.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseSweep10000(b *testing.B) {
	list := "[" + strings.TrimSuffix(strings.Repeat("0.1, ", 100), ", ") + "]"
	text := "agent: supervised\na: " + list + "\nb: " + list + "\n"
	b.ReportAllocs()
	for b.Loop() {
		if made, err := spec.Parse(text, spec.Options{}); err != nil || made.Count != 10_000 {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseBomb(b *testing.B) {
	for name, text := range map[string]string{
		"aliases": bomb(), "merges": mergeBomb(), "nesting": "a: " + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000),
		"brackets": strings.Repeat("[", 1_000_000), "axis": "a: [" + strings.Repeat("1,", 500_000) + "]",
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := spec.Parse(text, spec.Options{}); err == nil {
					b.Fatal("accepted")
				}
			}
		})
	}
}

func BenchmarkRender(b *testing.B) {
	made, err := spec.Parse("agent: supervised\nlr: [0.1, 0.2]\noptimizer:\n  name: [a, b]\ndevice: 0\ncvlab: {priority: high}\n", spec.Options{})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := spec.Render(&made.Spec, 3, spec.Handed{}); err != nil {
			b.Fatal(err)
		}
	}
}
