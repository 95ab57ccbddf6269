package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/ui/api"
)

// failoverPart measures how long nothing can be submitted when the leader is gone.
type failoverPart struct {
	b   *bench
	n   int
	cut bool // the host is cut off; otherwise the process is killed and its host answers
}

func (b *bench) failoverCommand() *cobra.Command {
	p := failoverPart{b: b}
	c := b.part("failover", "Death of the leader to the next acknowledged submission",
		func(ctx context.Context) error { return p.measure(ctx) })
	c.Flags().IntVar(&p.n, "n", 20, "times the leader dies")
	c.Flags().BoolVar(&p.cut, "cut", false, "cut the leader's host off the network instead of killing the process (root only)")
	needPositive(c, "n", &p.n)
	before(c, func() error {
		if p.cut {
			return mayMakeHosts()
		}
		return nil
	})
	return c
}

// The figures of this part.
const (
	floodName    = "any survivor, asked every 5 ms"
	survivorName = "client with retry, was on a survivor"
	leaderName   = "client with retry, was on the leader"
	gaveUpName   = "client with retry, was on the leader: gave up"
)

func (p failoverPart) name() string {
	if p.cut {
		return "failover --cut"
	}
	return "failover"
}

func (p failoverPart) measure(ctx context.Context) (err error) {
	median, worst := 150.0, []bar{{Of: "max", Less: 1000}}
	if p.cut {
		median, worst = 2000, nil
	}
	bars := append([]bar{{Of: "median", Less: median}}, worst...)
	for _, name := range []string{floodName, survivorName, leaderName} {
		p.b.r.figure(row{Part: p.name(), Name: name, Unit: "ms", Bars: bars})
	}
	var h *hosts
	if p.cut {
		if h, err = newHosts(ctx, 0, 3); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, h.remove()) }()
	}
	return p.b.withLab(ctx, 3, h, func(l *lab) error {
		for i := range p.n {
			if err := p.once(ctx, l, i+1); err != nil {
				return fmt.Errorf("failover %d: %w", i+1, err)
			}
		}
		return nil
	})
}

// once lets the leader die once, measures, and makes the cluster whole again.
func (p failoverPart) once(ctx context.Context, l *lab, number int) error {
	if err := pause(ctx, between(time.Second, 3*time.Second)); err != nil {
		return err
	}
	leads, others, err := l.leader(ctx)
	if err != nil {
		return err
	}
	a, err := p.askers(ctx, l, leads, others)
	if err != nil {
		return err
	}
	began := time.Now()
	if p.cut {
		err = leads.host.cut(ctx)
	} else {
		err = leads.started.Load().Kill()
	}
	if err != nil {
		return fmt.Errorf("let %s die: %w", leads.name, err)
	}
	got, err := a.ask(ctx, began)
	if err != nil {
		return err
	}
	p.b.r.add(p.name(), floodName, ms(got.flood))
	p.b.r.add(p.name(), survivorName, ms(got.survivor))
	verdict := "acknowledged after"
	if got.gaveUp != nil {
		verdict = "gave up after"
		p.b.r.add(p.name(), gaveUpName, ms(got.leader))
	} else {
		p.b.r.add(p.name(), leaderName, ms(got.leader))
	}
	p.b.r.line("%s %2d of %s: any survivor %7.1f ms (%d asked); client with retry on a survivor %7.1f ms, on the leader %s %7.1f ms",
		p.name(), number, leads.name, ms(got.flood), got.asked, ms(got.survivor), verdict, ms(got.leader))
	return p.mend(ctx, l, leads)
}

// mend brings the dead one back, waits until the cluster is whole, and clears the queue.
func (p failoverPart) mend(ctx context.Context, l *lab, dead *member) error {
	if p.cut {
		if err := dead.host.heal(ctx); err != nil {
			return err
		}
	} else {
		<-dead.started.Load().done
		if err := l.launch(dead, "up"); err != nil {
			return err
		}
	}
	if err := l.waitWhole(ctx); err != nil {
		return err
	}
	c, err := l.client(l.nodes[0])
	if err != nil {
		return err
	}
	_, err = c.Bulk(ctx, api.BulkRequest{Action: "cancel", Select: &api.BulkSelect{Status: []fsm.Status{fsm.Held}}})
	if err != nil {
		return fmt.Errorf("clear the queue: %w", err)
	}
	return nil
}

// askers are those who submit at the moment of death. All their connections are warm.
type askers struct {
	survivors            []*api.Client // ask once
	onSurvivor, onLeader *api.Client   // know all three nodes and repeat
}

func (p failoverPart) askers(ctx context.Context, l *lab, leads *member, others []*member) (askers, error) {
	var a askers
	var errs []error
	for _, m := range others {
		c, err := l.once(m)
		a.survivors = append(a.survivors, c)
		errs = append(errs, err)
	}
	var err1, err2 error
	a.onSurvivor, err1 = l.client(others[0], leads, others[1])
	a.onLeader, err2 = l.client(leads, others...)
	if err := errors.Join(append(errs, err1, err2)...); err != nil {
		return a, err
	}
	for _, c := range append([]*api.Client{a.onSurvivor, a.onLeader}, a.survivors...) {
		if err := submitHeld(ctx, c); err != nil {
			return a, fmt.Errorf("warm up: %w", err)
		}
	}
	return a, nil
}

// submitHeld submits something that is not started: only the acknowledgement is of interest.
func submitHeld(ctx context.Context, c *api.Client) error {
	_, err := c.Add(ctx, api.AddRequest{Command: []string{"true"}, Hold: true})
	return err
}

// answers are the times from the death to the first acknowledgement each asker got.
type answers struct {
	flood, survivor, leader time.Duration
	asked                   int   // submissions of the flood
	gaveUp                  error // the client that was on the leader ended so, after the time in leader
}

// ask lets all askers loose at once.
func (a askers) ask(ctx context.Context, began time.Time) (answers, error) {
	var got answers
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		got.flood, got.asked, err = flood(ctx, began, a.survivors)
		return err
	})
	g.Go(func() error {
		err := submitHeld(ctx, a.onSurvivor)
		got.survivor = time.Since(began)
		if err != nil {
			return fmt.Errorf("client with retry on a survivor: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		got.gaveUp = submitHeld(ctx, a.onLeader)
		got.leader = time.Since(began)
		return context.Cause(ctx)
	})
	return got, g.Wait()
}

// Bounds of the flood.
const (
	floodEvery = 5 * time.Millisecond
	floodMost  = 2048 // submissions under way; a server may keep them while it has no leader
	floodLimit = 60 * time.Second
)

// flood submits to each client in turn every 5 ms without waiting for earlier answers, until one is acknowledged. So the
// time does not depend on how long a try takes to fail.
func flood(ctx context.Context, began time.Time, to []*api.Client) (time.Duration, int, error) {
	ctx, cancel := context.WithTimeout(ctx, floodLimit)
	defer cancel()
	first := make(chan time.Duration, 1)
	var g errgroup.Group
	g.SetLimit(floodMost)
	tick := time.NewTicker(floodEvery)
	defer tick.Stop()
	asked := 0
	for {
		for _, c := range to {
			if g.TryGo(func() error {
				if submitHeld(ctx, c) == nil {
					select {
					case first <- time.Since(began):
					default:
					}
				}
				return nil
			}) {
				asked++
			}
		}
		select {
		case d := <-first:
			cancel()
			return d, asked, g.Wait()
		case <-ctx.Done():
			return 0, asked, errors.Join(fmt.Errorf("no submission was acknowledged: %w", context.Cause(ctx)), g.Wait())
		case <-tick.C:
		}
	}
}
