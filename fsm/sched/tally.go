package sched

import (
	"fmt"
	"slices"
	"strings"
)

// tally sorts cards, or CPU slots, by why they cannot be given to a need.
type tally struct {
	machines, total, free int
	heldBy                []uint64
	held, short           int
	keptFor               []uint64
	kept                  int
	states                []string // of cards that are not ok
	users                 []string // of foreign processes
	foreign               int
}

func (n *need) tally(verdicts ...verdict) *tally {
	t := &tally{}
	for _, v := range verdicts {
		t.machines++
		if n.gpus == 0 {
			t.total += v.CPUSlots
			t.free += v.slots(n)
			if v.slot.from(n) && v.freeSlots() > 0 {
				t.kept++
				t.keptFor = append(t.keptFor, v.slot.keptFor)
			}
			t.held += min(len(v.onCPU), v.CPUSlots)
			t.heldBy = append(t.heldBy, v.onCPU...)
		}
		for _, c := range v.asked {
			t.total++
			t.add(n.standing(c), c)
		}
	}
	return t
}

func (t *tally) add(s standing, c *card) {
	switch s {
	case usable:
		t.free++
	case held:
		t.held++
		t.heldBy = append(t.heldBy, c.heldBy)
	case kept:
		t.kept++
		t.keptFor = append(t.keptFor, c.keptFor)
	case foreign:
		t.foreign++
		if c.foreignUser != "" {
			t.users = append(t.users, c.foreignUser)
		}
	case short:
		t.short++
	case unwell:
		t.states = append(t.states, c.state)
	}
}

// why says in brackets what the cards that are not free do, "" when all are free.
func (t *tally) why() string {
	var parts []string
	if t.held > 0 {
		parts = append(parts, fmt.Sprintf("%d held by %s", t.held, numbered(t.heldBy)))
	}
	if t.kept > 0 {
		parts = append(parts, fmt.Sprintf("%d kept for %s, which needs several at once", t.kept, numbered(t.keptFor)))
	}
	if t.foreign > 0 {
		by := "somebody"
		if users := slices.Compact(slices.Sorted(slices.Values(t.users))); len(users) > 0 {
			by = list(users)
		}
		parts = append(parts, fmt.Sprintf("%d used by %s outside the queue", t.foreign, by))
	}
	if t.short > 0 {
		parts = append(parts, fmt.Sprintf("%d with too little free memory", t.short))
	}
	states := slices.Sorted(slices.Values(t.states))
	for _, s := range slices.Compact(slices.Clone(states)) {
		parts = append(parts, fmt.Sprintf("%d %s", countOf(states, s), s))
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

func countOf(words []string, word string) int {
	n := 0
	for _, w := range words {
		if w == word {
			n++
		}
	}
	return n
}
