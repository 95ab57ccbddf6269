package gpu

import "slices"

// inventory remembers every GPU seen since the start, with its last values. It is the pure half of the Monitor.
type inventory struct {
	gpus []GPU // ordered by Index
}

// answer takes in what a source measured. A GPU seen before and not among them now is lost, one not seen before is new.
func (v *inventory) answer(got []GPU) {
	seen := make(map[string]bool, len(got))
	for _, g := range got {
		if seen[g.UUID] || g.UUID == "" {
			continue
		}
		seen[g.UUID] = true
		if g.State == "" {
			g.State = OK
		}
		i := slices.IndexFunc(v.gpus, func(old GPU) bool { return old.UUID == g.UUID })
		if i < 0 {
			g.Index = v.freeIndex(g.Index)
			v.gpus = append(v.gpus, g)
			continue
		}
		old := v.gpus[i]
		g.Index = old.Index
		if g.State != OK && g.MemoryTotal == 0 {
			state, name := g.State, g.Name
			g = old
			g.State = state
			if name != "" {
				g.Name = name
			}
		}
		v.gpus[i] = g
	}
	for i := range v.gpus {
		if !seen[v.gpus[i].UUID] {
			v.gpus[i].State = Lost
		}
	}
	for i := range v.gpus {
		if v.gpus[i].State == Lost {
			v.gpus[i].Utilization, v.gpus[i].Power, v.gpus[i].Processes = 0, 0, nil
		}
	}
	byIndex(v.gpus)
}

// silence makes healthy GPUs suspect; what was worse stays.
func (v *inventory) silence() {
	for i := range v.gpus {
		if v.gpus[i].State == OK {
			v.gpus[i].State = Suspect
		}
	}
}

// freeIndex is the wanted index, or the lowest free one if a card has it already, even a lost one.
func (v *inventory) freeIndex(want int) int {
	taken := func(i int) bool {
		return slices.ContainsFunc(v.gpus, func(g GPU) bool { return g.Index == i })
	}
	if want >= 0 && !taken(want) {
		return want
	}
	i := 0
	for taken(i) {
		i++
	}
	return i
}

// sameCards reports whether only measured values differ between a and b, not which cards there are nor their states.
func sameCards(a, b []GPU) bool {
	return slices.EqualFunc(a, b, func(x, y GPU) bool {
		return x.UUID == y.UUID && x.Index == y.Index && x.Name == y.Name && x.State == y.State &&
			x.MemoryTotal == y.MemoryTotal
	})
}
