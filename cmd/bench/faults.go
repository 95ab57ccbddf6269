package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

// faultsPart does bad things to clusters and checks what they have promised.
type faultsPart struct {
	b        *bench
	minutes  float64 // 0: each scenario once, in its short form
	only     []string
	seed     uint64
	times    times
	strict   bool      // the promised times hold as they are; else three times as long is fine, as on a busy machine
	parallel int       // clusters at the same time
	end      time.Time // of the long form; zero in the short one
}

// times say how often a scenario does its fault in one run.
type times struct {
	leaderKills, allKills, writeKills, sweep, sweepKills int
	keys, cuts, heals, places                            int
	pauses, aways                                        []time.Duration
	partition                                            time.Duration
	staleReads                                           int
}

// shortForm is what one run does when each scenario runs once; longForm is the matrix's own.
func shortForm() times {
	return times{
		leaderKills: 20, allKills: 5, writeKills: 50, sweep: 1000, sweepKills: 1, keys: 100, cuts: 1, heals: 1, places: 50,
		pauses: []time.Duration{2 * time.Second}, aways: []time.Duration{0, 3 * time.Second}, partition: 8 * time.Second, staleReads: 200,
	}
}

func longForm() times {
	return times{
		leaderKills: 100, allKills: 50, writeKills: 500, sweep: 10_000, sweepKills: 3, keys: 1000, cuts: 250, heals: 250, places: 200,
		pauses: []time.Duration{2 * time.Second, 10 * time.Second, 60 * time.Second}, aways: []time.Duration{0, 5 * time.Second, 30 * time.Second},
		partition: 60 * time.Second, staleReads: 5000,
	}
}

// scenario is one kind of fault, named as in the fault matrix.
type scenario struct {
	id, does, figure string
	on               kind
	run              func(context.Context, *bed, times) (outcome, error)
}

// kind is the cluster that a scenario needs. Scenarios of one kind follow each other on one cluster.
type kind struct {
	series string // tells clusters apart that are else the same, so that they can run side by side
	nodes  int
	net    bool // hosts of their own, and so root
	short  bool // leases of 6 s
	disks  diskKind
	// forgetful says that gossip forgets dead members after 4 s.
	forgetful bool
}

// outcome is what was seen while a fault was done.
type outcome struct {
	faults int           // done
	worst  time.Duration // of the scenario's figure
}

// add counts one fault.
func (o *outcome) add(d time.Duration) {
	o.faults++
	o.worst = max(o.worst, d)
}

func scenarios() []scenario {
	return slices.Concat(killScenarios(), processScenarios(), storeScenarios(), netScenarios(), gossipScenarios(), leaseScenarios(), diskScenarios(), damageScenarios())
}

func (b *bench) faultsCommand() *cobra.Command {
	p := faultsPart{b: b}
	c := b.part("faults", "Kill, pause, wipe, fill and cut off nodes, and check that every promise holds",
		func(ctx context.Context) error { return p.measure(ctx) })
	c.Flags().Float64Var(&p.minutes, "minutes", 0, "repeat all scenarios, in their long forms, for so long (default: each once, short)")
	c.Flags().StringSliceVar(&p.only, "only", nil, "only these scenarios, such as F01,F05")
	c.Flags().Uint64Var(&p.seed, "seed", 0, "of what is chosen at random (default: another each time)")
	c.Flags().BoolVar(&p.strict, "strict", false, "hold the times to what is promised (default: three times as long is fine)")
	c.Flags().IntVar(&p.parallel, "parallel", 4, "clusters at the same time; 1 for figures that are worth printing")
	needPositive(c, "parallel", &p.parallel)
	before(c, func() error {
		if p.minutes < 0 {
			return usage("--minutes %v: it must not be negative", p.minutes)
		}
		if p.times = shortForm(); p.minutes > 0 {
			p.times = longForm()
		}
		_, err := p.chosen()
		return err
	})
	return c
}

func (p faultsPart) chosen() ([]scenario, error) {
	all := scenarios()
	if len(p.only) == 0 {
		return all, nil
	}
	var out []scenario
	for _, id := range p.only {
		i := slices.IndexFunc(all, func(s scenario) bool { return strings.EqualFold(s.id, id) })
		if i < 0 {
			var ids []string
			for _, s := range all {
				ids = append(ids, s.id)
			}
			return nil, usage("--only %s: there are %s", id, strings.Join(ids, ", "))
		}
		out = append(out, all[i])
	}
	return out, nil
}

// measure runs the scenarios and prints the table, what there is of it.
func (p faultsPart) measure(ctx context.Context) error {
	all, err := p.chosen()
	if err != nil {
		return err
	}
	if p.seed == 0 {
		p.seed = rand.Uint64N(1_000_000) + 1
	}
	p.b.r.line("faults: seed %d", p.seed)
	verdicts := p.rounds(ctx, all)
	err = p.print(verdicts)
	for _, v := range verdicts {
		if v.Failed != "" {
			err = errors.Join(err, fmt.Errorf("%s: %s", v.Scenario, v.Failed))
			p.b.keep = p.b.keep || v.keep
		}
	}
	return errors.Join(err, context.Cause(ctx))
}

// rounds runs all scenarios, again and again if there is time. One that has failed is not repeated.
func (p faultsPart) rounds(ctx context.Context, all []scenario) []verdict {
	verdicts := make([]verdict, len(all))
	for i, s := range all {
		verdicts[i] = verdict{Scenario: s.id, Does: s.does, Figure: s.figure, Skipped: s.on.missing()}
	}
	if p.minutes > 0 {
		p.end = time.Now().Add(time.Duration(p.minutes * float64(time.Minute)))
	}
	for round := uint64(0); ctx.Err() == nil && (round == 0 || time.Now().Before(p.end)); round++ {
		var g errgroup.Group
		g.SetLimit(max(1, p.parallel))
		due := 0
		for _, follow := range series(all) {
			follow = slices.DeleteFunc(follow, func(i int) bool { return verdicts[i].Skipped != "" || verdicts[i].Failed != "" })
			if len(follow) == 0 {
				continue
			}
			due++
			g.Go(func() error {
				p.follow(ctx, all, follow, verdicts, round)
				return nil
			})
		}
		// The functions above give no error: what went wrong is in the verdicts.
		_ = g.Wait()
		if due == 0 {
			break
		}
	}
	return verdicts
}

// series gives the places of the scenarios that share a cluster, in the order of their first.
func series(all []scenario) [][]int {
	var out [][]int
	at := map[kind]int{}
	for i, s := range all {
		k, known := at[s.on]
		if !known {
			k = len(out)
			at[s.on] = k
			out = append(out, nil)
		}
		out[k] = append(out[k], i)
	}
	return out
}
