package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

// idlePart measures what a node costs its machine when nothing is to do.
type idlePart struct {
	b      *bench
	nodes  []int
	length time.Duration
	settle time.Duration // before it: start-up is not rest
}

// Lengths of the short form.
const (
	idleShort  = 10 * time.Second
	idleSettle = 5 * time.Second
)

func (b *bench) idleCommand() *cobra.Command {
	p := idlePart{b: b, nodes: []int{1, 3}}
	c := b.part("idle", "CPU and resident memory of one node at rest, and of each of three",
		func(ctx context.Context) error { return p.measure(ctx) })
	c.Flags().DurationVar(&p.length, "length", 20*time.Second, "how long it is watched")
	c.Flags().DurationVar(&p.settle, "settle", 2*idleSettle, "how long it rests before")
	needLonger(c, "length", &p.length)
	return c
}

func (p idlePart) measure(ctx context.Context) error {
	for _, n := range p.nodes {
		if err := p.b.withLab(ctx, n, nil, func(l *lab) error { return p.watch(ctx, l) }); err != nil {
			return err
		}
	}
	return nil
}

func (p idlePart) watch(ctx context.Context, l *lab) error {
	name := "alone"
	if len(l.nodes) > 1 {
		name = fmt.Sprintf("each of %d", len(l.nodes))
	}
	p.b.r.figure(row{Part: "idle", Name: name + ": CPU", Unit: "% of a core", Bars: []bar{{Of: "max", Less: 2}}})
	p.b.r.figure(row{Part: "idle", Name: name + ": resident", Unit: "MB", Bars: []bar{{Of: "max", Less: 60}}})
	if err := pause(ctx, p.settle); err != nil {
		return err
	}
	began := time.Now()
	before, err := measureAll(l)
	if err != nil {
		return err
	}
	if err := pause(ctx, p.length); err != nil {
		return err
	}
	after, err := measureAll(l)
	if err != nil {
		return err
	}
	took := time.Since(began)
	for i, m := range l.nodes {
		cpu := 100 * (after[i].cpu - before[i].cpu).Seconds() / took.Seconds()
		p.b.r.add("idle", name+": CPU", cpu)
		p.b.r.add("idle", name+": resident", after[i].rss)
		p.b.r.line("idle: %s, %s: %.2f %% of a core over %v, %.1f MB resident", name, m.name, cpu, took.Round(time.Millisecond), after[i].rss)
	}
	return nil
}

func measureAll(l *lab) ([]usageOf, error) {
	var all []usageOf
	for _, m := range l.nodes {
		u, err := measureProcess(m.started.Load().Pid)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		all = append(all, u)
	}
	return all, nil
}
