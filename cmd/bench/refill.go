package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/deveronica/cvlab/ui/api"
)

// refillPart measures how long a GPU is idle between two jobs while more are waiting.
type refillPart struct {
	b      *bench
	nodes  int
	jobs   int
	length time.Duration // of a job
}

// refillLength is how long a job lasts.
const refillLength = 500 * time.Millisecond

func (b *bench) refillCommand() *cobra.Command {
	p := refillPart{b: b, nodes: 3}
	c := b.part("refill", "End of a job to the start of the next one on the same GPU, and the share of time GPUs are busy",
		func(ctx context.Context) error { return p.measure(ctx) })
	c.Flags().IntVar(&p.jobs, "jobs", 120, "jobs, on all GPUs of three nodes")
	c.Flags().DurationVar(&p.length, "length", refillLength, "how long a job lasts")
	needPositive(c, "jobs", &p.jobs)
	needLonger(c, "length", &p.length)
	return c
}

func (p refillPart) measure(ctx context.Context) error {
	p.b.r.figure(row{Part: "refill", Name: "end to next start", Unit: "ms", Bars: []bar{{Of: "median", Less: 50}}})
	p.b.r.figure(row{Part: "refill", Name: "GPUs busy", Unit: "share"})
	dir := filepath.Join(p.b.dir, fmt.Sprintf("refill%d", p.b.labs.Load()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("make the directory of marks: %w", err)
	}
	return p.b.withLab(ctx, p.nodes, nil, func(l *lab) error {
		if err := p.submit(ctx, l, dir); err != nil {
			return err
		}
		marks, err := p.collect(ctx, dir)
		if err != nil {
			return err
		}
		r := refills(marks)
		if want := p.nodes * p.b.gpus; r.Slots != want && p.jobs >= want {
			p.b.r.line("refill: only %d of %d GPUs were used", r.Slots, want)
		}
		if r.Overlaps > 0 {
			return fmt.Errorf("%d jobs began on a GPU before the one there had ended: this is no question of speed", r.Overlaps)
		}
		p.b.r.add("refill", "end to next start", millis(r.Gaps)...)
		p.b.r.add("refill", "GPUs busy", r.Busy)
		s := summarize(millis(r.Gaps))
		p.b.r.line("refill: %d jobs of %v on %d GPUs: gap %.1f ms p50, %.1f ms p99; GPUs busy %.1f %% of the time",
			len(marks), p.length, r.Slots, s.Median, s.P99, 100*r.Busy)
		return nil
	})
}

// submit submits all jobs, a few at a time: the queue must be there before the first jobs end.
func (p refillPart) submit(ctx context.Context, l *lab, dir string) error {
	c, err := l.client(l.nodes[0])
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i := range p.jobs {
		g.Go(func() error {
			argv := []string{p.b.self, "stamp", p.file(dir, i), p.length.String()}
			if _, err := c.Add(ctx, api.AddRequest{Command: argv}); err != nil {
				return fmt.Errorf("submit job %d: %w", i+1, err)
			}
			return nil
		})
	}
	return g.Wait()
}

func (p refillPart) file(dir string, i int) string {
	return filepath.Join(dir, fmt.Sprintf("job%d", i))
}

func (p refillPart) collect(ctx context.Context, dir string) ([]mark, error) {
	marks := make([]mark, 0, p.jobs)
	for i := range p.jobs {
		m, err := waitMark(ctx, p.file(dir, i)) // in the order of submission, so each wait is short
		if err != nil {
			return nil, err
		}
		marks = append(marks, m)
	}
	return marks, nil
}
