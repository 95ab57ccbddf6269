// Package worker is what every machine does for the queue: it makes the processes here match the attempts assigned here,
// and reports how they ended.
//
// The facts say what should run; the executor says what does. The worker closes the gap in one direction only: an attempt
// is launched after its Start was committed, and an attempt that ended is reported until the report was answered. The
// worker keeps no state of its own that a restart would lose: at its start it reads the executor's records and goes on.
//
// After a start, new work begins only when every record found was taken up and a leader with a majority has answered once
// (rule R9): a machine that was cut off or restored from an old disk looks around before it acts.
//
// Orders from the leader's stream only save time. They carry the same facts that this machine's replica will have up to
// 100 ms later, and an order that turns out old is refused by the commit of Start.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/deveronica/cvlab/executor"
	"github.com/deveronica/cvlab/fsm"
)

// Cluster is what the worker needs of its machine's seat.
type Cluster interface {
	ID() string
	State() *fsm.State
	// Commit proposes and returns once the entry is committed, without waiting for this machine's own replica.
	Commit(ctx context.Context, e fsm.Entry) (fsm.Result, error)
}

// Processes starts and stops processes. Ending a context here never ends a job.
type Processes interface {
	Prepare(ctx context.Context, job executor.Job) error
	Launch(ctx context.Context, token string) error
	Wait(ctx context.Context, token string) (executor.Exit, error)
	Stop(ctx context.Context, token, why string) error
	// Signal gives a signal to those processes that wait for it and says how many did.
	Signal(ctx context.Context, token, signal string) (reached int, err error)
}

// Records are what is on disk about the attempts of this machine.
type Records interface {
	Forget(ctx context.Context, token string) error
	Discard(ctx context.Context, token string) error
	// LogPath is where the output is; the manifests of the attempt's checkpoints are written beside it.
	LogPath(token string) string
	// Occupied says whether a supervisor stands over the attempt, also when its records are damaged.
	Occupied(token string) bool
}

// Options are what New needs.
type Options struct {
	Cluster   Cluster
	Processes Processes
	Records   Records
	// Found is what the executor found at its start.
	Found []executor.Found
	// Orders brings the leader's orders; the worker reads it until ctx ends.
	Orders <-chan Order
	BootID string
	// RunsDir holds the working directory of every attempt.
	RunsDir string
	// NodeName is told to jobs.
	NodeName string
	Kit      Kit
	// Renewals and Fences keep the leases; without Renewals there are none.
	Renewals Renewals
	Fences   Fences
	// Checkpoints brings published ones here; without it every attempt begins anew.
	Checkpoints Checkpoints
	// Boottime is the clock of leases; default: CLOCK_BOOTTIME.
	Boottime func() time.Duration
	// At is told when an attempt reaches one of the Steps. Tests let the process die there; nil else.
	At     func(step string)
	Logger *slog.Logger
}

// Order is one attempt that the leader wants started here, with all that is needed to start it.
type Order struct {
	Attempt    fsm.Attempt    `json:"attempt"`
	Experiment fsm.Experiment `json:"experiment"`
	Spec       fsm.Spec       `json:"spec"`
}

// Worker runs the attempts of one machine.
type Worker struct {
	o Options

	mu    sync.Mutex
	tasks map[fsm.Token]*task // one per attempt that has a process or may get one
	kick  chan struct{}       // closed and made anew when an attempt comes under a lease

	// heard is closed once the cluster has answered; before that nothing new begins.
	heard     chan struct{}
	heardOnce sync.Once

	reading chan struct{} // holds one while a checkpoint's file is read
}

// task is one attempt in the worker's hands.
type task struct {
	// cancel asks for the attempt's end; it is closed once.
	cancel     chan struct{}
	cancelOnce sync.Once
	// preempt asks for its end after a checkpoint; it is closed once, after why was set.
	preempt     chan struct{}
	preemptOnce sync.Once
	why         string
	lease       lease
	about       identity // constant
	stray       stray
	frozen      *Frozen // guarded by Worker.mu, as stray
	// resumed is what the attempt goes on from; only its own goroutine looks at it.
	resumed *fsm.Resumed
}

// identity is what a machine knows by itself of an attempt, without the facts.
type identity struct {
	experiment uint64
	number     int
	gpus       []string
	lease      time.Duration
	bootID     string
	created    time.Time
	known      bool // false if the record on disk was damaged
}

func (t *task) cancelRequested() bool {
	select {
	case <-t.cancel:
		return true
	default:
		return false
	}
}

func (t *task) requestCancel() { t.cancelOnce.Do(func() { close(t.cancel) }) }

func (t *task) requestPreempt(why string) {
	t.preemptOnce.Do(func() {
		t.why = why
		close(t.preempt)
	})
}

// New makes a Worker; it does nothing before Run.
func New(o Options) *Worker {
	if o.Boottime == nil {
		o.Boottime = executor.Boottime
	}
	w := &Worker{o: o, tasks: map[fsm.Token]*task{}, kick: make(chan struct{}), heard: make(chan struct{}), reading: make(chan struct{}, 1)}
	if o.Renewals == nil {
		w.open()
	}
	return w
}

// open lets new work begin.
func (w *Worker) open() { w.heardOnce.Do(func() { close(w.heard) }) }

// mayBegin says whether new work may begin.
func (w *Worker) mayBegin() bool {
	select {
	case <-w.heard:
		return true
	default:
		return false
	}
}

// Held gives the tokens of the attempts in the worker's hands.
func (w *Worker) Held() []fsm.Token {
	w.mu.Lock()
	defer w.mu.Unlock()
	held := make([]fsm.Token, 0, len(w.tasks))
	for t := range w.tasks {
		held = append(held, t)
	}
	return held
}

// Run blocks until ctx ends. Jobs go on afterwards; the next Run finds them again.
func (w *Worker) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	// Records first: nothing new is started before everything that may be running here is known, and the first question
	// to the cluster is about all of it.
	for _, f := range w.o.Found {
		w.adopt(ctx, g, f)
	}
	g.Go(func() error { return w.follow(ctx, g) })
	if w.o.Renewals != nil {
		g.Go(func() error { return w.renew(ctx) })
		g.Go(func() error { return w.watchFrozen(ctx) })
	}
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("work: %w", err)
	}
	return nil
}

// lookAtLeast bounds how long a missed wake-up could last; nothing is known to miss one.
const lookAtLeast = 5 * time.Second

func (w *Worker) follow(ctx context.Context, g *errgroup.Group) error {
	timer := time.NewTicker(lookAtLeast)
	defer timer.Stop()
	heard := w.heard
	for {
		changed := w.o.Cluster.State().Changed()
		w.look(ctx, g, w.o.Cluster.State().View())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-timer.C:
		case <-heard:
			heard = nil
		case order := <-w.o.Orders:
			w.take(ctx, g, order)
		}
	}
}

// look compares this machine's replica with what is in hand.
func (w *Worker) look(ctx context.Context, g *errgroup.Group, v fsm.View) {
	for a := range v.Open(w.o.Cluster.ID()) {
		e := v.Experiment(a.Experiment)
		if e == nil {
			continue
		}
		w.take(ctx, g, Order{Attempt: *a, Experiment: *e, Spec: *v.Spec(e)})
	}
}

// take starts a task for an attempt that has none, or passes a cancel on to the one it has.
func (w *Worker) take(ctx context.Context, g *errgroup.Group, o Order) {
	a := o.Attempt
	if a.Node != w.o.Cluster.ID() {
		return
	}
	cancelling := o.Experiment.Cancelling && o.Experiment.Token == a.Token
	t, isNew := w.task(a.Token, identityOf(o, w.o.BootID))
	if cancelling {
		t.requestCancel()
	}
	if a.Preempting != "" {
		t.requestPreempt(a.Preempting)
	}
	if !isNew {
		return
	}
	switch {
	case w.over(a.Token):
		w.drop(a.Token) // an order that was overtaken by the end
	case a.State == fsm.AttemptAssigned && !w.mayBegin():
		w.drop(a.Token) // looked at again when it may
	case a.State == fsm.AttemptAssigned:
		w.spawn(ctx, g, a.Token, func(ctx context.Context) { w.begin(ctx, o, t) })
	case a.State == fsm.AttemptStarted && a.BootID == w.o.BootID:
		// Started by this boot, yet no record is here: its directory was lost while the daemon was down. What ran, if
		// anything, had its supervisor's records under it and cannot be found again.
		w.spawn(ctx, g, a.Token, func(ctx context.Context) {
			w.report(ctx, a.Token, outcome{class: fsm.ClassSupervisorLost, message: "its records on the node are gone"})
		})
	default:
		// Started by an earlier boot: the node's own Update closes it.
		w.drop(a.Token)
	}
}

// task gives the task of an attempt, and whether it was made just now.
func (w *Worker) task(token fsm.Token, who identity) (*task, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t, ok := w.tasks[token]; ok {
		return t, false
	}
	t := &task{cancel: make(chan struct{}), preempt: make(chan struct{}), about: who}
	w.tasks[token] = t
	return t, true
}

// identityOf is what the record of an order will say.
func identityOf(o Order, boot string) identity {
	return identity{
		experiment: o.Attempt.Experiment, number: o.Attempt.Number, gpus: o.Attempt.GPUs, lease: time.Duration(o.Attempt.Lease),
		bootID: boot, created: o.Attempt.AssignedAt, known: true,
	}
}

// foundIdentity is what was found on disk. A damaged record says neither when it was made nor which cards it holds.
func foundIdentity(f executor.Found) identity {
	return identity{
		experiment: f.Experiment, number: f.Attempt, gpus: f.GPUs, lease: f.Lease, bootID: f.BootID, created: f.CreatedAt,
		known: !f.CreatedAt.IsZero(),
	}
}

func (w *Worker) drop(token fsm.Token) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.tasks, token)
}

func (w *Worker) spawn(ctx context.Context, g *errgroup.Group, token fsm.Token, do func(context.Context)) {
	g.Go(func() error {
		do(ctx)
		w.drop(token)
		return nil
	})
}
