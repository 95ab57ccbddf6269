// Package leader is what only the leader of a cluster does: plan, assign, cancel what can never start, and rule over leases. (The seat itself
// keeps the right machines voting.) Everything here runs inside one term: when the term ends, its context ends, and nothing
// is carried over; the next leader computes again from the facts.
//
// Planning itself is the pure function sched.Make. This package gathers its inputs, carries its answer out as commands, and
// waits for a reason to plan again. A refused Assign is no error: facts moved on, so the next plan is made from newer ones.
package leader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/fsm/sched"
)

// Cluster is what the leader needs of its machine's seat.
type Cluster interface {
	// Lead calls fn once for every term this machine wins, after a barrier, with a context that ends with the term.
	Lead(ctx context.Context, fn func(ctx context.Context, term uint64) error) error
	State() *fsm.State
	Propose(ctx context.Context, e fsm.Entry) (fsm.Result, error)
	// Barrier returns once State has everything that was committed before the call, proven by a younger entry.
	Barrier(ctx context.Context) error
}

// Health is the freshest word on how the machines feel.
type Health interface {
	Health() map[string]sched.Health
	// HealthChanged gives a channel that is closed when a beacon or a change of state has come in.
	HealthChanged() <-chan struct{}
}

// Options are what New needs; all but Lease are required.
type Options struct {
	Cluster Cluster
	Health  Health
	Logger  *slog.Logger
	// Self is this machine's ID.
	Self string
	// Voters says how many machines vote.
	Voters func() int
	Lease  LeaseTimes
}

// Leader does the leader's work whenever its machine leads.
type Leader struct {
	o     Options
	reign atomic.Pointer[reign] // over leases, while there is one
}

// New makes a Leader; it does nothing before Run.
func New(o Options) *Leader {
	o.Lease = o.Lease.withDefaults()
	return &Leader{o: o}
}

// Run blocks until ctx ends and does the leader's work in every term this machine wins.
func (l *Leader) Run(ctx context.Context) error {
	if err := l.o.Cluster.Lead(ctx, l.term); err != nil {
		return fmt.Errorf("lead: %w", err)
	}
	return nil
}

func (l *Leader) term(ctx context.Context, term uint64) error {
	l.o.Logger.Info("leading", "term", term)
	defer l.o.Logger.Info("leading no more", "term", term)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.plan(ctx) })
	g.Go(func() error { return l.rule(ctx) })
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// The longest time between two plans: a node that falls silent sends no event, so silence is found by looking. And the
// shortest time between two that only health has caused: beacons of a hundred machines must not make the leader plan a
// hundred times a second. A change of facts (a submission, an end) waits for neither.
const (
	planAtLeast = time.Second
	planAtMost  = 250 * time.Millisecond
)
