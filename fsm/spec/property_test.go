package spec_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"

	"github.com/deveronica/cvlab/fsm/spec"
)

// chunk is one top-level entry of a generated config: how it is written, and what each experiment must find there.
type chunk struct {
	key  string
	text string
	axes []int // lengths of the axes in it, in order
	// value gives the data for the choices of its axes; nil for what is taken out.
	value func(pick []int) any
	// kept chunks must come out byte by byte as they went in.
	kept bool
}

// scalar is a value that can stand anywhere, as written and as read.
type scalar struct {
	text string
	data any
}

func drawScalar(t *rapid.T, flow bool) scalar {
	list := []scalar{
		{"1", 1}, {"0.5", 0.5}, {"-3", -3}, {"true", true}, {"plain", "plain"}, {"two words", "two words"}, {"~", nil},
		{`"quo\"ted, [1] # not a comment"`, `quo"ted, [1] # not a comment`}, {`'it''s: {x}'`, "it's: {x}"}, {"한국어", "한국어"},
		{"adam(lr=0.1)", "adam(lr=0.1)"}, {`"tab\there"`, "tab\there"}, {"!!str 12", "12"}, {"a#b", "a#b"}, {"''", ""},
	}
	if !flow {
		list = append(list, scalar{"adam(lr=0.1, wd=1)", "adam(lr=0.1, wd=1)"})
	}
	return rapid.SampledFrom(list).Draw(t, "scalar")
}

func drawComment(t *rapid.T) string {
	return rapid.SampledFrom([]string{"", "", "  # a comment", " # with [brackets, 'quotes and: colons"}).Draw(t, "comment")
}

func drawKept(t *rapid.T, key string) chunk {
	s := drawScalar(t, false)
	c := chunk{key: key, kept: true}
	switch rapid.IntRange(0, 5).Draw(t, "kept") {
	case 0:
		c.text = fmt.Sprintf("%s: %s%s\n", key, s.text, drawComment(t))
		c.value = func([]int) any { return s.data }
	case 1:
		c.text = fmt.Sprintf("%s:%s\n    sub: %s\n    deep: {a: 1, b: {c: 2}}%s\n", key, drawComment(t), s.text, drawComment(t))
		c.value = func([]int) any {
			return map[string]any{"sub": s.data, "deep": map[string]any{"a": 1, "b": map[string]any{"c": 2}}}
		}
	case 2:
		c.text = fmt.Sprintf("%s: |-\n  line # no comment\n   more: [1, 2]\n\n  end\n", key)
		c.value = func([]int) any { return "line # no comment\n more: [1, 2]\n\nend" }
	case 3:
		c.text = fmt.Sprintf("%s: !!python/tuple [1, 2]%s\n", key, drawComment(t))
		c.value = func([]int) any { return []any{1, 2} }
	case 4:
		c.text = fmt.Sprintf("%s: \"[0.5, 0.5]\"%s\n", key, drawComment(t))
		c.value = func([]int) any { return "[0.5, 0.5]" }
	default:
		c.text = fmt.Sprintf("%s: folded over\n  two lines%s\n", key, drawComment(t))
		c.value = func([]int) any { return "folded over two lines" }
	}
	return c
}

// drawItem gives an item of a list in block style, indented as one, and its data once it is handed on to cvlab-kit.
func drawItem(t *rapid.T) (string, any) {
	s := drawScalar(t, false)
	switch rapid.IntRange(0, 6).Draw(t, "item") {
	case 0:
		return fmt.Sprintf("name: %s\n    more: {x: [1, 'b']}\n", s.text), map[string]any{"name": s.data, "more": map[string]any{"x": "[1, 'b']"}}
	case 1:
		return "|-\n    text\n      deeper\n", "text\n  deeper"
	case 2:
		return "[1, two, ~, true]\n", "[1, 'two', None, True]"
	case 3:
		return "- 1\n    - 2\n", "[1, 2]"
	case 4:
		return "{a: {b: [], c: 3}}\n", map[string]any{"a": map[string]any{"b": "[]", "c": 3}}
	}
	return s.text + drawComment(t) + "\n", s.data
}

func drawAxis(t *rapid.T, key string) chunk {
	n := rapid.IntRange(2, 4).Draw(t, "length")
	c := chunk{key: key, axes: []int{n}}
	data := make([]any, n)
	if rapid.Bool().Draw(t, "block") {
		dent := rapid.SampledFrom([]string{"", "  "}).Draw(t, "dent")
		c.text = key + ":" + drawComment(t) + "\n"
		for i := range n {
			var text string
			text, data[i] = drawItem(t)
			c.text += dent + "- " + strings.ReplaceAll(text, "\n    ", "\n"+dent+"  ")
		}
		c.value = func(pick []int) any { return data[pick[0]] }
		return c
	}
	var items []string
	for i := range n {
		if rapid.IntRange(0, 4).Draw(t, "nested") == 0 {
			items, data[i] = append(items, `[1, "b"]`), "[1, 'b']"
			continue
		}
		s := drawScalar(t, true)
		items, data[i] = append(items, s.text), s.data
	}
	list := "[" + strings.Join(items, rapid.SampledFrom([]string{", ", ",\n   ", ", # why\n   "}).Draw(t, "comma")) + "]"
	if rapid.Bool().Draw(t, "inside") {
		c.text = fmt.Sprintf("%s: {before: 1, list: %s, after: 2}%s\n", key, list, drawComment(t))
		c.value = func(pick []int) any { return map[string]any{"before": 1, "list": data[pick[0]], "after": 2} }
		return c
	}
	c.text = fmt.Sprintf("%s: %s%s\n", key, list, drawComment(t))
	c.value = func(pick []int) any { return data[pick[0]] }
	return c
}

func drawConfig(t *rapid.T) []chunk {
	var all []chunk
	for i := range rapid.IntRange(1, 7).Draw(t, "chunks") {
		key := fmt.Sprintf("k%d", i)
		switch rapid.IntRange(0, 5).Draw(t, "kind") {
		case 0, 1, 2:
			all = append(all, drawKept(t, key))
		case 3, 4:
			all = append(all, drawAxis(t, key))
		default:
			all = append(all, chunk{text: "# a comment of its own\n\n", kept: true})
		}
	}
	device := rapid.SampledFrom([]string{"", "", "device: cpu\n", "device: [0, 1]  # two\n", "device:\n- 0\n- 1\n", "device:\n", "device: box-1:[0,1]\n"}).Draw(t, "device")
	if device != "" {
		at := rapid.IntRange(0, len(all)).Draw(t, "where")
		all = append(all[:at:at], append([]chunk{{key: "device", text: device, value: func([]int) any { return 0 }}}, all[at:]...)...)
	}
	block := rapid.SampledFrom([]string{"", "cvlab:\n  env: {A: '1'}\n  # gone\n", "cvlab: {where: {gpu: \"x # y\"}}  # gone\n", "cvlab:\n  env:\n    B: |\n      x\n\n      y\n"}).Draw(t, "cvlab")
	if block != "" {
		at := rapid.IntRange(0, len(all)).Draw(t, "where")
		all = append(all[:at:at], append([]chunk{{text: block}}, all[at:]...)...)
	}
	return all
}

// TestRenderIsTheCombination says: whatever the style of a config, each experiment is handed exactly its combination, and
// all that is not swept comes through byte by byte.
func TestRenderIsTheCombination(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		chunks := drawConfig(t)
		var text strings.Builder
		count := 1
		for _, c := range chunks {
			text.WriteString(c.text)
			for _, n := range c.axes {
				count *= n
			}
		}
		config := text.String()
		if rapid.Bool().Draw(t, "no last line end") {
			config = strings.TrimSuffix(config, "\n")
		}
		made, err := spec.Parse(config, spec.Options{})
		if !hasKeys(chunks) {
			if err == nil && !strings.Contains(config, "cvlab:") {
				t.Fatalf("accepted a config without keys")
			}
			return
		}
		if err != nil {
			t.Fatalf("refused: %v\n%s", err, config)
		}
		if made.Count != count {
			t.Fatalf("%d experiments, not %d\n%s", made.Count, count, config)
		}
		ordinal := rapid.IntRange(0, count-1).Draw(t, "ordinal")
		cpu := rapid.Bool().Draw(t, "cpu")
		out, err := spec.Render(&made.Spec, ordinal, spec.Handed{CPU: cpu})
		if err != nil {
			t.Fatalf("render: %v\n%s", err, config)
		}
		checkRendered(t, chunks, config, out, ordinal, cpu)
	})
}

func hasKeys(chunks []chunk) bool {
	for _, c := range chunks {
		if c.key != "" {
			return true
		}
	}
	return false
}

func checkRendered(t *rapid.T, chunks []chunk, config, out string, ordinal int, cpu bool) {
	// The last axis turns fastest: take the ordinal apart from behind.
	picks := make([][]int, len(chunks))
	for i := len(chunks) - 1; i >= 0; i-- {
		for j := len(chunks[i].axes) - 1; j >= 0; j-- {
			picks[i] = append([]int{ordinal % chunks[i].axes[j]}, picks[i]...)
			ordinal /= chunks[i].axes[j]
		}
	}
	want := map[string]any{}
	rest := out
	for i, c := range chunks {
		if c.key != "" && (c.key != "device" || !cpu) {
			want[c.key] = c.value(picks[i])
		}
		if c.kept {
			_, after, ok := strings.Cut(rest, strings.TrimSuffix(c.text, "\n"))
			if !ok {
				t.Fatalf("lost or changed:\n%s\nin:\n%s\nfrom:\n%s", c.text, out, config)
			}
			rest = after
		}
	}
	var got map[string]any
	if err := yaml.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("not YAML: %v\n%s", err, out)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("other data (-want +got):\n%s\nhanded on:\n%s\nfrom:\n%s", diff, out, config)
	}
	if strings.Contains(out, "cvlab:") || strings.Contains(out, "gone") {
		t.Fatalf("the cvlab: block is still there:\n%s", out)
	}
}

// TestOrderIsTheKits says: experiments come in cvlab-kit's order, the last axis turning fastest.
func TestOrderIsTheKits(t *testing.T) {
	made, err := spec.Parse("lr: [.1, .2]\nbs: [1, 2]\n", spec.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for i := range made.Count {
		p := made.Spec.Params(i)
		got = append(got, string(p[0].Value)+","+string(p[1].Value))
	}
	if diff := cmp.Diff([]string{"0.1,1", "0.1,2", "0.2,1", "0.2,2"}, got); diff != "" {
		t.Error(diff)
	}
}
