package spec

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// value is a YAML value with aliases and merge keys resolved, the way Python sees it after loading.
type value struct {
	kind  yaml.Kind // ScalarNode, SequenceNode or MappingNode
	tag   string    // in short form, explicit or resolved
	text  string    // a scalar's text
	plain bool      // a scalar without quotes
	// at is the node that stands in the text in this place (an alias, where one is used); nil where none does, since the
	// value came by way of an alias or a merge key.
	at *yaml.Node
	// from is the node it was made from; nil for values of our own making.
	from *yaml.Node
	// remark is the comment behind the value that this one takes the place of.
	remark string
	items  []*value
	pairs  []*pair
}

type pair struct {
	key *yaml.Node
	val *value
	// merged pairs came by a merge key or have an alias for a key, so their key does not stand in the map's own text.
	merged bool
}

func (v *value) isMap() bool { return v.kind == yaml.MappingNode && v.tag == "!!map" }

// isList says whether Python gets a list: tagged sequences such as tuples are something else.
func (v *value) isList() bool { return v.kind == yaml.SequenceNode && v.tag == "!!seq" }

func (v *value) isScalar() bool { return v.kind == yaml.ScalarNode }

func (v *value) isNull() bool { return v.isScalar() && v.tag == "!!null" }

// get gives the pair of a key of a map; nil when there is none.
func (v *value) get(key string) *pair {
	for _, p := range v.pairs {
		if p.key.Value == key {
			return p
		}
	}
	return nil
}

// place is the node to name in a message about the value.
func (v *value) place() *yaml.Node {
	if v.at != nil {
		return v.at
	}
	return v.from
}

func sameKey(a, b *yaml.Node) bool { return a.Value == b.Value && a.ShortTag() == b.ShortTag() }

// equal says whether Python would get the same data, in the same order, from both.
func equal(a, b *value) bool {
	if a.isNull() && b.isNull() { // there are four ways to write it
		return true
	}
	if a.kind != b.kind || a.tag != b.tag || a.text != b.text || len(a.items) != len(b.items) || len(a.pairs) != len(b.pairs) {
		return false
	}
	if a.isScalar() && a.pythonKind() != b.pythonKind() {
		return false
	}
	for i := range a.items {
		if !equal(a.items[i], b.items[i]) {
			return false
		}
	}
	for i := range a.pairs {
		if !sameKey(a.pairs[i].key, b.pairs[i].key) || !equal(a.pairs[i].val, b.pairs[i].val) {
			return false
		}
	}
	return true
}

// builder resolves a tree of nodes into values, counting its work.
type builder struct {
	count int
	open  map[*yaml.Node]bool // anchored nodes on the path, to find one that contains itself
}

// resolve gives the value of a node tree, or the reason why it is refused.
func resolve(root *yaml.Node) (*value, error) {
	b := &builder{open: map[*yaml.Node]bool{}}
	return b.build(root, 0, true)
}

func (b *builder) build(n *yaml.Node, depth int, literal bool) (*value, error) {
	b.count++
	if b.count > MaxNodes {
		return nil, refuse(at(n, Problem{
			Message: fmt.Sprintf("the config stands for more than %d values, the limit", MaxNodes),
			Hint:    "use fewer aliases, or put large data into files that the run reads",
		}))
	}
	if depth > MaxDepth {
		return nil, refuse(at(n, Problem{Message: fmt.Sprintf("the config is nested deeper than %d levels, the limit", MaxDepth), Hint: "are the brackets balanced?"}))
	}
	if n.Kind == yaml.AliasNode {
		v, err := b.build(n.Alias, depth+1, false)
		if err == nil && literal {
			v.at = n
		}
		return v, err
	}
	if n.Anchor != "" {
		if b.open[n] {
			return nil, refuse(at(n, Problem{Message: fmt.Sprintf("the anchor &%s contains itself", clip(n.Anchor, 50))}))
		}
		b.open[n] = true
		defer delete(b.open, n)
	}
	v := &value{kind: n.Kind, tag: n.ShortTag(), from: n}
	if literal {
		v.at = n
	}
	if err := checkTag(n, v.tag); err != nil {
		return nil, err
	}
	switch n.Kind {
	case yaml.ScalarNode:
		v.text, v.plain = n.Value, n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
		return v, checkScalar(n)
	case yaml.SequenceNode:
		return v, b.list(v, depth, literal)
	}
	return v, b.mapping(v, depth, literal)
}

// checkTag refuses tags that make a loader run code. cvlab-kit's own loader refuses them as well, but not every trainer's.
func checkTag(n *yaml.Node, tag string) error {
	for _, bad := range []string{"!!python/object", "!!python/module", "!!python/name"} {
		if strings.HasPrefix(tag, bad) {
			return refuse(at(n, Problem{Message: fmt.Sprintf("the tag %s can run code in the program that loads it", clip(tag, 80)), Hint: "write the value itself"}))
		}
	}
	return nil
}

func checkScalar(n *yaml.Node) error {
	if strings.IndexByte(n.Value, 0) >= 0 {
		return refuse(at(n, Problem{Message: "a text has a NUL character in it", Hint: `remove the "\0"`}))
	}
	return nil
}

func (b *builder) list(v *value, depth int, literal bool) error {
	for _, c := range v.from.Content {
		item, err := b.build(c, depth+1, literal)
		if err != nil {
			return err
		}
		v.items = append(v.items, item)
	}
	return nil
}

func (b *builder) mapping(v *value, depth int, literal bool) error {
	own := make([]*pair, 0, len(v.from.Content)/2)
	seen := map[[2]string]*yaml.Node{}
	for i := 0; i+1 < len(v.from.Content); i += 2 {
		key, c := v.from.Content[i], v.from.Content[i+1]
		byAlias := key.Kind == yaml.AliasNode
		if byAlias {
			key = key.Alias
		}
		if key.Kind != yaml.ScalarNode {
			return refuse(at(v.from.Content[i], Problem{Message: "a key is a list or a map", Hint: "keys are plain texts"}))
		}
		if err := checkScalar(key); err != nil {
			return err
		}
		id := [2]string{key.ShortTag(), key.Value}
		if first := seen[id]; first != nil {
			return refuse(at(key, Problem{
				Key: key.Value, Message: fmt.Sprintf("the key %q is there twice, first in line %d", clip(key.Value, 80), first.Line),
				Hint: "remove one of them",
			}))
		}
		seen[id] = key
		if key.Tag == "!!merge" && v.tag == "!!map" {
			merged, err := b.merge(c, depth)
			if err != nil {
				return err
			}
			v.pairs = append(v.pairs, merged...)
			continue
		}
		val, err := b.build(c, depth+1, literal)
		if err != nil {
			return err
		}
		own = append(own, &pair{key: key, val: val, merged: byAlias})
	}
	v.pairs = overlay(v.pairs, own)
	return nil
}

// merge gives the pairs that a merge key brings in; of several maps the first wins, as in PyYAML.
func (b *builder) merge(n *yaml.Node, depth int) ([]*pair, error) {
	v, err := b.build(n, depth+1, false)
	if err != nil {
		return nil, err
	}
	sources := []*value{v}
	if v.isList() {
		sources = v.items
	}
	var all []*pair
	for i := len(sources) - 1; i >= 0; i-- {
		if !sources[i].isMap() {
			return nil, refuse(at(n, Problem{Key: "<<", Message: "a merge key needs a map, or a list of maps", Hint: "write <<: *name"}))
		}
		for _, p := range sources[i].pairs {
			all = append(all, &pair{key: p.key, val: p.val, merged: true})
		}
	}
	return overlay(nil, all), nil
}

// overlay puts pairs over others: a key that is there keeps its place and gets the new value, as in a Python dict.
func overlay(under, over []*pair) []*pair {
	where := make(map[[2]string]int, len(under)+len(over))
	out := make([]*pair, 0, len(under)+len(over))
	for _, list := range [][]*pair{under, over} {
		for _, p := range list {
			id := [2]string{p.key.ShortTag(), p.key.Value}
			if i, ok := where[id]; ok {
				out[i] = p
				continue
			}
			where[id] = len(out)
			out = append(out, p)
		}
	}
	return out
}
