package sched

import (
	"fmt"
	"slices"
	"strings"

	"github.com/deveronica/cvlab/fsm"
)

// Reason says in one sentence why an experiment waits, naming machines and numbers. Of one that does not wait it says
// what it does instead.
func Reason(in Input, id uint64) string { return Reasons(in, []uint64{id})[id] }

// Reasons gives the sentences of many experiments for the price of one plan.
func Reasons(in Input, ids []uint64) map[uint64]string {
	p := newPass(in)
	p.watch = make(map[uint64]bool, len(ids))
	for _, id := range ids {
		p.watch[id] = true
	}
	p.run()
	sentences := map[uint64]string{}
	ofNeed := map[*need]said{}
	for _, id := range ids {
		sentences[id] = p.sentence(id, ofNeed)
	}
	return sentences
}

// said is what there is to say of a need that found no slot; never means that no end of work gives it one.
type said struct {
	sentence string
	never    bool
}

// sentence is the reason of one watched experiment; ofNeed remembers what was said of the same need before.
func (p *pass) sentence(id uint64, ofNeed map[*need]said) string {
	e := p.view.Experiment(id)
	if e == nil {
		return fmt.Sprintf("experiment %d does not exist", id)
	}
	if e.Status != fsm.Pending {
		return p.notWaiting(e)
	}
	o := p.outcomes[id]
	switch o.cause {
	case starts:
		return "starts on " + list(namesOf(o.on)) + " now"
	case neverStarts:
		return "will be cancelled: " + o.lost
	case afterParents:
		return "waits until " + numbered(o.parents) + has(len(o.parents)) + " completed"
	case notYet:
		return p.backoff(e)
	case enoughSiblings:
		return fmt.Sprintf("%d of its batch %s already (%s), and max_parallel is %d",
			len(o.running), areOrIs(len(o.running))+" running", numbered(o.running), o.spec.MaxParallel)
	}
	s, known := ofNeed[o.need]
	if !known {
		s = p.noSlot(o.need)
		ofNeed[o.need] = s
	}
	if o.ahead > 0 && !s.never {
		return fmt.Sprintf("%s; %d ahead of it", s.sentence, o.ahead)
	}
	return s.sentence
}

func has(n int) string {
	if n == 1 {
		return " has"
	}
	return " have"
}

func areOrIs(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

func (p *pass) notWaiting(e *fsm.Experiment) string {
	switch e.Status {
	case fsm.Held:
		return e.Message + "; waits until it is released"
	case fsm.Running:
		if a := p.view.Attempt(e.Token); a != nil {
			var names []string
			for _, part := range a.Parts() {
				names = append(names, p.nameOf(part.Node))
			}
			return fmt.Sprintf("runs on %s, attempt %d", list(names), a.Number)
		}
	}
	return "is " + string(e.Status)
}

func namesOf(verdicts []verdict) []string {
	names := make([]string, 0, len(verdicts))
	for _, v := range verdicts {
		names = append(names, v.Name)
	}
	return names
}

func (p *pass) nameOf(id string) string {
	if n := p.view.Node(id); n != nil {
		return n.Name
	}
	return id
}

func (p *pass) backoff(e *fsm.Experiment) string {
	s := fmt.Sprintf("waits %s before attempt %d", seconds(e.NotBefore.Sub(p.now)), e.Attempts+1)
	if e.Class != "" {
		s += fmt.Sprintf(", since attempt %d ended with: %s", e.Attempts, e.Class)
	}
	return s
}

// noSlot says what a need asks for and how near the cluster is to giving it.
func (p *pass) noSlot(n *need) said {
	verdicts := p.judgeAll(n)
	fit := slices.DeleteFunc(slices.Clone(verdicts), func(v verdict) bool { return v.unfit != "" })
	asks := "needs " + n.words(p)
	if i := slices.IndexFunc(verdicts, func(v verdict) bool { return v.unfit == avoided }); i >= 0 {
		asks += " away from " + verdicts[i].Name + ", which lost its last attempt"
	}
	switch {
	case len(p.machines) == 0:
		return said{asks + "; the cluster has no machine", true}
	case n.node != "" && n.nodeID == "":
		return said{fmt.Sprintf("%s; there is no node %s", asks, n.node), true}
	case len(fit) < n.nodes:
		return said{asks + "; " + unfitWords(n, verdicts), true}
	}
	return said{asks + "; " + n.nearness(fit), false}
}

// nearness says how near the machines that could serve a need are to it.
func (n *need) nearness(fit []verdict) string {
	near := nearest(n, fit)
	if n.nodes > 1 {
		return n.gangNearness(near)
	}
	best := near[0]
	if t := n.tally(best); t.free > 0 && n.gpus > 1 {
		return fmt.Sprintf("most free is %s with %d of %d%s", best.Name, t.free, t.total, t.why())
	}
	t, where := n.tally(fit...), "of "+best.Name
	if t.machines > 1 {
		where = fmt.Sprintf("of %d machines", t.machines)
	}
	if t.total == 1 {
		return fmt.Sprintf("the one %s %s is not free%s", n.slot(), where, t.why())
	}
	return fmt.Sprintf("none of %d %ss %s is free%s", t.total, n.slot(), where, t.why())
}

// gangNearness says how many of the machines have what a gang needs of each, and which is the next of the others.
func (n *need) gangNearness(near []verdict) string {
	able := slices.IndexFunc(near, func(v verdict) bool { return !v.enough(n) })
	next := near[able]
	t := n.tally(next)
	where := fmt.Sprintf("%s with %d of %d%s", next.Name, t.free, t.total, t.why())
	if able == 0 {
		return fmt.Sprintf("none of %d machines has that now, most free is %s", len(near), where)
	}
	return fmt.Sprintf("%d of %d machines %s that now, next is %s", able, len(near), strings.TrimSpace(has(able)), where)
}

func (n *need) slot() string {
	if n.gpus == 0 {
		return "CPU slot"
	}
	return "GPU"
}

// unfitWords says of each machine why it cannot take the need, a few by name.
func unfitWords(n *need, verdicts []verdict) string {
	var words []string
	for _, v := range verdicts {
		if v.unfit != "" && (n.nodeID == "" || v.ID == n.nodeID) {
			words = append(words, v.Name+" "+v.unfit)
		}
	}
	fit := len(verdicts) - len(words) // without a node asked for
	if len(words) > maxNamed {
		words = append(words[:maxNamed:maxNamed], fmt.Sprintf("and %d more cannot either", len(words)-maxNamed))
	}
	switch {
	case n.nodeID != "":
		return words[0]
	case len(words) == 0:
		return fmt.Sprintf("the cluster has %s", count(fit, "machine"))
	case fit > 0:
		return fmt.Sprintf("only %d of %s can give that: ", fit, count(len(verdicts), "machine")) + strings.Join(words, ", ")
	}
	return "no machine can take it: " + strings.Join(words, ", ")
}

// words says what a need asks for, such as "2 GPUs of one node with 20 GiB free each, where zone=b".
func (n *need) words(p *pass) string {
	s := n.slotWords(p)
	if n.whereText != "" {
		s += ", where " + n.whereText
	}
	return s
}

func (n *need) slotWords(p *pass) string {
	if n.nodes > 1 {
		return n.gangWords()
	}
	s := "a CPU slot"
	switch {
	case n.indexText != "":
		s = "GPU " + n.indexText
	case n.gpus > 0:
		s = count(n.gpus, n.slot())
	}
	switch {
	case n.nodeID != "":
		s += " of " + p.nameOf(n.nodeID)
	case n.node != "":
		s += " of " + n.node
	case n.gpus > 1:
		s += " of one node"
	}
	if n.memory > 0 {
		s += " with " + bytes(n.memory) + " free"
		if n.gpus > 1 {
			s += " each"
		}
	}
	return s
}

func (n *need) gangWords() string {
	s := fmt.Sprintf("%d machines with %s each", n.nodes, count(max(1, n.gpus), "free "+n.slot()))
	if n.memory > 0 {
		s += ", with " + bytes(n.memory) + " free on each GPU"
	}
	return s
}

// unfit says why a machine is none for the need, leaving its cards aside.
func (n *need) unfit(m *machine) string {
	switch {
	case n.node != "" && m.ID != n.nodeID:
		return "is not the node asked for"
	case m.out != "":
		return m.out
	case n.kit && !m.Kit:
		return "has no cvlab-kit (start its node with --kit-dir)"
	}
	for _, key := range sortedKeys(n.where) {
		want := n.where[key]
		switch got, labelled := m.Labels[key]; {
		case key == whereGPU:
			if !slices.ContainsFunc(m.cards, func(c *card) bool { return n.named(c) }) {
				return "has no GPU named " + want
			}
		case !labelled:
			return "has no label " + key
		case got != want:
			return fmt.Sprintf("has %s=%s", key, got)
		}
	}
	return ""
}

// tooFew says why a machine's cards are not enough even when all work of the queue on them has ended.
func (n *need) tooFew(v verdict) string {
	if len(v.cards) == 0 {
		if n.node != "" {
			return "has no GPU; for a CPU slot ask for device: cpu"
		}
		return "has no GPU"
	}
	if len(v.asked) >= n.gpus {
		t := n.tally(v)
		return fmt.Sprintf("can give %s of %d%s", some(n.couldServe(v.asked), "GPU"), t.total, t.why())
	}
	switch {
	case len(n.indexes) > 0:
		return fmt.Sprintf("has %s and not all the indexes asked for", count(len(v.cards), "GPU"))
	case n.memory > 0 && len(v.cards) >= n.gpus:
		return fmt.Sprintf("has %s of %s or more", some(len(v.asked), "GPU"), bytes(n.memory))
	case n.where[whereGPU] != "" && len(v.cards) >= n.gpus:
		return fmt.Sprintf("has %s named %s", some(len(v.asked), "GPU"), n.where[whereGPU])
	}
	return "has " + count(len(v.cards), "GPU")
}
