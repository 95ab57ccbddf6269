package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/deveronica/cvlab/ui/api"
)

// absence is a worker that is cut off for a while, with its jobs.
type absence struct {
	m           *member
	jobs        []uint64
	attempts    map[uint64]int // at the cut
	pids        map[uint64]int
	cut, healed time.Duration // since boot
}

func (b *bed) newAbsence(ctx context.Context, m *member, jobs int) (*absence, error) {
	ids, err := b.jobsOn(ctx, m, jobs)
	if err != nil {
		return nil, err
	}
	h, err := b.testimony.read()
	a := &absence{m: m, jobs: ids, attempts: map[uint64]int{}, pids: map[uint64]int{}}
	for _, id := range ids {
		last := h.newest(id)
		a.attempts[id], a.pids[id] = last.attempt, last.pid
	}
	return a, err
}

// newest is the last sight of an experiment, zero if there is none.
func (h history) newest(experiment uint64) sight {
	for _, s := range slices.Backward(h) {
		if s.experiment == experiment {
			return s
		}
	}
	return sight{}
}

// leave cuts the worker off all others.
func (b *bed) leave(ctx context.Context, a *absence) (err error) {
	if err := a.m.isolate(ctx, b.l.except(a.m)...); err != nil {
		return err
	}
	a.cut, err = sinceBoot()
	return err
}

func sinceBoot() (time.Duration, error) {
	at, err := bootTime()
	return time.Duration(at), err
}

func (b *bed) comeBack(ctx context.Context, a *absence) (err error) {
	if a.healed, err = sinceBoot(); err != nil {
		return err
	}
	return a.m.hear(ctx)
}

// requeued waits until a job testifies in a later attempt than the worker's, and checks that it is not too early: the newest
// renewal was at most 2 s before the cut, three periods, since a busy machine renews late.
func (b *bed) requeued(ctx context.Context, a *absence, id uint64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, leaseWait+20*time.Second*b.slack, errors.New("that is too long"))
	defer cancel()
	err := until(ctx, fmt.Sprintf("experiment %d to go on elsewhere", id), func() (bool, error) {
		h, err := b.testimony.read()
		return h.newest(id).attempt > a.attempts[id], errors.Join(err, pause(ctx, 50*time.Millisecond))
	})
	if err != nil {
		return err
	}
	leads, _, err := b.leaderAmong(ctx, b.l.except(a.m))
	if err != nil {
		return err
	}
	d, err := b.detail(ctx, leads, id)
	if err != nil {
		return err
	}
	return a.notEarly(d)
}

// notEarly checks when the worker's attempt was given up: the new one is held back for longer, so its start tells less.
func (a *absence) notEarly(d api.Detail) error {
	now, err := sinceBoot()
	if err != nil {
		return err
	}
	booted := time.Now().Add(-now)
	for _, x := range d.Attempts {
		if x.Number != a.attempts[d.ID] {
			continue
		}
		if x.EndedAt == nil {
			return fmt.Errorf("experiment %d went on elsewhere while attempt %d was open", d.ID, x.Number)
		}
		earliest := booted.Add(a.cut - shortLease/3 + leaseWait)
		if early := earliest.Sub(*x.EndedAt); early > 0 {
			return fmt.Errorf("attempt %d of experiment %d was given up %v too early", x.Number, d.ID, early.Round(time.Millisecond))
		}
		return nil
	}
	return fmt.Errorf("attempt %d of experiment %d is not recorded", a.attempts[d.ID], d.ID)
}

// lastSign is how long after the cut the worker's attempt testified last.
func (a *absence) lastSign(h history, id uint64) time.Duration {
	life := h.of(id, a.attempts[id])
	return time.Duration(life[len(life)-1].at) - a.cut
}

// killed waits until the worker's old process of a job is gone, and gives how long that took from the moment given.
func (b *bed) killed(ctx context.Context, a *absence, id uint64, from time.Duration) (time.Duration, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Second*b.slack, errors.New("5 s are promised"))
	defer cancel()
	err := until(ctx, fmt.Sprintf("the old process of experiment %d to be killed", id), func() (bool, error) {
		return errors.Is(syscall.Kill(a.pids[id], 0), syscall.ESRCH), nil
	})
	now, clock := sinceBoot()
	return now - from, errors.Join(err, clock)
}

// frozenLimit is how long after the cut an attempt may testify; the second is the matrix's own.
func (b *bed) frozenLimit() time.Duration { return shortLease + time.Second*b.slack }
