package sched

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

// A card is idle below these figures: a desktop or a driver takes a little of both.
const (
	idleUse    = 10 // per cent of use
	idleMemory = 10 // per cent of memory
)

// tier ranks cards that may be given out; a smaller one goes first.
type tier int

const (
	tierIdle    tier = iota
	tierInUse        // busy, but with no process that is known: often what an attempt that just ended leaves for a second
	tierForeign      // somebody works on it without the queue
)

// card is one GPU with everything that matters to placing.
type card struct {
	fsm.GPU
	state       string
	tier        tier
	free, total uint64 // bytes
	foreignUser string
	heldBy      uint64 // experiment, 0 for none; also one of this plan
	keep               // for the first waiting experiment that needs several at once
}

// keep says for whom something is withheld from all others.
type keep struct {
	keptBy  *need  // nil for nobody
	keptFor uint64 // experiment
}

// from says whether it is withheld from a need.
func (k keep) from(n *need) bool { return k.keptBy != nil && k.keptBy != n }

// machine is one member with its cards in the order of their indexes.
type machine struct {
	*fsm.Node
	out string // why it takes nothing now, "" when it does
	// silent says how long it was not heard, "" while it is heard often enough, or may be.
	silent string
	cpu    float64
	cards  []*card
	onCPU  []uint64 // experiments in its CPU slots
	slot   keep     // one of its CPU slots
}

func (m *machine) freeSlots() int { return max(0, m.CPUSlots-len(m.onCPU)) }

// survey is the cluster as one plan sees it.
type survey struct {
	view     fsm.View
	now      time.Time
	limits   Limits
	machines []*machine // by name, then ID
	hasGPU   bool       // whether any machine that runs experiments has a GPU at all
	open     map[uint64][]uint64
	// freeCards and freeSlots bound what is left to give, so that a full cluster costs nothing to plan.
	freeCards, freeSlots int
}

func newSurvey(in Input) *survey {
	s := &survey{view: in.View, now: in.Now, limits: in.Limits.orDefault(), open: map[uint64][]uint64{}}
	if t := in.View.Time(); t.After(s.now) {
		s.now = t
	}
	holders, slots := map[string]uint64{}, map[string][]uint64{}
	for a := range in.View.Open("") {
		if e := in.View.Experiment(a.Experiment); e != nil {
			s.open[e.Batch] = append(s.open[e.Batch], e.ID)
		}
		for _, p := range a.Parts() {
			if !p.Open() {
				continue
			}
			for _, uuid := range p.GPUs {
				holders[uuid] = a.Experiment
			}
			if len(p.GPUs) == 0 {
				slots[p.Node] = append(slots[p.Node], a.Experiment)
			}
		}
	}
	for n := range in.View.Nodes() {
		h, heard := in.Health[n.ID]
		m := &machine{Node: n, out: s.outOfService(n, h, heard), cpu: h.CPU, onCPU: slots[n.ID]}
		switch {
		case heard && h.Heard > s.limits.MaxHeard:
			m.silent = heardAgo(h)
		case !heard && in.Leading > s.limits.MaxHeard:
			m.silent = "was not heard since this leader leads"
		}
		m.cards = cardsOf(n, h, holders)
		s.add(m)
	}
	slices.SortFunc(s.machines, func(a, b *machine) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return s
}

func (s *survey) add(m *machine) {
	s.machines = append(s.machines, m)
	s.hasGPU = s.hasGPU || len(m.cards) > 0 && !m.NoExec
	if m.out != "" {
		return
	}
	s.freeSlots += m.freeSlots()
	for _, c := range m.cards {
		if c.heldBy == 0 && c.state == StateOK {
			s.freeCards++
		}
	}
}

// outOfService says why a machine takes nothing, "" when it does.
func (s *survey) outOfService(n *fsm.Node, h Health, heard bool) string {
	switch {
	case n.NoExec:
		return "runs no experiments"
	case n.Draining:
		return "is draining"
	case !heard:
		return "has not been heard yet"
	case h.Heard > s.limits.MaxHeard:
		return heardAgo(h)
	}
	return ""
}

func heardAgo(h Health) string { return fmt.Sprintf("was last heard %s ago", seconds(h.Heard)) }

func cardsOf(n *fsm.Node, h Health, holders map[string]uint64) []*card {
	var cards []*card
	for _, g := range n.GPUs {
		c := &card{GPU: g, total: g.Memory, heldBy: holders[g.UUID], state: "not reported"}
		if i := slices.IndexFunc(h.GPUs, func(x GPUHealth) bool { return x.UUID == g.UUID }); i >= 0 {
			c.measure(h.GPUs[i])
		}
		cards = append(cards, c)
	}
	slices.SortFunc(cards, func(a, b *card) int { return cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(a.UUID, b.UUID)) })
	return cards
}

func (c *card) measure(h GPUHealth) {
	c.state, c.foreignUser = cmp.Or(h.State, "without a state"), h.ForeignUser
	c.total = cmp.Or(h.MemoryTotal, c.Memory)
	c.free = c.total - min(h.MemoryUsed, c.total)
	switch {
	case h.Foreign:
		c.tier = tierForeign
	case h.Utilization > idleUse || h.MemoryUsed > c.total/100*idleMemory:
		c.tier = tierInUse
	}
}
