package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/deveronica/cvlab/ui/api"
)

// submitPart measures how many submissions a cluster of three takes, each durable before it is acknowledged.
type submitPart struct {
	b       *bench
	clients []int
	length  time.Duration // of each point
}

// Lengths of a point, and of what is thrown away before it.
const (
	shortLength  = 2 * time.Second
	warmUpLength = 500 * time.Millisecond
)

func (b *bench) submitCommand() *cobra.Command {
	p := submitPart{b: b}
	c := b.part("submit", "Acknowledged submissions a second and their latency, to the leader and to a follower",
		func(ctx context.Context) error { return p.measure(ctx) })
	c.Flags().IntSliceVar(&p.clients, "clients", []int{1, 8, 64}, "numbers of clients, each with one connection and one submission under way")
	c.Flags().DurationVar(&p.length, "length", 4*time.Second, "how long each number of clients is measured")
	needLonger(c, "length", &p.length)
	before(c, func() error {
		for _, n := range p.clients {
			if n < 1 || n > 256 {
				return usage("--clients %d: from 1 to 256", n)
			}
		}
		return nil
	})
	return c
}

func (p submitPart) measure(ctx context.Context) error {
	for _, n := range p.clients {
		for _, target := range []string{"leader", "follower"} {
			// A fresh cluster each time: the submissions of one point stay in the queue and must not slow the next.
			err := p.b.withLab(ctx, 3, nil, func(l *lab) error { return p.point(ctx, l, n, target) })
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (p submitPart) point(ctx context.Context, l *lab, n int, target string) error {
	m, others, err := l.leader(ctx)
	if err != nil {
		return err
	}
	if target == "follower" {
		m = others[0]
	}
	clients := make([]*api.Client, n)
	for i := range clients {
		if clients[i], err = l.client(m); err != nil {
			return err
		}
	}
	if _, _, err := saturate(ctx, clients, warmUpLength); err != nil {
		return err
	}
	took, whole, err := saturate(ctx, clients, p.length)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%d clients, %s", n, target)
	rate := float64(len(took)) / whole.Seconds()
	p.b.r.figure(row{Part: "submit", Name: name + ": rate", Unit: "1/s"})
	p.b.r.figure(row{Part: "submit", Name: name + ": latency", Unit: "ms"})
	p.b.r.add("submit", name+": rate", rate)
	p.b.r.add("submit", name+": latency", millis(took)...)
	s := summarize(millis(took))
	p.b.r.line("submit: %-22s %6.0f a second, p50 %.1f ms, p99 %.1f ms", name, rate, s.Median, s.P99)
	return nil
}

// saturate lets every client submit one after the other for the time given. It gives how long each submission took that
// was begun in that time, and how long it was until the last of them was acknowledged.
func saturate(ctx context.Context, clients []*api.Client, length time.Duration) ([]time.Duration, time.Duration, error) {
	took := make([][]time.Duration, len(clients))
	began := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for i, c := range clients {
		g.Go(func() error {
			for time.Since(began) < length {
				t := time.Now()
				if err := submitRecord(ctx, c); err != nil {
					return fmt.Errorf("submit: %w", err)
				}
				took[i] = append(took[i], time.Since(t))
			}
			return nil
		})
	}
	err := g.Wait()
	whole := time.Since(began)
	var all []time.Duration
	for _, t := range took {
		all = append(all, t...)
	}
	if err == nil && len(all) == 0 {
		err = errors.New("submit: nothing was acknowledged in that time")
	}
	return all, whole, err
}

// submitRecord submits a held experiment whose record in the log is about 1 KiB.
func submitRecord(ctx context.Context, c *api.Client) error {
	_, err := c.Add(ctx, api.AddRequest{Command: []string{"true", strings.Repeat("x", 700)}, Hold: true})
	return err
}
