package spec

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxSetWork bounds bytes of text times number of edits, since each edit reads the text again.
const maxSetWork = 8 << 20

// withSets makes the edits of --set key=value in a text, one after the other. The rest of the text stays as it was written.
func withSets(text string, sets []string) (string, error) {
	if len(sets) == 0 {
		return text, nil
	}
	if err := checkText(text); err != nil {
		return "", err
	}
	if (len(text)+1024)*len(sets) > maxSetWork {
		return "", refuse(Problem{Message: fmt.Sprintf("%d settings are too many for a config of %d bytes", len(sets), len(text)), Hint: "write them into the config"})
	}
	for _, set := range sets {
		key, val, ok := strings.Cut(set, "=")
		key = strings.TrimSpace(key)
		if !ok || key == "" || slices.Contains(strings.Split(key, "."), "") || hasControl(key) {
			return "", refuse(Problem{Message: fmt.Sprintf("the setting %q is not key=value", clip(set, 60)), Hint: "write --set lr=0.1, --set optimizer.lr=0.1 or --set 'lr=[0.1, 0.01]'"})
		}
		var err error
		if text, err = withSet(text, key, val); err != nil {
			return "", err
		}
	}
	return text, nil
}

func withSet(text, key, val string) (string, error) {
	inline, v, err := setValue(key, val)
	if err != nil {
		return "", err
	}
	parts := strings.Split(key, ".")
	if text == "" {
		return entryText(parts, inline) + "\n", nil
	}
	root, err := load(text)
	if err != nil {
		return "", err
	}
	m, p, rest, err := locate(root, parts)
	if err != nil {
		return "", err
	}
	src := newSource(text)
	var edits []edit
	var done bool
	var want *value
	if p != nil {
		want = replaced(root, map[*pair]*value{p: v})
		edits, done = src.replaceValue(p, piece{text: inline})
	} else {
		want = inserted(root, m, newPair(rest, v))
		edits, done = src.insertPair(m, entryText(rest, inline))
	}
	if out, ok := applyEdits(text, edits); ok && done && holds(out, want) {
		return out, nil
	}
	if out, ok := anew(want); ok {
		return out, nil
	}
	return "", refuse(Problem{Key: key, Message: "this setting cannot be written into the config", Hint: "change the config itself"})
}

// setValue reads the value of a setting and gives it on one line.
func setValue(key, val string) (string, *value, error) {
	fail := func(err error) (string, *value, error) {
		p := Problem{Key: key, Message: fmt.Sprintf("the value %q is not YAML", clip(val, 60)), Hint: "put texts with special characters in quotes"}
		if err != nil {
			p.Message += ": " + err.Error()
		}
		return "", nil, refuse(p)
	}
	if err := checkText(val); err != nil {
		return fail(err)
	}
	node, err := decode(val)
	if err != nil {
		return fail(err)
	}
	if node == nil {
		node = &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}
	}
	v, err := resolve(node)
	if err != nil {
		return fail(err)
	}
	inline := "null"
	if !v.isNull() {
		src := newSource(val)
		inline = val[src.start(node):src.end(node)]
	}
	if got, err := load("key: " + inline + "\n"); err == nil && !strings.Contains(inline, "\n") && len(got.pairs) == 1 && equal(got.pairs[0].val, v) {
		return inline, v, nil
	}
	flow := v.node(keep{})
	flow.Style |= yaml.FlowStyle
	out, err := encodeNode(flow)
	if err != nil {
		return fail(err)
	}
	out = strings.TrimSuffix(out, "\n")
	got, err := load("key: " + out + "\n")
	if err != nil || !equal(got.pairs[0].val, v) {
		return fail(err)
	}
	return out, v, nil
}

// locate finds the pair that a dotted key names, or the map to put it into and what is missing of its path there. A key that
// has the dots in its own name goes first.
func locate(m *value, parts []string) (*value, *pair, []string, error) {
	for n := len(parts); n > 0; n-- {
		p := m.get(strings.Join(parts[:n], "."))
		switch {
		case p == nil:
			continue
		case n == len(parts):
			return m, p, nil, nil
		case !p.val.isMap():
			name := strings.Join(parts[:n], ".")
			return nil, nil, nil, refuse(Problem{
				Key: strings.Join(parts, "."), Message: fmt.Sprintf("%s is not a map in the config, so nothing can be set in it", clip(name, 60)),
				Hint: fmt.Sprintf("set %s as a whole", clip(name, 60)),
			})
		}
		return locate(p.val, parts[n:])
	}
	return m, nil, parts, nil
}

// newPair nests a value below a path.
func newPair(parts []string, v *value) *pair {
	for i := len(parts) - 1; i > 0; i-- {
		v = &value{kind: yaml.MappingNode, tag: "!!map", pairs: []*pair{{key: keyNode(parts[i]), val: v}}}
	}
	return &pair{key: keyNode(parts[0]), val: v}
}

var plainKey = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*$`)

func isPlainKey(s string) bool {
	return plainKey.MatchString(s) && !pyBool.MatchString(s) && !pyNull.MatchString(s)
}

func keyNode(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	if !isPlainKey(s) {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// entryText writes a path with its value on one line: a: {b: value}.
func entryText(parts []string, inline string) string {
	key := parts[0]
	if !isPlainKey(key) {
		key = strconv.QuoteToASCII(key)
	}
	if len(parts) > 1 {
		inline = "{" + entryText(parts[1:], inline) + "}"
	}
	return key + ": " + inline
}

// inserted copies a tree with one more pair in one of its maps.
func inserted(v, into *value, p *pair) *value {
	out := *v
	if v == into {
		out.pairs = append(slices.Clone(v.pairs), p)
		return &out
	}
	out.pairs = make([]*pair, len(v.pairs))
	for i, old := range v.pairs {
		val := old.val
		if val.isMap() {
			val = inserted(val, into, p)
		}
		out.pairs[i] = &pair{key: old.key, val: val, merged: old.merged}
	}
	return &out
}

// insertPair writes a pair behind the last one of a map.
func (s *source) insertPair(m *value, entry string) ([]edit, bool) {
	if m.at == nil || m.at.Kind != yaml.MappingNode {
		return nil, false
	}
	c := m.at.Content
	if m.at.Style&yaml.FlowStyle != 0 {
		end := s.end(m.at) - 1
		if end < 0 || s.text[end] != '}' {
			return nil, false
		}
		if len(c) > 0 {
			end = s.pairEnd(c[len(c)-2], c[len(c)-1])
			entry = ", " + entry
		}
		return []edit{{end, end, entry}}, true
	}
	if len(c) < 2 {
		return nil, false
	}
	end, ok := s.restOfLine(s.pairEnd(c[len(c)-2], c[len(c)-1]))
	if !ok {
		return nil, false
	}
	entry = strings.Repeat(" ", s.column(s.start(c[0]))) + entry + "\n"
	if end > 0 && s.text[end-1] != '\n' && s.text[end-1] != '\r' {
		entry = "\n" + entry
	}
	return []edit{{end, end, entry}}, true
}
