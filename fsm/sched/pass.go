package sched

import (
	"fmt"
	"slices"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

// batch is one submission as a pass sees it; its experiments share all of it.
type batch struct {
	spec    *fsm.Spec
	need    *need    // for experiments that avoid no machine
	running []uint64 // its experiments that run, those of this plan included
	parents []uint64 // not completed yet
	lost    string   // why it can never start, "" if it can
}

func (b *batch) full() bool { return b.spec.MaxParallel > 0 && len(b.running) >= b.spec.MaxParallel }

// cause is why an experiment waits, or what becomes of it.
type cause int

const (
	noSlot cause = iota
	starts
	neverStarts
	afterParents
	notYet
	enoughSiblings
)

// outcome is what one pass decided about one experiment.
type outcome struct {
	cause cause
	*batch
	need  *need
	ahead int       // experiments in front of it that found no slot of the same sort
	on    []verdict // the machines that take it, in the order of ranks
}

// pass goes once through the queue.
type pass struct {
	*survey
	plan    Plan
	batches map[uint64]*batch
	needs   map[needKey]*need
	last    uint64 // the batch seen last, and its number: neighbours in the queue mostly share it
	lastOne *batch
	waiting map[bool]int // without a slot so far; true counts those for GPUs
	keeping bool
	// watch are the experiments whose outcome is wanted.
	watch    map[uint64]bool
	outcomes map[uint64]outcome
}

func newPass(in Input) *pass {
	return &pass{
		survey: newSurvey(in), batches: map[uint64]*batch{}, needs: map[needKey]*need{}, waiting: map[bool]int{},
		outcomes: map[uint64]outcome{},
	}
}

func (p *pass) run() {
	p.withdraw()
	for e := range p.view.ByStatus(fsm.Pending) {
		o := p.visit(e)
		if p.watch[e.ID] {
			p.outcomes[e.ID] = o
		}
	}
}

// withdraw takes back what silent machines have kept from starting. What is started may be running, and is theirs until
// there is proof of its end.
func (p *pass) withdraw() {
	for a := range p.view.Open("") {
		if a.State != fsm.AttemptAssigned {
			continue
		}
		i := slices.IndexFunc(p.machines, func(m *machine) bool { return m.silent != "" && a.On(m.ID) != nil })
		if i < 0 {
			continue
		}
		m := p.machines[i]
		w := Withdrawal{Token: a.Token, Reason: fmt.Sprintf("%s %s and had not started it", m.Name, m.silent)}
		if len(a.Gang) > 0 {
			w.Node = m.ID
			if a.On(m.ID).State() == fsm.AttemptStarted {
				w.Reason = fmt.Sprintf("%s %s while its gang was not ready", m.Name, m.silent)
			}
		}
		p.plan.Withdrawals = append(p.plan.Withdrawals, w)
	}
}

func (p *pass) visit(e *fsm.Experiment) outcome {
	b := p.batchOf(e.Batch)
	o := outcome{batch: b}
	switch {
	case b.lost != "":
		o.cause = neverStarts
		p.plan.Cancels = append(p.plan.Cancels, Cancel{Experiment: e.ID, Reason: b.lost})
	case len(b.parents) > 0:
		o.cause = afterParents
	case e.NotBefore.After(p.now):
		o.cause = notYet
		p.wake(e.NotBefore)
	case b.full():
		o.cause = enoughSiblings
	default:
		p.place(e, &o)
	}
	return o
}

// place looks for the slots of an experiment that is ready.
func (p *pass) place(e *fsm.Experiment, o *outcome) {
	n := p.needOf(o.batch, e)
	o.need, o.ahead = n, p.waiting[n.gpus > 0]
	if on := p.find(n); on != nil {
		o.cause, o.on = starts, on
		slots := make([]fsm.Slot, 0, len(on))
		for _, v := range on {
			slots = append(slots, fsm.Slot{Node: v.ID, GPUs: p.take(n, v, e.ID)})
		}
		a := Assignment{Experiment: e.ID, Node: slots[0].Node, GPUs: slots[0].GPUs}
		a.Others = append(a.Others, slots[1:]...)
		p.plan.Assignments = append(p.plan.Assignments, a)
		o.running = append(o.running, e.ID)
		return
	}
	p.waiting[n.gpus > 0]++
	if n.large() && !p.keeping && !n.sought {
		n.sought = true
		p.keeping = p.keep(n, e.ID)
	}
	if n.strictly {
		p.wake(e.NotBefore.Add(p.limits.AvoidFor))
	}
}

func (p *pass) find(n *need) []verdict {
	if n.full || n.gpus*n.nodes > p.freeCards || n.gpus == 0 && n.nodes > p.freeSlots {
		return nil
	}
	on := p.pick(n)
	n.full = on == nil
	return on
}

func (p *pass) wake(at time.Time) {
	if d := at.Sub(p.now); d > 0 && (p.plan.Wake == 0 || d < p.plan.Wake) {
		p.plan.Wake = d
	}
}

func (p *pass) needOf(b *batch, e *fsm.Experiment) *need {
	if e.AvoidNode == "" {
		if b.need == nil {
			b.need = p.intern(p.keyOf(b.spec), b.spec)
		}
		return b.need
	}
	k := p.keyOf(b.spec)
	k.avoid, k.strictly = e.AvoidNode, e.NotBefore.Add(p.limits.AvoidFor).After(p.now)
	return p.intern(k, b.spec)
}

func (p *pass) intern(k needKey, spec *fsm.Spec) *need {
	n := p.needs[k]
	if n == nil {
		n = &need{needKey: k, where: spec.Where}
		if k.gpus > 0 {
			n.indexes = indexesOf(spec.Device)
		}
		if named := p.view.FindNode(k.node); k.node != "" && named != nil {
			n.nodeID = named.ID
		}
		p.needs[k] = n
	}
	return n
}

func (p *pass) batchOf(id uint64) *batch {
	if p.lastOne != nil && p.last == id {
		return p.lastOne
	}
	b := p.batches[id]
	if b == nil {
		b = p.newBatch(id)
		p.batches[id] = b
	}
	p.last, p.lastOne = id, b
	return b
}

func (p *pass) newBatch(id uint64) *batch {
	b := &batch{spec: &fsm.Spec{}, running: p.open[id]}
	if stored := p.view.Batch(id); stored != nil {
		b.spec = &stored.Spec
	}
	for _, parent := range b.spec.After {
		e := p.view.Experiment(parent)
		switch {
		case e == nil:
			b.lost = fmt.Sprintf("it should start after experiment %d, which does not exist", parent)
		case e.Status == fsm.Failed:
			b.lost = fmt.Sprintf("it should start after experiment %d, which failed", parent)
		case e.Status == fsm.Cancelled:
			b.lost = fmt.Sprintf("it should start after experiment %d, which was cancelled", parent)
		case e.Status != fsm.Completed:
			b.parents = append(b.parents, parent)
		}
	}
	return b
}
