package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// Sizes of F03.
const (
	staleWrites = 10 // sent into the paused leader's sockets, and as many again when it goes on
	readers     = 50 // at the same time
)

// pauseLeader is F03. Requests wait in the old leader's sockets when it goes on, thinking that it leads: a write it
// acknowledges must be the cluster's (G1 sees that later), and a consistent read must know what the new leader acknowledged.
func pauseLeader(ctx context.Context, b *bed, t times) (got outcome, err error) {
	if err := b.aJobEverywhere(ctx); err != nil {
		return got, err
	}
	for _, length := range t.pauses {
		if err := b.pauseFor(ctx, length, t.staleReads, &got); err != nil {
			return got, fmt.Errorf("paused for %v: %w", length, err)
		}
		if err := b.l.waitWhole(ctx); err != nil {
			return got, err
		}
	}
	return got, nil
}

func (b *bed) pauseFor(ctx context.Context, length time.Duration, reads int, got *outcome) (err error) {
	leads, others, err := b.l.leader(ctx)
	if err != nil {
		return err
	}
	c, err := b.l.client(others[0], others[1])
	if err != nil {
		return err
	}
	if err := leads.started.Load().Signal(syscall.SIGSTOP); err != nil {
		return fmt.Errorf("pause %s: %w", leads.name, err)
	}
	goOn := func() error { return leads.started.Load().Signal(syscall.SIGCONT) }
	defer func() { err = errors.Join(err, goOn()) }()
	began := time.Now()
	id, err := b.submit(ctx, c, held())
	if err != nil {
		return err
	}
	got.add(time.Since(began))
	g, gctx := errgroup.WithContext(ctx)
	b.askTheOld(gctx, g, leads, id, reads)
	if err := pause(ctx, length-time.Since(began)); err != nil {
		return errors.Join(err, g.Wait())
	}
	if err := goOn(); err != nil {
		return errors.Join(fmt.Errorf("let %s go on: %w", leads.name, err), g.Wait())
	}
	b.askTheOld(gctx, g, leads, id, reads)
	if err := g.Wait(); err != nil {
		return err
	}
	return b.within(got.worst, 2*time.Second, "the time to a new leader's acknowledgement")
}

// askTheOld lets writes and consistent reads go to the old leader. Errors are fine, lies are not.
func (b *bed) askTheOld(ctx context.Context, g *errgroup.Group, old *member, id uint64, reads int) {
	for range staleWrites {
		g.Go(func() error {
			c, err := b.l.once(old)
			if err != nil {
				return err
			}
			if again, err := b.try(ctx, c); err == nil && again == id {
				return fmt.Errorf("%s gave number %d to a second experiment", old.name, id)
			}
			return nil
		})
	}
	for range readers {
		g.Go(func() error {
			for range reads / readers {
				status, _, err := b.get(ctx, old, fmt.Sprintf("/api/queue/%d?consistent=1", id))
				if err == nil && status == http.StatusNotFound {
					return fmt.Errorf("%s answered a consistent read without experiment %d, which had been acknowledged", old.name, id)
				}
			}
			return nil
		})
	}
}
