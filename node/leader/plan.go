package leader

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/fsm/sched"
)

// atOnce is how many assignments are in flight together. They share Raft's group commit, so a sweep that starts on a
// whole cluster costs a few disk writes instead of one after another.
const atOnce = 64

// plan makes a plan whenever the facts or the machines' health have changed, and carries it out.
func (l *Leader) plan(ctx context.Context) error {
	var c clock
	began := time.Now()
	for {
		// Both are taken before the inputs are read: a change that comes while planning is seen afterwards.
		facts, health := l.o.Cluster.State().Changed(), l.o.Health.HealthChanged()
		in := l.input(&c, time.Since(began))
		p := sched.Make(in)
		switch changed := l.carryOut(ctx, in.View, p); {
		case changed:
		case len(p.Assignments)+len(p.Cancels)+len(p.Withdrawals) > 0:
			// Everything was refused. Even a refused entry wakes whoever watches the facts, so waiting for a change would
			// not wait at all, and a planner that disagrees with the state machine would fill the log.
			sleep(ctx, planAtMost, nil, nil)
		case p.Wake > 0:
			sleep(ctx, min(planAtLeast, p.Wake), facts, health)
		default:
			sleep(ctx, planAtLeast, facts, health)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// sleep waits for changed facts, for changed health but then at least planAtMost, or for at most wait.
func sleep(ctx context.Context, wait time.Duration, facts, health <-chan struct{}) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	soonest := time.NewTimer(min(wait, planAtMost))
	defer soonest.Stop()
	early := soonest.C
	var late <-chan struct{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-facts:
			return
		case <-timer.C:
			return
		case <-early:
			early, late = nil, health
		case <-late:
			return
		}
	}
}

// input gathers what the planner needs.
func (l *Leader) input(c *clock, leading time.Duration) sched.Input {
	v := l.o.Cluster.State().View()
	return sched.Input{View: v, Now: c.now(v, time.Now()), Leading: leading, Health: l.o.Health.Health()}
}

// carryOut proposes what the plan says and tells whether any fact has changed by it.
func (l *Leader) carryOut(ctx context.Context, v fsm.View, p sched.Plan) bool {
	var g errgroup.Group
	g.SetLimit(atOnce)
	var changed atomic.Bool
	for _, c := range l.commands(v, p) {
		g.Go(func() error {
			if l.propose(ctx, c) {
				changed.Store(true)
			}
			return nil
		})
	}
	// The functions above give no error: what failed is planned again.
	_ = g.Wait()
	return changed.Load()
}

// commands are a plan as changes of the facts.
func (l *Leader) commands(v fsm.View, p sched.Plan) []fsm.Command {
	var list []fsm.Command
	for _, a := range p.Assignments {
		if !l.mayStart(v, a.Experiment, time.Now()) {
			continue // tried again within planAtMost
		}
		list = append(list, &fsm.Assign{
			Experiment: a.Experiment, Node: a.Node, GPUs: a.GPUs, Others: a.Others, Lease: l.lease(v, a.Experiment),
		})
	}
	for _, c := range p.Cancels {
		list = append(list, &fsm.Cancel{Experiments: []uint64{c.Experiment}, Reason: c.Reason})
	}
	for _, w := range p.Withdrawals {
		list = append(list, &fsm.Withdraw{Token: w.Token, Reason: w.Reason, Node: w.Node})
	}
	return list
}

func (l *Leader) propose(ctx context.Context, c fsm.Command) bool {
	r, err := l.o.Cluster.Propose(ctx, fsm.Entry{By: "leader", At: time.Now().UTC(), Command: c})
	switch {
	case errors.Is(err, context.Canceled):
		return false
	case err != nil:
		l.o.Logger.Warn("a decision could not be committed; planning again", "command", c.Kind(), "error", err)
		return false
	case r.Refused():
		l.o.Logger.Debug("a decision came too late; planning again", "command", c.Kind(), "why", r.Message)
		return false
	}
	return true
}
