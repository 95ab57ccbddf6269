package sched

import (
	"fmt"
	"slices"

	"github.com/deveronica/cvlab/fsm"
)

// NodeReason is how one machine stands to what an experiment needs.
type NodeReason struct {
	Node     string `json:"node"` // ID
	Name     string `json:"name"`
	Sentence string `json:"sentence"`
}

// Explanation is everything there is to say about why an experiment waits.
type Explanation struct {
	Experiment uint64     `json:"experiment"`
	Status     fsm.Status `json:"status,omitempty"` // empty when there is no such experiment
	Sentence   string     `json:"sentence"`         // as Reason gives it
	// Nodes has a line for each machine, in the order of their names; only for a waiting experiment.
	Nodes []NodeReason `json:"nodes,omitempty"`
	// Blocking are the experiments it waits for: parents, running ones of its batch, or those that hold what it needs.
	Blocking []uint64 `json:"blocking,omitempty"`
	// Start says what would start it now; empty when nothing has to happen.
	Start string `json:"start,omitempty"`
}

// Why explains at length what Reason says in a sentence.
func Why(in Input, id uint64) Explanation {
	p := newPass(in)
	p.watch = map[uint64]bool{id: true}
	p.run()
	x := Explanation{Experiment: id, Sentence: p.sentence(id, map[*need]said{})}
	e := in.View.Experiment(id)
	if e == nil {
		return x
	}
	x.Status = e.Status
	switch o := p.outcomes[id]; {
	case e.Status == fsm.Held:
		x.Start = "its release"
	case e.Status == fsm.Pending:
		p.explain(e, o, &x)
	}
	return x
}

func (p *pass) explain(e *fsm.Experiment, o outcome, x *Explanation) {
	n := p.needOf(o.batch, e)
	verdicts := p.judgeAll(n)
	for _, v := range verdicts {
		line := NodeReason{Node: v.ID, Name: v.Name, Sentence: n.line(v)}
		if o.cause == starts && slices.ContainsFunc(o.on, func(on verdict) bool { return on.machine == v.machine }) {
			line.Sentence = "takes it now"
		}
		x.Nodes = append(x.Nodes, line)
	}
	switch o.cause {
	case afterParents:
		x.Blocking, x.Start = distinct(o.parents), "the completion of "+numbered(o.parents)
	case notYet:
		x.Start = "nothing but time: " + seconds(e.NotBefore.Sub(p.now))
	case enoughSiblings:
		x.Blocking, x.Start = distinct(o.running), "the end of one of "+numbered(o.running)
	case noSlot:
		x.Blocking, x.Start = p.missing(n, verdicts)
	}
}

// line is how one machine stands to a need, for a list.
func (n *need) line(v verdict) string {
	if v.unfit != "" {
		return v.unfit
	}
	t := n.tally(v)
	return fmt.Sprintf("has %d of %s free%s", t.free, count(t.total, n.slot()), t.why())
}

// missing says which experiments' ends would give a need its slot.
func (p *pass) missing(n *need, verdicts []verdict) ([]uint64, string) {
	var fit []verdict
	for _, v := range verdicts {
		if v.unfit == "" {
			fit = append(fit, v)
		}
	}
	switch {
	case len(fit) == 0 && n.nodes == 1:
		return nil, fmt.Sprintf("a machine in service that can give %s, or asking for less", n.words(p))
	case len(fit) < n.nodes:
		return nil, fmt.Sprintf("%s in service that can give as much, or asking for less", count(n.nodes-len(fit), "more machine"))
	case n.nodes > 1:
		return n.missingOfGang(fit)
	}
	best := nearest(n, fit)[0]
	all, one := n.tally(fit...), n.tally(best)
	blocking := distinct(append(all.heldBy, all.keptFor...))
	more := max(1, n.gpus-one.free)
	if n.gpus <= 1 || len(fit) == 1 {
		one = all
	}
	what := fmt.Sprintf("%d more free %s", more, plural(more, n.slot()))
	if len(fit) == 1 || n.gpus > 1 {
		what += " of " + best.Name
	}
	return blocking, what + whenEnded(distinct(append(one.heldBy, one.keptFor...)), more)
}

// missingOfGang says it of the machines that are nearest to giving a gang what it needs of each.
func (n *need) missingOfGang(fit []verdict) ([]uint64, string) {
	var what []string
	var holders []uint64
	more := 0
	for _, v := range nearest(n, fit)[:n.nodes] {
		if v.enough(n) {
			continue
		}
		t, lack := n.tally(v), max(1, n.gpus)-v.has(n)
		what = append(what, fmt.Sprintf("%d more free %s of %s", lack, plural(lack, n.slot()), v.Name))
		holders = append(holders, append(t.heldBy, t.keptFor...)...)
		more += lack
	}
	holders = distinct(holders)
	return holders, list(what) + whenEnded(holders, more)
}

// whenEnded names the experiments whose end would free that many more slots.
func whenEnded(holders []uint64, more int) string {
	switch {
	case len(holders) == 0:
		return ""
	case len(holders) == 1:
		return ", when " + numbered(holders) + " ends"
	case more == 1:
		return ", when one of " + numbered(holders) + " ends"
	}
	return ", when enough of " + numbered(holders) + " have ended"
}

func plural(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}
