package worker

import (
	"context"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/deveronica/cvlab/fsm"
)

// Frozen is an attempt that stands still because its lease has ended.
type Frozen struct {
	Token      fsm.Token
	Experiment uint64
	Since      time.Time // by this machine's clock
	Lease      time.Duration
}

// lookFrozen is how often attempts whose lease should have ended are looked at.
const lookFrozen = time.Second

// Frozen gives the attempts of this machine that stand still until a word comes, in the order of their tokens.
func (w *Worker) Frozen() []Frozen {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []Frozen
	for _, t := range w.tasks {
		if t.frozen != nil && t.stray.frozen == "" {
			list = append(list, *t.frozen)
		}
	}
	slices.SortFunc(list, func(a, b Frozen) int { return strings.Compare(a.Token.String(), b.Token.String()) })
	return list
}

// watchFrozen keeps in mind what stands still, until ctx ends. The supervisors decide it; here it is only told to people.
func (w *Worker) watchFrozen(ctx context.Context) error {
	for pause(ctx, lookFrozen) {
		var g errgroup.Group
		g.SetLimit(atOnce)
		for token, t := range w.overdue() {
			g.Go(func() error {
				w.lookFrozen(ctx, token, t)
				return nil
			})
		}
		// The functions above give no error.
		_ = g.Wait()
	}
	return ctx.Err()
}

// overdue gives the attempts whose lease should have ended by now, and forgets that the others were frozen.
func (w *Worker) overdue() map[fsm.Token]*task {
	w.mu.Lock()
	defer w.mu.Unlock()
	due := map[fsm.Token]*task{}
	now := w.o.Boottime()
	for token, t := range w.tasks {
		switch {
		case t.lease.launched && t.lease.length > 0 && now >= t.lease.start+t.lease.length:
			due[token] = t
		default:
			t.frozen = nil
		}
	}
	return due
}

func (w *Worker) lookFrozen(ctx context.Context, token fsm.Token, t *task) {
	s, err := w.o.Fences.Standing(ctx, token.String())
	if err != nil {
		return // it has just ended, or is asked again
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !s.Frozen:
		t.frozen = nil
	case t.frozen == nil: // once: a time that is counted anew each second would seem to move
		t.frozen = &Frozen{Token: token, Experiment: t.about.experiment, Since: time.Now().Add(-s.For).Round(time.Second), Lease: t.lease.length}
	}
}
