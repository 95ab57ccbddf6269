package sched

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/deveronica/cvlab/fsm"
)

// need is what an experiment asks of a machine. Experiments with the same need share one, so that the second of ten
// thousand that find no slot costs nothing.
type need struct {
	needKey
	where   map[string]string
	indexes []int
	nodeID  string // of the node named, "" when there is none such
	// full is set for the rest of a pass once no slot was found: during a pass slots are only taken.
	full bool
	// sought is set once a machine to keep cards of was looked for.
	sought bool
}

type needKey struct {
	gpus   int    // of each machine; 0 is a CPU slot
	nodes  int    // machines at once, at least 1
	node   string // name or ID; "" is anywhere
	memory uint64
	// indexes and where are the texts of the need's fields of the same names.
	indexText, whereText string
	// avoid is the ID of a machine to stay away from; strictly means: as long as another one could serve.
	avoid    string
	strictly bool
	// kit is set when cvlab-kit runs it.
	kit bool
}

// whereGPU is the key of "where" that is matched against a card's name instead of a label.
const whereGPU = "gpu"

func (s *survey) keyOf(spec *fsm.Spec) needKey {
	d := spec.Device
	k := needKey{nodes: max(1, d.Nodes), node: d.Node, memory: d.Memory, whereText: whereText(spec.Where), kit: spec.NeedsKit()}
	switch {
	case d.Kind == fsm.DeviceGPU:
		k.gpus = max(1, d.Count)
	case d.Kind == fsm.DeviceAuto && s.hasGPU:
		k.gpus = 1
	}
	if k.gpus == 0 {
		k.memory = 0
		return k
	}
	if indexes := indexesOf(d); len(indexes) > 0 {
		k.gpus, k.indexText = len(indexes), joinInts(indexes)
	}
	return k
}

// indexesOf gives the asked indexes, sorted and each once; none without a node, since index 1 of anywhere means nothing.
func indexesOf(d fsm.Device) []int {
	if d.Node == "" {
		return nil
	}
	return slices.Compact(slices.Sorted(slices.Values(d.Indexes)))
}

func whereText(where map[string]string) string {
	var parts []string
	for _, k := range sortedKeys(where) {
		parts = append(parts, k+"="+where[k])
	}
	return strings.Join(parts, ", ")
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

func joinInts(numbers []int) string {
	var parts []string
	for _, n := range numbers {
		parts = append(parts, strconv.Itoa(n))
	}
	return strings.Join(parts, ", ")
}

// large says whether it needs several cards or several machines at once.
func (k needKey) large() bool { return k.gpus > 1 || k.nodes > 1 }

// standing is how a card stands to a need.
type standing int

const (
	usable  standing = iota
	unwell           // its state is not ok
	held             // by an open attempt
	foreign          // somebody else's process leaves too little
	short            // too little memory is free, though no foreign process is there
	kept             // for the first waiting experiment that needs several at once
)

func (n *need) standing(c *card) standing {
	switch {
	case c.state != StateOK:
		return unwell
	case c.heldBy != 0:
		return held
	case c.tier == tierForeign && c.free < max(n.memory, c.total/2):
		return foreign
	case c.free < n.memory:
		return short
	case c.from(n):
		return kept
	}
	return usable
}

// asked says whether the card is one of the sort that the need names: its index, its name, its size.
func (n *need) asked(c *card) bool {
	return (len(n.indexes) == 0 || slices.Contains(n.indexes, c.Index)) && n.named(c) && c.total >= n.memory
}

// named says whether the card's name holds the words asked for, in any case.
func (n *need) named(c *card) bool {
	return strings.Contains(strings.ToLower(c.Name), strings.ToLower(n.where[whereGPU]))
}

// verdict is how one machine stands to a need.
type verdict struct {
	*machine
	// unfit says why the machine cannot take it however much work ends; "" when it can, now or later.
	unfit string
	asked []*card // cards of the sort asked for
	give  []*card // those of them that can be given now, best first
}

// enough says whether the machine can take it now.
func (v verdict) enough(n *need) bool {
	if v.unfit != "" {
		return false
	}
	if n.gpus == 0 {
		return v.slots(n) > 0
	}
	return len(v.give) >= n.gpus
}

// slots counts the CPU slots that can be given to a need now.
func (v verdict) slots(n *need) int {
	if v.slot.from(n) {
		return max(0, v.freeSlots()-1)
	}
	return v.freeSlots()
}

// has counts what the machine can give now, at most what is asked of it.
func (v verdict) has(n *need) int {
	if n.gpus == 0 {
		return min(1, v.slots(n))
	}
	return min(n.gpus, len(v.give))
}

// judge compares one machine with a need, leaving what the need avoids to the caller.
func (n *need) judge(m *machine) verdict {
	v := verdict{machine: m}
	if v.unfit = n.unfit(m); v.unfit != "" {
		return v
	}
	if n.gpus == 0 {
		if m.CPUSlots == 0 {
			v.unfit = "has no CPU slots"
		}
		return v
	}
	for _, c := range m.cards {
		if !n.asked(c) {
			continue
		}
		v.asked = append(v.asked, c)
		if n.standing(c) == usable {
			v.give = append(v.give, c)
		}
	}
	slices.SortStableFunc(v.give, better)
	if n.couldServe(v.asked) < n.gpus {
		v.unfit = n.tooFew(v)
	}
	return v
}

// couldServe counts the cards that serve once the work of the queue on them has ended. A foreign process may stay for
// ever, so its card does not count.
func (n *need) couldServe(cards []*card) int {
	count := 0
	for _, c := range cards {
		if s := n.standing(c); s != unwell && s != foreign {
			count++
		}
	}
	return count
}
