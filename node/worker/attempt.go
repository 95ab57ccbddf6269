package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/deveronica/cvlab/executor"
	"github.com/deveronica/cvlab/fsm"
)

// begin takes an assigned attempt to its start: record, commit, launch. The order is the fence: a record without a commit
// is thrown away, a commit without a launch is launched by the next daemon, a launch without a commit does not exist.
func (w *Worker) begin(ctx context.Context, o Order, t *task) {
	token := o.Attempt.Token
	w.reached(StepOrdered)
	job, err := w.job(o)
	if err == nil {
		err = w.resume(ctx, o, &job, t)
	}
	if err == nil {
		err = w.prepare(ctx, token, job)
	}
	if ctx.Err() != nil || errors.Is(err, errClosed) {
		return
	}
	if err != nil {
		w.report(ctx, token, outcome{class: fsm.ClassStartFailed, message: err.Error()})
		return
	}
	w.reached(StepRecorded)
	w.startPrepared(ctx, token, t)
}

// prepare writes the record, waiting while an earlier attempt of the same experiment may still run here, but no longer
// than the attempt is wanted.
func (w *Worker) prepare(ctx context.Context, token fsm.Token, job executor.Job) error {
	for said := false; ; said = true {
		// Before the record: the leader takes an attempt from a node that says nothing, and this may wait.
		w.hold(token, job.Lease, w.o.Boottime())
		err := w.o.Processes.Prepare(ctx, job)
		if !errors.Is(err, executor.ErrBusy) {
			return err
		}
		if !said {
			w.log(ctx, token, "waiting to start", "why", err)
		}
		if !pause(ctx, lookBusy) {
			return ctx.Err()
		}
		if w.over(token) {
			return errClosed
		}
	}
}

// lookBusy is how often an attempt that waits for an earlier one looks whether that has ended.
const lookBusy = 100 * time.Millisecond

var errClosed = errors.New("the attempt was closed before it began")

// over says that this machine's replica knows the attempt as ended.
func (w *Worker) over(token fsm.Token) bool {
	a := w.o.Cluster.State().View().Attempt(token)
	return a != nil && !a.Open()
}

// startPrepared commits Start for a record on disk, and launches it if the commit was granted.
func (w *Worker) startPrepared(ctx context.Context, token fsm.Token, t *task) {
	r, err := w.insist(ctx, &fsm.Start{Token: token, Node: w.o.Cluster.ID(), BootID: w.o.BootID, Resumed: t.resumed})
	if err != nil {
		return // the daemon ends; the next one finds the record
	}
	if r.Refused() {
		w.log(ctx, token, "start refused, the record is dropped", "why", r.Message)
		w.discard(ctx, token)
		w.catchUp(ctx, r.Index)
		return
	}
	w.reached(StepStarted)
	if err := w.mayLaunch(ctx, token); err != nil {
		if errors.Is(err, errRevoked) {
			w.log(ctx, token, "revoked before its launch, the record is dropped")
			w.discard(ctx, token)
		}
		return
	}
	w.reached(StepLaunching)
	if err := w.o.Processes.Launch(ctx, token.String()); err != nil {
		if ctx.Err() == nil {
			w.launchFailed(ctx, token, t, err)
		}
		return
	}
	w.reached(StepLaunched)
	w.log(ctx, token, "started")
	w.attend(ctx, token, t)
}

// launchFailed sorts out a launch that gave an error. Only what can be thrown away as never launched may be reported as
// such; else a supervisor was started and did not answer in time, and its job may run yet: then its end is waited for.
func (w *Worker) launchFailed(ctx context.Context, token fsm.Token, t *task, why error) {
	err := w.o.Records.Discard(ctx, token.String())
	if errors.Is(err, executor.ErrState) {
		w.log(ctx, token, "its supervisor did not confirm the launch; waiting for the end", "why", why)
		w.attend(ctx, token, t)
		return
	}
	w.report(ctx, token, outcome{class: fsm.ClassStartFailed, message: why.Error()})
}

// attend waits for the end of a launched attempt, passing on what is asked of it, and reports it.
func (w *Worker) attend(ctx context.Context, token fsm.Token, t *task) {
	g, watch := errgroup.WithContext(ctx)
	g.Go(func() error { return w.obey(watch, token, t) })
	var exit executor.Exit
	g.Go(func() error {
		x, err := w.o.Processes.Wait(ctx, token.String())
		exit = x
		if err == nil {
			err = errEnded // ends the other one
		}
		return err
	})
	g.Go(func() error {
		w.publish(ctx, token, watch.Done())
		return nil
	})
	if err := g.Wait(); !errors.Is(err, errEnded) {
		return // the daemon ends; the job goes on
	}
	w.reached(StepEnded)
	w.report(ctx, token, classify(exit, w.outputTail(token), t.cancelRequested()))
}

var errEnded = errors.New("the attempt has ended")

// obey passes on a cancel, or stops the attempt after a checkpoint when it is to go on elsewhere.
func (w *Worker) obey(ctx context.Context, token fsm.Token, t *task) error {
	why := "cancelled"
	select {
	case <-ctx.Done():
		return nil
	case <-t.cancel:
	case <-t.preempt:
		how := w.untilCheckpoint(ctx, token, t)
		if ctx.Err() != nil {
			return nil // it has ended, or the daemon does
		}
		if !t.cancelRequested() {
			why = t.why + "; " + how
		}
	}
	return w.stop(ctx, token, why)
}

// stop asks until the supervisor has heard it; the end itself is seen by Wait.
func (w *Worker) stop(ctx context.Context, token fsm.Token, why string) error {
	for {
		err := w.o.Processes.Stop(ctx, token.String(), why)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		w.log(ctx, token, "the supervisor was not reached; asking again", "error", err)
		if !pause(ctx, time.Second) {
			return nil
		}
	}
}

// report commits how an attempt ended, and then lets the record go.
func (w *Worker) report(ctx context.Context, token fsm.Token, o outcome) {
	index, err := w.commitFinish(ctx, token, o)
	if err != nil {
		return // the daemon ends; the exit record is still there for the next one
	}
	w.reached(StepReported)
	w.forget(ctx, token)
	w.reached(StepForgotten)
	w.catchUp(ctx, index)
	w.dropCopy(ctx, token)
}

// commitFinish insists on Finish and gives the index of its answer.
func (w *Worker) commitFinish(ctx context.Context, token fsm.Token, o outcome) (uint64, error) {
	w.log(ctx, token, "ended", "class", o.class, "message", o.message)
	w.reached(StepReporting)
	finish := &fsm.Finish{Token: token, Node: w.o.Cluster.ID(), Class: o.class, ExitCode: o.code, Message: o.message}
	r, err := w.insist(ctx, finish)
	if err == nil && r.Code == fsm.NotFound && w.readopt(ctx, token) {
		r, err = w.insist(ctx, finish)
	}
	if err == nil && r.Refused() {
		w.log(ctx, token, "the report was not taken", "why", r.Message)
	}
	return r.Index, err
}

// catchUp waits until this machine's replica has an entry. An attempt stays in hand until the replica knows of its end,
// or the worker would take it for new work.
func (w *Worker) catchUp(ctx context.Context, index uint64) {
	for {
		changed := w.o.Cluster.State().Changed()
		if w.o.Cluster.State().Index() >= index {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

func (w *Worker) discard(ctx context.Context, token fsm.Token) {
	if err := w.o.Records.Discard(ctx, token.String()); err != nil && ctx.Err() == nil {
		w.log(ctx, token, "the record could not be dropped", "error", err)
	}
}

// forget closes the record of a reported attempt: its token can never be launched again, its output stays.
func (w *Worker) forget(ctx context.Context, token fsm.Token) {
	if err := w.o.Records.Forget(ctx, token.String()); err != nil && ctx.Err() == nil {
		w.log(ctx, token, "the record could not be closed", "error", err)
	}
}

// insist proposes until the cluster has answered. Start and Finish are harmless to repeat. It fails only when ctx ends.
func (w *Worker) insist(ctx context.Context, c fsm.Command) (fsm.Result, error) {
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		r, err := w.o.Cluster.Commit(ctx, fsm.Entry{By: w.o.Cluster.ID(), At: time.Now().UTC(), Command: c})
		if err == nil {
			return r, nil
		}
		if ctx.Err() != nil {
			return fsm.Result{}, fmt.Errorf("propose %s: %w", c.Kind(), ctx.Err())
		}
		w.o.Logger.DebugContext(ctx, "not committed yet, trying again", "command", c.Kind(), "error", err)
		if !pause(ctx, wait) {
			return fsm.Result{}, fmt.Errorf("propose %s: %w", c.Kind(), ctx.Err())
		}
	}
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

// tailSize is how much of the output is read for the one line that says why it failed.
const tailSize = 16 << 10

func (w *Worker) outputTail(token fsm.Token) []byte {
	f, err := os.Open(w.o.Records.LogPath(token.String()))
	if err != nil {
		return nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil
	}
	tail := make([]byte, min(info.Size(), tailSize))
	n, _ := f.ReadAt(tail, info.Size()-int64(len(tail)))
	return tail[:n]
}

// adopt takes up what the executor found at its start.
func (w *Worker) adopt(ctx context.Context, g *errgroup.Group, f executor.Found) {
	token, err := fsm.ParseToken(f.Token)
	if err != nil {
		return // put aside by the executor, which has told why
	}
	t, _ := w.task(token, foundIdentity(f))
	switch f.State { // here and not in the task: the first question to the cluster is about it
	case executor.Running:
		w.launched(token)
		w.hold(token, w.leaseOf(f, token), f.LeaseStart)
	case executor.Prepared:
		w.hold(token, w.leaseOf(f, token), f.LeaseStart)
	}
	w.spawn(ctx, g, token, func(ctx context.Context) {
		switch f.State {
		case executor.Quarantined:
			w.log(ctx, token, "its records were damaged", "alive", f.Alive, "error", f.Err)
			w.reportDamaged(ctx, token)
		case executor.Running:
			w.log(ctx, token, "found running")
			w.attend(ctx, token, t)
		case executor.Prepared:
			t.resumed = w.resumedFrom(f.Experiment, f.Attempt)
			w.startPrepared(ctx, token, t)
		default:
			w.publishLast(ctx, token)
			w.report(ctx, token, classify(f.Exit, w.outputTail(token), w.cancelling(token)))
		}
	})
}

// lookDamaged is how often an attempt that can be neither watched nor stopped is looked at. Its directory's lock is all
// there is to ask, and costs a system call.
const lookDamaged = 2 * time.Second

// reportDamaged tells the end of an attempt whose records make no sense. While a supervisor stands over it, its job may
// run, and a report would let the experiment start a second time.
func (w *Worker) reportDamaged(ctx context.Context, token fsm.Token) {
	for w.o.Records.Occupied(token.String()) {
		if !pause(ctx, lookDamaged) {
			return
		}
	}
	index, err := w.commitFinish(ctx, token, outcome{class: fsm.ClassSupervisorLost, message: "its records on the node were damaged and put aside"})
	if err == nil {
		w.catchUp(ctx, index)
	}
}

// cancelling says whether a cancel of the attempt is known to this machine's replica.
func (w *Worker) cancelling(token fsm.Token) bool {
	v := w.o.Cluster.State().View()
	a := v.Attempt(token)
	if a == nil {
		return false
	}
	e := v.Experiment(a.Experiment)
	return e != nil && e.Token == token && e.Cancelling
}
