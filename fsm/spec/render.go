package spec

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/deveronica/cvlab/fsm"
)

// The top-level keys that Render takes out or changes.
const (
	blockKey  = "cvlab"
	deviceKey = "device"
)

// Handed says how the machine hands the config on.
type Handed struct {
	// CPU takes device out, for an experiment that got no GPU; else it becomes 0, the first GPU that the process sees.
	CPU bool
}

// Render gives the config that the experiment with an ordinal (0-based, below s.Count()) is handed: the submitted text with
// one combination of the sweep, without the cvlab: block, and with device replaced. All else stays as it was written. A spec
// without a config gives "". It fails on an ordinal out of range and on a spec that did not come from this package.
func Render(s *fsm.Spec, ordinal int, d Handed) (string, error) {
	if s.Config == "" {
		return "", nil
	}
	text, err := render(s, ordinal, d)
	if err != nil {
		return "", fmt.Errorf("write the config of experiment %d of its batch: %w", ordinal, err)
	}
	return text, nil
}

func render(s *fsm.Spec, ordinal int, d Handed) (string, error) {
	root, picks, err := chosen(s, ordinal)
	if err != nil {
		return "", err
	}
	r := renderer{root: root, picks: picks, kit: s.NeedsKit(), cpu: d.CPU}
	return r.render(s.Config)
}

// pick is the value that one experiment has of an axis.
type pick struct {
	axis
	value *value
}

// chosen reads the config of a spec again and gives its data with the choices of one experiment.
func chosen(s *fsm.Spec, ordinal int) (*value, []pick, error) {
	n := 1
	for _, a := range s.Axes {
		if len(a.Values) == 0 || n > MaxSweep/len(a.Values) {
			return nil, nil, errors.New("the axes of the spec make no sense")
		}
		n *= len(a.Values)
	}
	if ordinal < 0 || ordinal >= n {
		return nil, nil, fmt.Errorf("the batch has only %d experiments", n)
	}
	root, err := load(s.Config)
	if err != nil {
		return nil, nil, err
	}
	if b := readBlock(root, &report{}); b.whole {
		return root, nil, nil
	}
	axes, err := axesOf(root)
	if err != nil {
		return nil, nil, err
	}
	picks, err := pickFrom(axes, s, ordinal)
	return root, picks, err
}

func pickFrom(axes []axis, s *fsm.Spec, ordinal int) ([]pick, error) {
	choice := s.Choice(ordinal)
	var picks []pick
	for _, a := range axes {
		c := 0
		if len(a.values) > 1 {
			if len(choice) == 0 || s.Axes[len(s.Axes)-len(choice)].Key != a.key || choice[0] >= len(a.values) {
				return nil, errors.New("the axes of the spec are not those of its config")
			}
			c, choice = choice[0], choice[1:]
		} else if s.NeedsKit() { // cvlab-kit does this itself; its text stays as it is
			continue
		}
		picks = append(picks, pick{a, a.values[c]})
	}
	if len(choice) > 0 {
		return nil, errors.New("the axes of the spec are not those of its config")
	}
	return picks, nil
}

// load reads a text whose top level must be a map.
func load(text string) (*value, error) {
	node, err := read(text)
	if err != nil {
		return nil, err
	}
	if node == nil {
		return nil, refuse(Problem{Message: "the config is empty", Hint: "a config is a map of keys and values"})
	}
	root, err := resolve(node)
	if err != nil {
		return nil, err
	}
	if !root.isMap() {
		return nil, refuse(at(node, Problem{Message: "the config is not a map at its top level", Hint: "write key: value lines"}))
	}
	return root, nil
}

type renderer struct {
	root     *value
	picks    []pick
	kit, cpu bool
}

// render edits the text. Where the edit is not safe, or reading the outcome again gives other data than it must, the whole
// is written anew from the data; what is handed on is always right, and nearly always the user's own text.
func (r *renderer) render(text string) (string, error) {
	want, err := r.wanted()
	if err != nil {
		return "", err
	}
	if out, ok := r.edited(text, want); ok && holds(out, want) {
		return out, nil
	}
	if out, ok := anew(want); ok {
		return out, nil
	}
	return "", errors.New("the config cannot be written anew without changing its data; remove exotic YAML from it")
}

// anew writes data from scratch, keeping as much of the user's writing as reads back right.
func anew(want *value) (string, bool) {
	for _, k := range []keep{{comments: true, styles: true}, {styles: true}, {}} {
		if out, err := encode(want, k); err == nil && holds(out, want) {
			return out, true
		}
	}
	return "", false
}

// holds says whether a text reads as the wanted data.
func holds(text string, want *value) bool {
	got, err := load(text)
	return err == nil && equal(got, want)
}

// wanted is the data that the handed-on config must have.
func (r *renderer) wanted() (*value, error) {
	changed := map[*pair]*value{}
	for _, p := range r.picks {
		v := p.value
		if r.kit {
			var err error
			if v, err = withoutLists(v); err != nil {
				return nil, refuse(at(p.value.place(), Problem{
					Key: p.key, Message: "a list inside of a swept list cannot be handed on as one value: " + err.Error(),
					Hint: "dates and tagged values inside of it must be texts in quotes",
				}))
			}
		}
		changed[p.pair] = remarked(v, p.pair.val)
	}
	want := replaced(r.root, changed)
	top := *want
	top.pairs = nil
	for _, p := range want.pairs {
		switch {
		case p.key.Value == blockKey, p.key.Value == deviceKey && r.cpu:
		case p.key.Value == deviceKey:
			top.pairs = append(top.pairs, &pair{key: p.key, val: remarked(&value{kind: yaml.ScalarNode, tag: "!!int", text: "0", plain: true}, p.val)})
		default:
			top.pairs = append(top.pairs, p)
		}
	}
	return &top, nil
}

// replaced copies a map with other values for some of its pairs.
func replaced(v *value, changed map[*pair]*value) *value {
	if !v.isMap() || len(changed) == 0 {
		return v
	}
	out := *v
	out.pairs = make([]*pair, len(v.pairs))
	for i, p := range v.pairs {
		val, ok := changed[p]
		if !ok {
			val = replaced(p.val, changed)
		}
		out.pairs[i] = &pair{key: p.key, val: val, merged: p.merged}
	}
	return &out
}

// remarked copies a value, with the comment behind the one whose place it takes.
func remarked(v, old *value) *value {
	out := *v
	out.remark = old.from.LineComment
	return &out
}

// withoutLists gives a value with all its lists as texts that cvlab-kit reads as data.
func withoutLists(v *value) (*value, error) {
	if v.isList() {
		return v.quoted()
	}
	if !v.isMap() {
		return v, nil
	}
	out := *v
	out.pairs = make([]*pair, len(v.pairs))
	for i, p := range v.pairs {
		val, err := withoutLists(p.val)
		if err != nil {
			return nil, err
		}
		out.pairs[i] = &pair{key: p.key, val: val, merged: p.merged}
	}
	return &out, nil
}

// edited changes the text by the places of its nodes; false when that cannot be done.
func (r *renderer) edited(text string, want *value) (string, bool) {
	src := newSource(text)
	var edits []edit
	for _, p := range r.picks {
		with, ok := src.pieceOf(p.value, r.kit)
		if !ok {
			return "", false
		}
		more, ok := src.replaceValue(p.pair, with)
		if !ok {
			return "", false
		}
		edits = append(edits, more...)
	}
	for _, p := range r.root.pairs {
		var more []edit
		ok := true
		switch {
		case p.key.Value == blockKey, p.key.Value == deviceKey && r.cpu:
			more, ok = src.removePair(r.root, p)
		case p.key.Value == deviceKey:
			more, ok = src.replaceValue(p, piece{text: "0"})
		}
		if !ok {
			return "", false
		}
		edits = append(edits, more...)
	}
	out, ok := applyEdits(text, edits)
	if ok && len(want.pairs) == 0 && r.root.at.Style&yaml.FlowStyle == 0 {
		if out != "" && !strings.HasSuffix(out, "\n") {
			out += "\n"
		}
		out += "{}\n"
	}
	return out, ok
}

// keep says what of the user's writing survives when a config is written anew.
type keep struct{ comments, styles bool }

// encode writes data as YAML, without aliases.
func encode(v *value, k keep) (string, error) { return encodeNode(v.node(k)) }

func encodeNode(n *yaml.Node) (text string, err error) {
	defer func() { // the library panics on trees that it cannot write
		if r := recover(); r != nil {
			text, err = "", fmt.Errorf("yaml: cannot be written: %v", r)
		}
	}()
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(n); err != nil {
		return "", fmt.Errorf("encode yaml: %w", err)
	}
	if err := e.Close(); err != nil {
		return "", fmt.Errorf("encode yaml: %w", err)
	}
	return b.String(), nil
}

// node makes a fresh tree for the encoder.
func (v *value) node(k keep) *yaml.Node {
	n := &yaml.Node{Kind: v.kind, Tag: v.tag, Value: v.text}
	if v.isScalar() && !v.plain {
		n.Style = yaml.DoubleQuotedStyle
	}
	if v.from != nil {
		n.Style |= v.from.Style & yaml.TaggedStyle
		dress(n, v.from, k)
	}
	if k.comments && n.LineComment == "" {
		n.LineComment = v.remark
	}
	for _, item := range v.items {
		n.Content = append(n.Content, item.node(k))
	}
	for _, p := range v.pairs {
		key := &yaml.Node{Kind: yaml.ScalarNode, Tag: p.key.Tag, Value: p.key.Value, Style: p.key.Style & yaml.TaggedStyle}
		if !isPlain(p.key) {
			key.Style |= yaml.DoubleQuotedStyle
		}
		dress(key, p.key, k)
		n.Content = append(n.Content, key, p.val.node(k))
	}
	return n
}

func dress(n, like *yaml.Node, k keep) {
	if k.styles {
		n.Style = like.Style
	}
	if k.comments {
		n.HeadComment, n.LineComment, n.FootComment = like.HeadComment, like.LineComment, like.FootComment
	}
}
