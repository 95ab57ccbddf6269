package leader

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

// search plays seeds on all cores and gives the first overlap, and how many attempts took over from an expired one.
func search(seeds int, r rules) (overlap string, takeovers int) {
	var next, taken atomic.Int64
	var found atomic.Pointer[string]
	var g sync.WaitGroup
	for range 4 {
		g.Go(func() {
			for found.Load() == nil {
				seed := next.Add(1)
				if seed > int64(seeds) {
					return
				}
				s := newSim(uint64(seed), r)
				if o := s.run(); o != "" {
					o = fmt.Sprintf("seed %d: %s", seed, o)
					found.CompareAndSwap(nil, &o)
				}
				for _, t := range s.tries[min(1, len(s.tries)):] {
					if t.launched {
						taken.Add(1)
					}
				}
			}
		})
	}
	g.Wait()
	if o := found.Load(); o != nil {
		overlap = *o
	}
	return overlap, int(taken.Load())
}

func TestNoTwoAttemptsExecute(t *testing.T) {
	const seeds = 10_000 / slowdown
	overlap, takeovers := search(seeds, rules{})
	if overlap != "" {
		t.Fatal(overlap)
	}
	if takeovers < seeds/2 {
		t.Errorf("only %d attempts took over in %d seeds: nothing was tested, or nothing goes on after a loss", takeovers, seeds)
	}
	t.Logf("%d seeds, %d takeovers", seeds, takeovers)
}

// Every rule is needed.
func TestEachRuleIsNeeded(t *testing.T) {
	for _, c := range []struct {
		name string
		off  rules
	}{
		{"an answer without a commit (R4)", rules{noCommit: true}},
		{"no mark while an Expire is under way (R5)", rules{noMark: true}},
		{"an Expire of an older reign", rules{noReign: true}},
		{"a lease that counts from the answer (R6)", rules{noSent: true}},
		{"no margin for clocks and freezing (R5)", rules{noWait: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			overlap, _ := search(20_000, c.off)
			if overlap == "" {
				t.Fatal("no overlap was found: the simulation would not see a broken protocol")
			}
			t.Log(overlap)
		})
	}
}
