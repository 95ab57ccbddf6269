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
