package sched

import (
	"cmp"
	"slices"
)

// better orders cards that can be given: idle ones, then the most free memory. Cards of one machine are compared in the
// order of their indexes by a stable sort, machines in the order of their names.
func better(a, b *card) int {
	return cmp.Or(cmp.Compare(a.tier, b.tier), cmp.Compare(b.free, a.free))
}

// judgeAll judges all machines, and rules out the one to avoid as long as others could serve.
func (s *survey) judgeAll(n *need) []verdict {
	verdicts := make([]verdict, 0, len(s.machines))
	others := 0
	for _, m := range s.machines {
		v := n.judge(m)
		if v.unfit == "" && m.ID != n.avoid {
			others++
		}
		verdicts = append(verdicts, v)
	}
	for i := range verdicts {
		v := &verdicts[i]
		if n.strictly && v.ID == n.avoid && v.unfit == "" && others >= n.nodes {
			v.unfit = avoided
		}
	}
	return verdicts
}

// avoided is why a machine is not used although it could be.
const avoided = "lost its last attempt, so another machine is waited for"

// pick gives the machines that take the need now, in the order of their names; nil if not as many can as it needs. The
// first of equals wins.
func (s *survey) pick(n *need) []verdict {
	able := slices.DeleteFunc(s.judgeAll(n), func(v verdict) bool { return !v.enough(n) })
	if len(able) < n.nodes {
		return nil
	}
	best := slices.Clone(able)
	slices.SortStableFunc(best, func(a, b verdict) int { return n.prefer(&a, &b) })
	best = best[:n.nodes]
	slices.SortFunc(best, byName)
	return best
}

func byName(a, b verdict) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) }

// prefer compares two machines that can both take the need; negative means a.
func (n *need) prefer(a, b *verdict) int {
	if c := compareBool(a.ID == n.avoid, b.ID == n.avoid); c != 0 {
		return c
	}
	switch {
	case n.gpus == 0:
		return cmp.Or(cmp.Compare(b.slots(n), a.slots(n)), cmp.Compare(a.cpu, b.cpu))
	case n.gpus == 1:
		return better(a.give[0], b.give[0])
	}
	// The worst card that would be used decides first: four idle cards beat three idle and a foreign one. Then the
	// tightest fit, which leaves the roomier machine whole for the next large experiment.
	return cmp.Or(cmp.Compare(a.give[n.gpus-1].tier, b.give[n.gpus-1].tier), cmp.Compare(len(a.give), len(b.give)))
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// take books a slot in the survey and gives the UUIDs, in the order of the cards' indexes.
func (s *survey) take(n *need, v verdict, experiment uint64) []string {
	if n.gpus == 0 {
		v.onCPU = append(v.onCPU[:len(v.onCPU):len(v.onCPU)], experiment)
		s.freeSlots--
		return nil
	}
	chosen := map[string]bool{}
	for _, c := range v.give[:n.gpus] {
		c.heldBy, chosen[c.UUID] = experiment, true
		s.freeCards--
	}
	uuids := make([]string, 0, n.gpus)
	for _, c := range v.cards {
		if chosen[c.UUID] {
			uuids = append(uuids, c.UUID)
		}
	}
	return uuids
}

// keep withholds, from all later experiments of the pass, the cards or CPU slots of the machines that are nearest to serving
// a large need. What is kept only grows as work ends, so the need is served in the end; on all other machines smaller
// experiments go on. It says whether there were such machines.
func (s *survey) keep(n *need, experiment uint64) bool {
	fit := slices.DeleteFunc(s.judgeAll(n), func(v verdict) bool { return v.unfit != "" })
	if len(fit) < n.nodes {
		return false
	}
	for _, v := range nearest(n, fit)[:n.nodes] {
		v.keepFor(n, experiment)
	}
	return true
}

// keepFor withholds what the machine is to give: what it can give already, if that is enough, else all that was asked for.
func (v verdict) keepFor(n *need, experiment uint64) {
	k := keep{keptBy: n, keptFor: experiment}
	if n.gpus == 0 {
		v.slot = k
		return
	}
	cards := v.asked
	if v.enough(n) {
		cards = v.give[:n.gpus]
	}
	for _, c := range cards {
		c.keep = k
	}
}

// nearest gives the machines in the order of how much they can give of what is asked of each; equals by name.
func nearest(n *need, fit []verdict) []verdict {
	fit = slices.Clone(fit)
	slices.SortStableFunc(fit, func(a, b verdict) int { return cmp.Compare(b.has(n), a.has(n)) })
	return fit
}
