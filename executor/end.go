package executor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/deveronica/cvlab/executor/supervisor"
)

// Stop asks for the end of an attempt: SIGTERM to all of it, SIGKILL after its grace. It returns when the supervisor has
// heard it, not when the job has ended; see Wait. Stopping again, or what has ended, does nothing. why goes into the exit
// record.
func (r *Runner) Stop(ctx context.Context, token string, why string) error {
	if err := r.end(ctx, token, supervisor.Request{Op: supervisor.OpStop, Why: why}); err != nil {
		return fmt.Errorf("stop attempt %s: %w", token, err)
	}
	return nil
}

// Kill is Stop without grace, and without the supervisor's help if that does not answer: then the supervisor is killed,
// the job dies with it, and the attempt ends as lost.
func (r *Runner) Kill(ctx context.Context, token string, why string) error {
	zero := 0.0
	err := r.end(ctx, token, supervisor.Request{Op: supervisor.OpStop, Why: why, GraceS: &zero})
	if err != nil {
		return fmt.Errorf("kill attempt %s: %w", token, err)
	}
	return nil
}

// Signal gives a signal ("SIGUSR1") to those processes of the job that have a handler for it, and says how many did.
func (r *Runner) Signal(ctx context.Context, token, signal string) (reached int, err error) {
	a, err := r.lookup(token)
	if err != nil {
		return 0, fmt.Errorf("signal attempt %s: %w", token, err)
	}
	answer, err := supervisor.Ask(ctx, a.dir, a.rec.Nonce, supervisor.Request{Op: supervisor.OpSignal, Signal: signal})
	if err != nil {
		return 0, fmt.Errorf("signal attempt %s: %w", token, err)
	}
	return answer.Reached, nil
}

func (r *Runner) end(ctx context.Context, token string, req supervisor.Request) error {
	a, err := r.lookup(token)
	if err != nil {
		return err
	}
	r.mu.Lock()
	state, pidfd := a.state, a.pidfd
	r.mu.Unlock()
	switch state {
	case Ended, Lost:
		return nil
	case Prepared, unsettled:
		return fmt.Errorf("%w: it was never launched, discard it", ErrState)
	}
	_, err = supervisor.Ask(ctx, a.dir, a.rec.Nonce, req)
	if err == nil || ctx.Err() != nil || errors.Is(err, supervisor.ErrRefused) {
		return r.unlessEnded(a, err)
	}
	// No socket, or nobody answers. A signal needs neither.
	sig := unix.SIGTERM
	if req.GraceS != nil {
		sig = unix.SIGKILL
	}
	if pidfd == nil {
		return r.unlessEnded(a, err)
	}
	r.log.Warn("supervisor does not answer, sending a signal", "token", token, "signal", unix.SignalName(sig), "error", err)
	return r.unlessEnded(a, supervisor.SignalProcess(pidfd, sig))
}

// unlessEnded forgives an error that comes from the attempt ending at the same time.
func (r *Runner) unlessEnded(a *attempt, err error) error {
	if err == nil {
		return nil
	}
	if _, exitErr := supervisor.ReadExit(a.dir); exitErr == nil {
		return nil
	}
	select {
	case <-a.done:
		return nil
	default:
		return err
	}
}

func (r *Runner) lookup(token string) (*attempt, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.attempts[token]
	if a == nil {
		return nil, ErrUnknown
	}
	return a, nil
}

// Wait returns how the attempt ended, as soon as it has, or the context's error. It needs Run to be running. An attempt
// that is prepared is waited for through its launch.
func (r *Runner) Wait(ctx context.Context, token string) (Exit, error) {
	a, err := r.lookup(token)
	if err != nil {
		return Exit{}, fmt.Errorf("wait for attempt %s: %w", token, err)
	}
	select {
	case <-ctx.Done():
		return Exit{}, fmt.Errorf("wait for attempt %s: %w", token, ctx.Err())
	case <-a.done:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if a.state != Ended && a.state != Lost {
		return Exit{}, fmt.Errorf("wait for attempt %s: %w", token, ErrUnknown) // discarded
	}
	return a.exit, nil
}

// Running lists the tokens a supervisor stands over, in order.
func (r *Runner) Running() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var tokens []string
	for token, a := range r.attempts {
		if a.state == Running {
			tokens = append(tokens, token)
		}
	}
	slices.Sort(tokens)
	return tokens
}

// Exit gives how an attempt ended, and false while it has not. It answers for forgotten attempts too, from the disk.
func (r *Runner) Exit(token string) (Exit, bool, error) {
	r.mu.Lock()
	a := r.attempts[token]
	if a != nil {
		defer r.mu.Unlock()
		return a.exit, a.state == Ended || a.state == Lost, nil
	}
	r.mu.Unlock()
	if !supervisor.ValidToken(token) {
		return Exit{}, false, fmt.Errorf("read exit of attempt %q: %w", token, ErrUnknown)
	}
	e, err := supervisor.ReadExit(r.dir(token))
	switch {
	case errors.Is(err, supervisor.ErrBlank):
		return Exit{}, false, nil
	case errors.Is(err, os.ErrNotExist):
		return Exit{}, false, fmt.Errorf("read exit of attempt %s: %w", token, ErrUnknown)
	case err != nil:
		return Exit{}, false, err
	}
	return e, true, nil
}

// Forget settles an ended attempt once everybody who must know its end does: a tombstone is written, synced, and the token
// can never be used again. Its records and output stay readable. Forgetting twice does nothing.
func (r *Runner) Forget(ctx context.Context, token string) error {
	r.mu.Lock()
	a, err := r.getLocked(token, Ended)
	if a == nil && errors.Is(err, ErrState) && r.attempts[token].state == Lost {
		a, err = r.attempts[token], nil
	}
	r.mu.Unlock()
	if errors.Is(err, ErrTombstone) {
		return nil
	}
	if err == nil {
		err = r.bury(a, supervisor.SocketFile, supervisor.LifeFile)
	}
	if err != nil {
		return fmt.Errorf("forget attempt %s: %w", token, err)
	}
	return ctx.Err()
}

// Discard settles an attempt that was prepared and never launched. Only its tombstone stays. Discarding twice does nothing.
func (r *Runner) Discard(ctx context.Context, token string) error {
	r.mu.Lock()
	a, err := r.getLocked(token, Prepared)
	if err == nil {
		a.state = unsettled // from here on nobody can launch it
	}
	r.mu.Unlock()
	if errors.Is(err, ErrTombstone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("discard attempt %s: %w", token, err)
	}
	if err := r.bury(a, supervisor.RecordFile, supervisor.ExitFile, supervisor.LifeFile, supervisor.OwnLogFile); err != nil {
		r.mu.Lock()
		a.state = Prepared
		r.mu.Unlock()
		return fmt.Errorf("discard attempt %s: %w", token, err)
	}
	close(a.done)
	return ctx.Err()
}

// bury writes the tombstone first, so that whatever happens afterwards can only leave too much on disk. It does not hold
// the mutex while it syncs.
func (r *Runner) bury(a *attempt, rubbish ...string) error {
	if err := supervisor.Bury(a.dir); err != nil {
		return err
	}
	r.mu.Lock()
	delete(r.attempts, a.token)
	r.mu.Unlock()
	for _, name := range rubbish {
		if err := os.Remove(filepath.Join(a.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			r.log.Warn("clean up attempt", "token", a.token, "error", err)
		}
	}
	return nil
}
