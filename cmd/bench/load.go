package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/ui/api"
)

// loadPart lets a cluster of three work hard for a while and looks whether it stays calm: the same leader, the same
// processes, quick answers.
type loadPart struct {
	b      *bench
	length time.Duration
}

// The load: what a busy lab does, and more.
const (
	loadSubmitters = 20
	loadEvery      = 200 * time.Millisecond // of each submitter
	loadShort      = 30                     // short jobs in the queue or running, all the time
	loadLong       = 4                      // jobs that run all the time
	loadWatchers   = 2                      // event streams
	loadCancels    = 0.05                   // share of submissions that are cancelled at once
	loadReads      = 0.10                   // share of submissions after which a consistent read follows
)

func (b *bench) loadCommand() *cobra.Command {
	p := loadPart{b: b}
	c := b.part("load", "Full load for minutes: does the leader stay, are processes left alone, how quick are answers",
		func(ctx context.Context) error { return p.measure(ctx) })
	c.Flags().DurationVar(&p.length, "length", 10*time.Minute, "how long it lasts")
	needLonger(c, "length", &p.length)
	return c
}

func (p loadPart) measure(ctx context.Context) error {
	return p.b.withLab(ctx, 3, nil, func(l *lab) error {
		w := &working{lab: l, b: p.b, bed: newBed(l, "load", p.b.self, rand.New(rand.NewPCG(1, 1)), p.b.r.line)}
		return w.run(ctx, p.length)
	})
}

// working is one cluster under load.
type working struct {
	lab *lab
	b   *bench
	bed *bed

	mu            sync.Mutex
	writes, reads []time.Duration
	events, short int
}

func (w *working) run(ctx context.Context, length time.Duration) error {
	long, err := w.startLong(ctx)
	if err != nil {
		return err
	}
	before, err := w.lab.see(ctx, w.lab.nodes[0])
	if err != nil {
		return err
	}
	used, err := measureAll(w.lab)
	if err != nil {
		return err
	}
	began := time.Now()
	during, stop := context.WithTimeout(ctx, length)
	defer stop()
	if err := w.work(ctx, during); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	after, err := w.lab.see(ctx, w.lab.nodes[0])
	if err != nil {
		return err
	}
	now, err := measureAll(w.lab)
	if err != nil {
		return err
	}
	w.report(float64(after.Term-before.Term), used, now, time.Since(began))
	return w.checkLong(ctx, long)
}

func (w *working) report(changes float64, before, after []usageOf, took time.Duration) {
	r := w.b.r
	r.figure(row{Part: "load", Name: "changes of the leader", Unit: "", Bars: []bar{{Of: "max", Less: 1}}})
	r.add("load", "changes of the leader", changes)
	r.figure(row{Part: "load", Name: "submission or cancel", Unit: "ms"})
	r.add("load", "submission or cancel", millis(w.writes)...)
	r.figure(row{Part: "load", Name: "consistent read", Unit: "ms"})
	r.add("load", "consistent read", millis(w.reads)...)
	for i := range after {
		r.figure(row{Part: "load", Name: "CPU of a node", Unit: "% of a core"})
		r.add("load", "CPU of a node", 100*(after[i].cpu-before[i].cpu).Seconds()/took.Seconds())
		r.figure(row{Part: "load", Name: "resident", Unit: "MB"})
		r.add("load", "resident", after[i].rss)
	}
	r.line("load: %s: %d writes, %d consistent reads, %d short jobs, %d events; the leader changed %.0f times",
		took.Round(time.Second), len(w.writes), len(w.reads), w.short, w.events, changes)
}

// startLong starts the jobs that run all the time.
func (w *working) startLong(ctx context.Context) ([]uint64, error) {
	var ids []uint64
	for range loadLong {
		id, err := w.bed.job(ctx, "", 24*3600, 0)
		if err != nil {
			return nil, err
		}
		if err := w.bed.seen(ctx, id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// checkLong demands that they run on as they began: the same attempt, one process, no testimony missing.
func (w *working) checkLong(ctx context.Context, ids []uint64) error {
	c, err := w.lab.client(w.lab.nodes[0], w.lab.nodes[1:]...)
	if err != nil {
		return err
	}
	h, err := readHistory(w.bed.file)
	if err != nil {
		return err
	}
	all := []error{h.checkAttempts()}
	for _, id := range ids {
		d, err := c.Get(ctx, id)
		if err == nil && (d.Status != fsm.Running || d.Attempt != 1) {
			err = fmt.Errorf("experiment %d is %s in attempt %d, nothing was to touch it:%s", id, d.Status, d.Attempt, story(d))
		}
		all = append(all, err)
	}
	return errors.Join(all...)
}

// work does everything at once until during ends. Calls go on a little longer than that, so that none is cut off.
func (w *working) work(ctx, during context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	during, stop := context.WithCancel(during)
	defer stop()
	for i := range loadSubmitters {
		c, err := w.client(i)
		if err != nil {
			return err
		}
		g.Go(func() error { return w.submit(ctx, during, c, rand.New(rand.NewPCG(uint64(i), 2))) })
	}
	for i := range loadWatchers {
		c, err := w.client(i)
		if err != nil {
			return err
		}
		g.Go(func() error { return w.watch(during, c) })
	}
	c, err := w.client(0)
	if err != nil {
		return err
	}
	g.Go(func() error { return w.feed(ctx, during, c) })
	return g.Wait()
}

func (w *working) client(i int) (*api.Client, error) {
	m := w.lab.nodes[i%len(w.lab.nodes)]
	return w.lab.client(m, w.lab.nodes[(i+1)%len(w.lab.nodes)])
}

// submit is one person's script: held submissions at a steady pace, some taken back, some looked at.
func (w *working) submit(ctx, during context.Context, c *api.Client, rnd *rand.Rand) error {
	for {
		if pause(during, between(loadEvery/2, 3*loadEvery/2)) != nil {
			return nil
		}
		began := time.Now()
		added, err := c.Add(ctx, held())
		if err != nil {
			return fmt.Errorf("submit under load: %w", err)
		}
		w.took(&w.writes, began)
		if rnd.Float64() < loadCancels {
			began := time.Now()
			if _, err := c.Cancel(ctx, added.Experiments[0].ID, ""); err != nil {
				return fmt.Errorf("cancel under load: %w", err)
			}
			w.took(&w.writes, began)
		}
		if rnd.Float64() < loadReads {
			began := time.Now()
			path := fmt.Sprintf("/api/queue/%d?consistent=1", added.Experiments[0].ID)
			status, text, err := w.bed.get(ctx, w.lab.nodes[rnd.IntN(len(w.lab.nodes))], path)
			if err != nil || status != http.StatusOK {
				return fmt.Errorf("read under load: %w", errors.Join(err, fmt.Errorf("status %d: %s", status, text)))
			}
			w.took(&w.reads, began)
		}
	}
}

func (w *working) took(of *[]time.Duration, began time.Time) {
	d := time.Since(began)
	w.mu.Lock()
	defer w.mu.Unlock()
	*of = append(*of, d)
}

// watch is a browser that follows everything.
func (w *working) watch(during context.Context, c *api.Client) error {
	err := c.Events(during, 0, func(api.Event) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events++
		return nil
	})
	if during.Err() != nil {
		return nil
	}
	return fmt.Errorf("follow events under load: %w", err)
}

// feed keeps short jobs in the queue.
func (w *working) feed(ctx, during context.Context, c *api.Client) error {
	for {
		q, err := c.Queue(ctx, api.QueueQuery{Limit: 1})
		if err != nil {
			return fmt.Errorf("count jobs under load: %w", err)
		}
		for n := q.Counts[fsm.Pending] + q.Counts[fsm.Running] - loadLong; n < loadShort; n++ {
			if _, err := c.Add(ctx, api.AddRequest{Command: []string{"sh", "-c", "sleep $((1 + $$ % 4)); seq 1000"}}); err != nil {
				return fmt.Errorf("submit a job under load: %w", err)
			}
			w.short++
		}
		if pause(during, 300*time.Millisecond) != nil {
			return nil
		}
	}
}
