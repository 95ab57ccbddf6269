package executor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/deveronica/cvlab/executor/supervisor"
)

// Boottime is the clock of leases: the time since boot, with the time the machine was suspended.
func Boottime() time.Duration { return supervisor.Boottime() }

// Renew tells an attempt that the cluster has confirmed it, in answer to a question sent at sent (Boottime). Before the
// launch it is kept for the supervisor to come. Renewing what has ended does nothing.
func (r *Runner) Renew(ctx context.Context, token string, sent time.Duration) error {
	r.mu.Lock()
	a := r.attempts[token]
	if a == nil || a.state != Running {
		if a != nil {
			a.confirmed = max(a.confirmed, sent)
		}
		r.mu.Unlock()
		return nil
	}
	r.mu.Unlock()
	_, err := supervisor.Ask(ctx, a.dir, a.rec.Nonce, supervisor.Request{Op: supervisor.OpRenew, SentNS: int64(sent)})
	if err := r.unlessEnded(a, err); err != nil {
		return fmt.Errorf("renew attempt %s: %w", token, err)
	}
	return nil
}

// Revoke kills an attempt that the cluster has given up, without grace, and without the supervisor's help if that does not
// answer. Revoking what has ended does nothing.
func (r *Runner) Revoke(ctx context.Context, token, why string) error {
	zero := 0.0
	err := r.end(ctx, token, supervisor.Request{Op: supervisor.OpRevoke, Why: why, GraceS: &zero})
	if errors.Is(err, supervisor.ErrRefused) { // of a version that knows no leases
		err = r.end(ctx, token, supervisor.Request{Op: supervisor.OpStop, Why: why, GraceS: &zero})
	}
	if err != nil {
		return fmt.Errorf("revoke attempt %s: %w", token, err)
	}
	return nil
}

// Freeze lets nothing of an attempt execute any more, whatever the cluster says later; why is told to people. It is undone
// only by ending the attempt. A supervisor that cannot freeze kills it instead. Freezing what has ended does nothing.
func (r *Runner) Freeze(ctx context.Context, token, why string) error {
	a, err := r.lookup(token)
	if err == nil {
		_, err = supervisor.Ask(ctx, a.dir, a.rec.Nonce, supervisor.Request{Op: supervisor.OpFreeze, Why: why})
		if errors.Is(err, supervisor.ErrRefused) { // of a version that does not know how
			return r.Revoke(ctx, token, why)
		}
		err = r.unlessEnded(a, err)
	}
	if err != nil {
		return fmt.Errorf("freeze attempt %s: %w", token, err)
	}
	return nil
}

// Standing is how a running attempt stands right now.
type Standing struct {
	Frozen bool
	For    time.Duration // how long it has been frozen
	Held   string        // why it is frozen for good; "" if its lease did it, or it is not frozen
}

// Standing asks the supervisor of an attempt.
func (r *Runner) Standing(ctx context.Context, token string) (Standing, error) {
	a, err := r.lookup(token)
	if err != nil {
		return Standing{}, fmt.Errorf("look at attempt %s: %w", token, err)
	}
	answer, err := supervisor.Ask(ctx, a.dir, a.rec.Nonce, supervisor.Request{Op: supervisor.OpStatus})
	if err != nil {
		return Standing{}, fmt.Errorf("look at attempt %s: %w", token, err)
	}
	return Standing{Frozen: answer.Frozen, For: time.Duration(answer.FrozenNS), Held: answer.Held}, nil
}
