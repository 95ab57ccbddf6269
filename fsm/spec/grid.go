package spec

import (
	"encoding/json"
	"fmt"

	"github.com/deveronica/cvlab/fsm"
)

// axis is one swept key. A list of one value is an axis as well, though it sweeps nothing: its value is the one item.
type axis struct {
	key    string
	pair   *pair
	values []*value
}

// axesOf finds the axes of a config in document order, as cvlab-kit flattens it: maps are gone through, anything else is a
// value, and a value that is a list is an axis whatever it means. The cvlab: block and the device are not for cvlab-kit.
func axesOf(root *value) ([]axis, error) {
	w := gridWalk{seen: map[string]bool{}}
	w.walk(root, "")
	for _, a := range w.found {
		if w.twice[a.key] {
			return nil, refuse(at(a.pair.key, Problem{
				Key: a.key, Message: "the swept key is there twice, once nested and once with a dot in its name", Hint: "remove one of them",
			}))
		}
	}
	n := 1
	for _, a := range w.found {
		if n > MaxSweep/len(a.values) { // before multiplying, which could overflow
			return nil, refuse(at(a.pair.key, Problem{
				Key: a.key, Message: fmt.Sprintf("the sweep has more than %d experiments, the limit", MaxSweep),
				Hint: `shorten a list; a list that is one value is written as text, "[0.5, 0.5]"; cvlab: {sweep: false} hands lists on as they are`,
			}))
		}
		n *= len(a.values)
	}
	return w.found, nil
}

type gridWalk struct {
	found []axis
	seen  map[string]bool
	twice map[string]bool
}

func (w *gridWalk) walk(v *value, prefix string) {
	for _, p := range v.pairs {
		if prefix == "" && (p.key.Value == blockKey || p.key.Value == deviceKey) {
			continue
		}
		key := prefix + p.key.Value
		if p.val.isMap() {
			w.walk(p.val, key+".")
			continue
		}
		if w.seen[key] {
			if w.twice == nil {
				w.twice = map[string]bool{}
			}
			w.twice[key] = true
		}
		w.seen[key] = true
		if p.val.isList() && len(p.val.items) > 0 {
			w.found = append(w.found, axis{key: key, pair: p, values: p.val.items})
		}
	}
}

// shownAxes gives the axes as the state machine stores them: those that sweep something.
func shownAxes(axes []axis) []fsm.Axis {
	var out []fsm.Axis
	for _, a := range axes {
		if len(a.values) < 2 {
			continue
		}
		values := make([]json.RawMessage, len(a.values))
		for i, v := range a.values {
			values[i] = v.json()
		}
		out = append(out, fsm.Axis{Key: a.key, Values: values})
	}
	return out
}
