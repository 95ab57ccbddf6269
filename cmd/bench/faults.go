package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// faultsPart does bad things to clusters and checks what they have promised.
type faultsPart struct {
	b       *bench
	minutes float64 // 0: each scenario once
	only    []string
	seed    uint64
	times   times
}

// times say how often a scenario does its fault in one run.
type times struct {
	leaderKills, allKills, writeKills, sweep int
}

// shortForm is what one run does.
func shortForm() times { return times{leaderKills: 5, allKills: 2, writeKills: 10, sweep: 300} }

// scenario is one kind of fault, named as in the fault matrix.
type scenario struct {
	id, does, figure string
	nodes            int
	net              bool // needs hosts, and so root
	run              func(context.Context, *bed, times) (outcome, error)
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

// verdict is a row of the table.
type verdict struct {
	Scenario string  `json:"scenario"`
	Does     string  `json:"does"`
	Runs     int     `json:"runs"`   // of the scenario
	Faults   int     `json:"faults"` // in all runs
	Figure   string  `json:"figure"`
	Worst    float64 `json:"worst_ms"`
	Skipped  string  `json:"skipped,omitempty"`
	Failed   string  `json:"failed,omitempty"`
}

func (v verdict) word() string {
	switch {
	case v.Skipped != "":
		return v.Skipped
	case v.Failed != "":
		first, _, _ := strings.Cut(v.Failed, "\n")
		return "FAILED: " + first
	}
	return "pass"
}

func scenarios() []scenario {
	return slices.Concat(killScenarios(), storeScenarios(), netScenarios())
}

func (b *bench) faultsCommand() *cobra.Command {
	p := faultsPart{b: b, times: shortForm()}
	c := b.part("faults", "Kill, pause, wipe and cut off nodes, and check that every promise holds",
		func(ctx context.Context) error { return p.measure(ctx) })
	c.Flags().Float64Var(&p.minutes, "minutes", 0, "repeat all scenarios for so long (default: each once)")
	c.Flags().StringSliceVar(&p.only, "only", nil, "only these scenarios, such as F01,F05")
	c.Flags().Uint64Var(&p.seed, "seed", 0, "of what is chosen at random (default: another each time)")
	before(c, func() error {
		if p.minutes < 0 {
			return usage("--minutes %v: it must not be negative", p.minutes)
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
		}
	}
	return errors.Join(err, context.Cause(ctx))
}

// rounds runs all scenarios, again and again if there is time. One that has failed is not repeated.
func (p faultsPart) rounds(ctx context.Context, all []scenario) []verdict {
	verdicts := make([]verdict, len(all))
	for i, s := range all {
		verdicts[i] = verdict{Scenario: s.id, Does: s.does, Figure: s.figure}
		if !s.net {
			continue
		}
		if _, err := exec.LookPath("nft"); err != nil {
			verdicts[i].Skipped = "needs nft"
		}
		if mayMakeHosts() != nil {
			verdicts[i].Skipped = "needs root"
		}
	}
	end := time.Now().Add(time.Duration(p.minutes * float64(time.Minute)))
	for round := uint64(0); ; round++ {
		ran := false
		for i, s := range all {
			v := &verdicts[i]
			if v.Skipped != "" || v.Failed != "" || ctx.Err() != nil || round > 0 && time.Now().After(end) {
				continue
			}
			ran = true
			p.once(ctx, s, v, rand.New(rand.NewPCG(p.seed, round)))
		}
		if !ran || p.minutes == 0 {
			return verdicts
		}
	}
}

// scenarioLimit bounds one run of one scenario; the longest takes a third.
const scenarioLimit = 5 * time.Minute

func (p faultsPart) once(ctx context.Context, s scenario, v *verdict, rnd *rand.Rand) {
	ctx, cancel := context.WithTimeoutCause(ctx, scenarioLimit, errors.New("a scenario takes too long"))
	defer cancel()
	began := time.Now()
	got, err := p.inLab(ctx, s, rnd)
	v.Runs++
	v.Faults += got.faults
	v.Worst = max(v.Worst, ms(got.worst))
	if err != nil {
		v.Failed = err.Error()
	}
	p.b.r.line("%s %s: %d faults, %s %s ms; took %.0f s: %s", s.id, s.does, got.faults, s.figure, number(ms(got.worst)), time.Since(began).Seconds(), v.word())
}

// inLab gives a scenario a fresh cluster, does its faults and makes all checks.
func (p faultsPart) inLab(ctx context.Context, s scenario, rnd *rand.Rand) (got outcome, err error) {
	var h *hosts
	if s.net {
		if h, err = newHosts(ctx, s.nodes); err != nil {
			return got, err
		}
		defer func() { err = errors.Join(err, h.remove()) }()
	}
	p.b.labs++
	dir := filepath.Join(p.b.dir, "lab"+strconv.Itoa(p.b.labs))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return got, fmt.Errorf("make the directory of a cluster: %w", err)
	}
	args := append([]string{"--cpu-slots", "4"}, p.b.nodeArgs...)
	l, err := startLab(ctx, labOptions{program: p.b.program, dir: dir, nodes: s.nodes, gpus: p.b.gpus, args: args, hosts: h})
	if err != nil {
		return got, fmt.Errorf("start %d nodes: %w", s.nodes, err)
	}
	defer func() {
		if err != nil && ctx.Err() == nil {
			err = errors.Join(err, l.lastWords())
		}
		err = errors.Join(err, l.end())
	}()
	bed := newBed(l, p.b.self, rnd, p.b.r.line)
	if got, err = s.run(ctx, bed, p.times); err != nil {
		return got, err
	}
	return got, bed.check(ctx)
}

func (p faultsPart) print(verdicts []verdict) error {
	lines := p.b.stdout
	if p.b.json {
		lines = p.b.stderr
		if err := verdictsJSON(p.b.stdout, p.seed, verdicts); err != nil {
			return err
		}
	}
	fmt.Fprintln(lines)
	t := tabwriter.NewWriter(lines, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "scenario\twhat it does\truns\tfaults\tworst\t\tresult")
	for _, v := range verdicts {
		worst := "-"
		if v.Runs > 0 {
			worst = number(v.Worst) + " ms"
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%s\t%s\t%s\n", v.Scenario, v.Does, v.Runs, v.Faults, worst, v.Figure, v.word())
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print table: %w", err)
	}
	return nil
}

func verdictsJSON(w io.Writer, seed uint64, verdicts []verdict) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	out := struct {
		Seed      uint64    `json:"seed"`
		Scenarios []verdict `json:"scenarios"`
	}{seed, verdicts}
	if err := e.Encode(out); err != nil {
		return fmt.Errorf("print JSON: %w", err)
	}
	return nil
}
