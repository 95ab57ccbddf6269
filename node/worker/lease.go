package worker

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/deveronica/cvlab/executor"
	"github.com/deveronica/cvlab/fsm"
)

// Renewals asks the leader, by whatever way, whether attempts of this machine are still the ones. It is tried for as long as
// ctx lives, and no answer is an error.
type Renewals interface {
	Renew(ctx context.Context, tokens []fsm.Token) (Verdict, error)
}

// Verdict is the cluster's answer. What is in none of the lists is not decided.
type Verdict struct {
	Valid   []fsm.Token // may execute on, counted from when the question was sent
	Revoked []fsm.Token // are over and must be killed
	Unknown []fsm.Token // the facts have no such attempt
}

// Fences are the supervisors as the lease protocol sees them.
type Fences interface {
	// Renew says that an attempt was confirmed in answer to a question sent at sent, on the clock of Options.Boottime.
	Renew(ctx context.Context, token string, sent time.Duration) error
	// Revoke kills an attempt without grace.
	Revoke(ctx context.Context, token, why string) error
	// Freeze lets nothing of an attempt execute any more, until it is revoked.
	Freeze(ctx context.Context, token, why string) error
	// Standing says how an attempt stands right now.
	Standing(ctx context.Context, token string) (executor.Standing, error)
}

// lease is what the worker knows of one attempt's lease, guarded by Worker.mu. The supervisor alone enforces it.
type lease struct {
	length  time.Duration // 0: none
	start   time.Duration // Boottime when the newest confirmed question was sent, or the record was made
	revoked bool          // the cluster has closed it, and its end is certain
	// launched says that a supervisor may exist, so that only it can end the attempt.
	launched bool
	news     chan struct{} // closed and made anew when start or revoked changes
}

const (
	// renewAtMost is the longest time between two renewals.
	renewAtMost = 10 * time.Second
	// renewTries is how many times an unanswered renewal is repeated within the time of one that was answered.
	renewTries = 4
	// shortestAsk is the least time for all ways of one question.
	shortestAsk = 2 * time.Second
)

// firstAsk is how soon the first question is repeated when nobody answers it; it doubles up to the usual time. A machine
// that has just come up waits for it with all new work.
const firstAsk = 50 * time.Millisecond

// renew asks for all attempts of this machine, again and again, until ctx ends. The first question is asked in any case.
func (w *Worker) renew(ctx context.Context) error {
	first := firstAsk
	for {
		kick, changed := w.leaseKick(), w.o.Cluster.State().Changed()
		tokens, every := w.leased()
		if len(tokens) == 0 && w.mayBegin() && !w.restored() {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-kick:
				continue
			case <-changed:
				continue
			}
		}
		wait := every
		switch {
		case w.renewOnce(ctx, tokens, every):
			w.open()
		case !w.mayBegin():
			wait = min(first, every/renewTries)
			first = 2 * wait
		default:
			wait = every / renewTries
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		case <-kick: // a new attempt; those of before lose nothing by being asked for early
			timer.Stop()
			if !pause(ctx, min(wait, every/renewTries)) {
				return ctx.Err()
			}
		}
	}
}

// restored says that the facts have gone back once. Then each new leader waits until every machine has said what it runs,
// also that it runs nothing.
func (w *Worker) restored() bool { return w.o.Cluster.State().View().EpochExperiments() > 0 }

// leased gives the attempts that may execute or are about to under a lease, and how often to ask for them. Those that hold
// are among them once they run: their lease cannot end, but somebody may have closed them. Strays stand still, so they need no
// answer.
func (w *Worker) leased() (tokens []fsm.Token, every time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	every = renewAtMost
	for token, t := range w.tasks {
		if t.lease.revoked || t.stray.frozen != "" || t.lease.length == 0 && !t.lease.launched {
			continue
		}
		tokens = append(tokens, token)
		if t.lease.length > 0 {
			every = min(every, t.lease.length/10)
		}
	}
	return tokens, every
}

func (w *Worker) leaseKick() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.kick
}

// renewOnce asks once and tells the supervisors. It says whether there was an answer.
func (w *Worker) renewOnce(ctx context.Context, tokens []fsm.Token, every time.Duration) bool {
	sent := w.o.Boottime() // before the question leaves: the lease never counts from later than that
	asking, cancel := context.WithTimeout(ctx, max(2*every, shortestAsk))
	verdict, err := w.o.Renewals.Renew(asking, tokens)
	cancel()
	if err != nil {
		w.o.Logger.DebugContext(ctx, "leases were not renewed, asking again", "error", err)
		return false
	}
	var g errgroup.Group
	g.SetLimit(atOnce)
	for _, token := range verdict.Valid {
		if !w.confirm(token, sent) {
			continue
		}
		g.Go(func() error {
			if err := w.o.Fences.Renew(ctx, token.String(), sent); err != nil && ctx.Err() == nil {
				w.log(ctx, token, "the supervisor did not take the renewal", "error", err)
			}
			return nil
		})
	}
	for _, token := range verdict.Revoked {
		g.Go(func() error {
			w.giveUp(ctx, token)
			return nil
		})
	}
	for _, token := range verdict.Unknown {
		g.Go(func() error {
			w.unknown(ctx, token)
			return nil
		})
	}
	// The functions above give no error.
	_ = g.Wait()
	return true
}

// atOnce is how many supervisors are spoken to at the same time: one that hangs must not use up the leases of the others.
const atOnce = 16

// confirm counts the lease of an attempt from sent, and says whether it has one that its supervisor must hear of.
func (w *Worker) confirm(token fsm.Token, sent time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.tasks[token]
	if t == nil {
		return false
	}
	t.stray.answers = 0
	if sent > t.lease.start {
		t.lease.start = sent
		t.lease.wakeLocked()
	}
	return t.lease.length > 0
}

// giveUp ends an attempt that the cluster has closed.
func (w *Worker) giveUp(ctx context.Context, token fsm.Token) {
	w.mu.Lock()
	t := w.tasks[token]
	if t == nil {
		w.mu.Unlock()
		return
	}
	launched := t.lease.launched
	if !launched {
		t.lease.revoked = true // it will not be launched any more
		t.lease.wakeLocked()
	}
	w.mu.Unlock()
	if !launched {
		return
	}
	err := w.o.Fences.Revoke(ctx, token.String(), "the cluster has given this attempt up")
	w.log(ctx, token, "revoked", "error", err)
	if err != nil {
		return // asked for again, and revoked again
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	t.lease.revoked = true
	t.lease.wakeLocked()
}

func (l *lease) wakeLocked() {
	if l.news != nil {
		close(l.news)
	}
	l.news = make(chan struct{})
}

var errRevoked = errors.New("the cluster has given the attempt up")

// mayLaunch returns when the attempt may execute: its lease has not ended, counted from before Start was first asked for. It
// waits for a renewal when it has, and gives errRevoked when the cluster has closed the attempt. After nil a supervisor may
// exist.
func (w *Worker) mayLaunch(ctx context.Context, token fsm.Token) error {
	for {
		w.mu.Lock()
		l := &w.tasks[token].lease
		switch {
		case l.revoked:
			w.mu.Unlock()
			return errRevoked
		case l.length == 0 || w.o.Boottime() < l.start+l.length:
			l.launched = true
			w.kickLocked()
			w.mu.Unlock()
			return nil
		}
		news := l.news
		w.mu.Unlock()
		w.log(ctx, token, "its lease has ended before it could start; waiting for a renewal")
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-news:
		}
	}
}

// hold puts an attempt under a lease that counts from start, so that it is renewed from now on.
func (w *Worker) hold(token fsm.Token, length, start time.Duration) {
	if length <= 0 || w.o.Renewals == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.tasks[token]
	if t == nil {
		return
	}
	t.lease.length, t.lease.start = length, max(start, t.lease.start)
	t.lease.wakeLocked()
	w.kickLocked()
}

// kickLocked has the loop of renewals look for new attempts.
func (w *Worker) kickLocked() {
	close(w.kick)
	w.kick = make(chan struct{})
}

// launched says that a supervisor stands over the attempt already.
func (w *Worker) launched(token fsm.Token) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t := w.tasks[token]; t != nil {
		t.lease.launched = true
	}
}

// leaseOf is the length of a lease that was found on disk; if its record is damaged, what the facts say. The supervisor has
// read the record when it was whole.
func (w *Worker) leaseOf(f executor.Found, token fsm.Token) time.Duration {
	if a := w.o.Cluster.State().View().Attempt(token); a != nil && f.Lease == 0 {
		return time.Duration(a.Lease)
	}
	return f.Lease
}
