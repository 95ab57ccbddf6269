package sched

import "cmp"

// better orders cards that can be given: idle ones, then the most free memory. Cards of one machine are compared in the
// order of their indexes by a stable sort, machines in the order of their names.
func better(a, b *card) int {
	return cmp.Or(cmp.Compare(a.tier, b.tier), cmp.Compare(b.free, a.free))
}

// judgeAll judges all machines, and rules out the one to avoid as long as another could serve.
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
		if n.strictly && v.ID == n.avoid && v.unfit == "" && others > 0 {
			v.unfit = avoided
		}
	}
	return verdicts
}

// avoided is why a machine is not used although it could be.
const avoided = "lost its last attempt, so another machine is waited for"

// pick gives the machine that takes the need now, nil if none can. Machines are compared in the order of their names, and
// the first of equals wins.
func (s *survey) pick(n *need) *verdict {
	var best *verdict
	for _, v := range s.judgeAll(n) {
		if v.enough(n) && (best == nil || n.prefer(&v, best) < 0) {
			best = &v
		}
	}
	return best
}

// prefer compares two machines that can both take the need; negative means a.
func (n *need) prefer(a, b *verdict) int {
	if c := compareBool(a.ID == n.avoid, b.ID == n.avoid); c != 0 {
		return c
	}
	switch {
	case n.gpus == 0:
		return cmp.Or(cmp.Compare(b.freeSlots(), a.freeSlots()), cmp.Compare(a.cpu, b.cpu))
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

// take books the slot in the survey and gives the UUIDs, in the order of the cards' indexes.
func (s *survey) take(n *need, v *verdict, experiment uint64) []string {
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

// keep withholds, from all later experiments of the pass, the cards of the machine that is nearest to serving a need for
// several GPUs. What is kept only grows as work ends, so the need is served in the end; on all other machines smaller
// experiments go on. It says whether there was such a machine.
func (s *survey) keep(n *need, experiment uint64) bool {
	var nearest *verdict
	for _, v := range s.judgeAll(n) {
		if v.unfit == "" && (nearest == nil || len(v.give) > len(nearest.give)) {
			nearest = &v
		}
	}
	if nearest == nil {
		return false
	}
	for _, c := range nearest.asked {
		c.keptBy, c.keptFor = n, experiment
	}
	return true
}
