package leader

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/deveronica/cvlab/fsm"
)

// ErrNotLeading is returned by Renew on a machine that does not rule over leases now.
var ErrNotLeading = errors.New("this machine does not lead, or has only just begun to")

// Verdict is the answer to a node that asked about its attempts. What is in none of the lists is not decided.
type Verdict struct {
	Valid   []fsm.Token // may execute on, counted from when the node sent the question
	Revoked []fsm.Token // are over and must be killed
	Unknown []fsm.Token // the facts have no such attempt
}

// Renew answers a node that asks whether its attempts are still the ones. It returns after an entry was committed that is
// younger than the question, so that a leader of the past, however late it notices, confirms nothing. An answer to no
// tokens says just that: a leader with a majority has heard the node.
func (l *Leader) Renew(ctx context.Context, node string, tokens []fsm.Token) (Verdict, error) {
	r := l.reign.Load()
	if r == nil {
		return Verdict{}, ErrNotLeading
	}
	r.heard(node, time.Now())
	if err := l.o.Cluster.Barrier(ctx); err != nil {
		return Verdict{}, fmt.Errorf("renew leases: %w", err)
	}
	v := l.o.Cluster.State().View()
	return r.answer(node, tokens, v.Reign(), v.Attempt), nil
}

// rule keeps the leases for one term.
func (l *Leader) rule(ctx context.Context) error {
	for {
		if err := l.oneReign(ctx); err != nil {
			return err
		}
		// It could not begin, or another reign began: all waits start anew.
		if !pause(ctx, leaseTick) {
			return ctx.Err()
		}
	}
}

// oneReign begins a reign and keeps it until it is not the newest any more.
func (l *Leader) oneReign(ctx context.Context) error {
	res, err := l.o.Cluster.Propose(ctx, fsm.Entry{By: "leader", At: time.Now().UTC(), Command: &fsm.Reign{Node: l.o.Self}})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil || res.Refused() {
		l.o.Logger.Warn("the reign over leases could not begin; trying again", "error", err, "why", res.Message)
		return nil
	}
	r := newReign(res.Index, l.o.Lease, time.Now())
	l.reign.Store(r)
	defer l.reign.Store(nil)
	for pause(ctx, min(leaseTick, l.o.Lease.Length/10)) {
		v := l.o.Cluster.State().View()
		if v.Reign() > r.index {
			l.o.Logger.Warn("another reign over leases has begun", "own", r.index, "newest", v.Reign())
			return nil
		}
		var open []*fsm.Attempt
		for a := range v.Open("") {
			open = append(open, a)
		}
		l.expire(ctx, v, r.overdue(open, time.Now()))
	}
	return ctx.Err()
}

// expire proposes what is overdue. What failed is marked, and proposed again with the next tick.
func (l *Leader) expire(ctx context.Context, v fsm.View, due []*fsm.Expire) {
	var g errgroup.Group
	g.SetLimit(atOnce)
	for _, c := range due {
		g.Go(func() error {
			a := v.Attempt(c.Token)
			l.o.Logger.Warn("a lease has run out", "token", c.Token, "experiment", a.Experiment, "node", a.Node, "silent", time.Duration(c.Silent))
			l.propose(ctx, c)
			return nil
		})
	}
	// The functions above give no error.
	_ = g.Wait()
}

// lease is what an experiment's next attempt gets. With fewer than three voters the loss of one machine stops all commits,
// and an answer that cannot come must stop no work.
func (l *Leader) lease(v fsm.View, experiment uint64) fsm.Duration {
	e := v.Experiment(experiment)
	if e == nil {
		return 0
	}
	normal := l.o.Lease.Length
	if l.o.Voters() < 3 {
		normal = 0
	}
	return v.Spec(e).LeaseOr(normal)
}

// mayStart says whether an experiment may be assigned. One of before the newest epoch may run on a machine without the facts
// knowing it: it waits until every machine has said what it runs and has had it adopted or frozen (R11), or was silent for
// so long that nothing of it executes any more.
func (l *Leader) mayStart(v fsm.View, experiment uint64, now time.Time) bool {
	_, _, epoch := v.Cluster()
	e := v.Experiment(experiment)
	if e == nil || e.ID > v.EpochExperiments() || e.Token.Epoch == epoch {
		return true
	}
	r := l.reign.Load()
	return r != nil && r.accounted(v.Nodes(), max(time.Duration(v.Spec(e).LeaseOr(l.o.Lease.Length)), l.o.Lease.Length), now)
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
