package executor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/deveronica/cvlab/executor/supervisor"
)

const (
	// lockPoll is how often an attempt is looked at whose supervisor lives but could not be identified.
	lockPoll = 50 * time.Millisecond
	// sweepTime is how long the leftovers of a lost supervisor may take to die before that is reported as it is.
	sweepTime = 20 * time.Second
)

// Run watches over everything that runs, also what is launched later, until ctx ends. It ends no job. It returns nil, or the
// reason it cannot watch. Without it nobody learns of an end.
func (r *Runner) Run(ctx context.Context) error {
	var watchers errgroup.Group
	for {
		for _, a := range r.takeFresh() {
			watchers.Go(func() error {
				r.watch(ctx, a)
				return nil
			})
		}
		select {
		case <-ctx.Done():
			return watchers.Wait()
		case <-r.wake:
		}
	}
}

func (r *Runner) takeFresh() []*attempt {
	r.mu.Lock()
	defer r.mu.Unlock()
	fresh := r.fresh
	r.fresh = nil
	return fresh
}

// watch waits for the supervisor's end and settles the attempt. If ctx ends first, the attempt waits for the next Run.
func (r *Runner) watch(ctx context.Context, a *attempt) {
	if err := r.untilGone(ctx, a); err != nil {
		r.mu.Lock()
		r.runningLocked(a)
		r.mu.Unlock()
		return
	}
	if a.child != nil {
		if err := a.child.Reap(); err != nil {
			r.log.Warn("reap supervisor", "token", a.token, "error", err)
		}
	}
	state, exit := r.autopsy(context.WithoutCancel(ctx), a.dir, a.rec, "its supervisor ended without saying how the job did")
	r.mu.Lock()
	defer r.mu.Unlock()
	if a.pidfd != nil {
		a.pidfd.Close()
		a.pidfd = nil
	}
	a.state, a.exit = state, exit
	close(a.done)
}

// untilGone returns nil once no supervisor stands over the attempt, or the context's error.
func (r *Runner) untilGone(ctx context.Context, a *attempt) error {
	if a.pidfd != nil {
		err := supervisor.WaitProcess(ctx, a.pidfd)
		if err == nil || ctx.Err() != nil {
			return err
		}
		r.log.Warn("watch supervisor by handle, falling back to its lock", "token", a.token, "error", err)
	}
	for {
		alive, err := supervisor.Alive(a.dir)
		if errors.Is(err, os.ErrNotExist) || (err == nil && !alive) {
			return nil
		}
		if err != nil {
			r.log.Warn("look at supervisor", "token", a.token, "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lockPoll):
		}
	}
}

// autopsy says how an attempt without a supervisor ended. Without a record that can be believed it was lost: then whatever
// it left behind is killed first, and the loss is written down, so that the next one who asks gets the same answer.
func (r *Runner) autopsy(ctx context.Context, dir string, rec supervisor.Record, why string) (State, Exit) {
	exit, err := supervisor.ReadExit(dir)
	if err == nil && exit.Token == rec.Token {
		if exit.Reason == supervisor.ReasonLost {
			return Lost, exit
		}
		return Ended, exit
	}
	if err == nil {
		err = fmt.Errorf("exit record of attempt %s in the directory of %s", exit.Token, rec.Token)
	}
	if !errors.Is(err, supervisor.ErrBlank) {
		why += "; its exit record cannot be read: " + err.Error()
		r.keepDamaged(dir)
	}
	if rec.BootID == r.opts.BootID {
		if err := r.sweep(ctx, dir, rec); err != nil {
			why += "; " + err.Error()
			r.log.Error("a lost attempt's processes will not die", "token", rec.Token, "error", err)
		}
	}
	lost := Exit{
		Version: supervisor.Version, Token: rec.Token, Reason: supervisor.ReasonLost, Code: -1, Message: why,
		StartedAt: rec.CreatedAt, EndedAt: time.Now().UTC(),
	}
	if info, err := os.Stat(filepath.Join(dir, supervisor.LogFile)); err == nil {
		lost.LogSize = info.Size()
	}
	r.log.Error("attempt lost", "token", rec.Token, "why", why)
	if err := supervisor.WriteExit(dir, lost); err != nil {
		r.log.Error("write down a lost attempt", "token", rec.Token, "error", err)
	}
	return Lost, lost
}

func (r *Runner) sweep(ctx context.Context, dir string, rec supervisor.Record) error {
	ctx, cancel := context.WithTimeout(ctx, sweepTime)
	defer cancel()
	var group string
	if life, err := supervisor.ReadLife(dir); err == nil && life.Nonce == rec.Nonce {
		group = life.Cgroup
	}
	return supervisor.Sweep(ctx, rec.Nonce, group)
}

// keepDamaged keeps an exit record that cannot be believed for people to look at.
func (r *Runner) keepDamaged(dir string) {
	path := filepath.Join(dir, supervisor.ExitFile)
	if err := os.Rename(path, path+".damaged"); err != nil && !errors.Is(err, os.ErrNotExist) {
		r.log.Warn("keep damaged exit record", "error", err)
	}
}
