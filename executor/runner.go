package executor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/deveronica/cvlab/executor/supervisor"
)

const (
	defaultGrace   = 30 * time.Second
	defaultLinger  = 5 * time.Second
	defaultConfirm = 30 * time.Second
)

var (
	// ErrExists is returned by Prepare for a token that has a record here already.
	ErrExists = errors.New("this attempt has a record here already")
	// ErrTombstone is returned for a token that is settled: it can never be launched again.
	ErrTombstone = errors.New("this attempt is settled")
	// ErrBusy is returned by Prepare while another attempt of the same experiment may still run here.
	ErrBusy = errors.New("another attempt of this experiment may still run here")
	// ErrUnknown is returned for a token that has no record here.
	ErrUnknown = errors.New("no such attempt here")
	// ErrState is returned when the attempt is not at the step the call is for.
	ErrState = errors.New("attempt is at another step")
)

// Options say where a Runner works.
type Options struct {
	AttemptsDir string   // made if missing; one directory per attempt
	Supervisor  []string // program and first arguments that start a supervisor; default: this program, "supervise"
	Logger      *slog.Logger
	BootID      string        // default: the kernel's
	Linger      time.Duration // what a finished job's leftovers get between SIGTERM and SIGKILL; default 5 s
	Confirm     time.Duration // how long Launch waits for a supervisor to say that the job runs; default 30 s
}

// Job is what to run.
type Job struct {
	Token      string // unique for ever; names the directory
	Experiment uint64
	Attempt    int           // from 1
	BootID     string        // of this boot, or empty
	Argv       []string      // program, looked up in Env's PATH, and arguments
	Env        []string      // the whole environment, KEY=VALUE
	Dir        string        // working directory, absolute, made by the caller
	Grace      time.Duration // between SIGTERM and SIGKILL when it is stopped; 0: 30 s
	TimeLimit  time.Duration // 0: none
	// Lease is how long it may execute without a renewal, counted from Prepare; 0: for ever. ContactLoss is what happens
	// then: "freeze" (also ""), "kill" or "keep".
	Lease       time.Duration
	ContactLoss string
	// GPUs are the UUIDs of the cards it holds; they are only remembered here.
	GPUs []string
}

// Exit says how an attempt ended; the supervisor's record as it is on disk.
type Exit = supervisor.Exit

// State is where an attempt is in its life on this machine.
type State int

// States of an attempt. They only move forward.
const (
	unsettled   State = iota // being prepared or discarded at this moment
	Prepared                 // recorded, never launched
	Running                  // a supervisor stands over it, or did a moment ago
	Ended                    // it has an exit record
	Lost                     // ended, and nobody saw how; its exit record says so, reason "supervisor lost"
	Quarantined              // its directory made no sense and was put aside
)

// String gives the state's name in lower case.
func (s State) String() string {
	switch s {
	case unsettled:
		return "being prepared or discarded"
	case Prepared:
		return "prepared"
	case Running:
		return "running"
	case Ended:
		return "ended"
	case Lost:
		return "lost"
	case Quarantined:
		return "quarantined"
	}
	return fmt.Sprintf("state %d", int(s))
}

// attempt is one record. Everything but the constants is guarded by Runner.mu.
type attempt struct {
	token string // constant
	dir   string // constant
	rec   supervisor.Record

	state     State
	exit      Exit
	confirmed time.Duration     // CLOCK_BOOTTIME of the newest renewal before the launch
	child     *supervisor.Child // set if this process started the supervisor
	pidfd     *os.File          // set while running, if the supervisor could be identified
	done      chan struct{}     // closed at the end
}

// Runner knows the attempts of this machine. All methods may be called at the same time, once Recover has returned.
type Runner struct {
	opts Options
	log  *slog.Logger

	mu       sync.Mutex
	attempts map[string]*attempt
	unknown  map[string]bool // directories somebody stands over, but nobody can say for what
	fresh    []*attempt      // running, and not yet watched by Run
	wake     chan struct{}   // fresh has something
}

// Open makes a Runner. It starts nothing and touches no attempt; call Recover next.
func Open(o Options) (*Runner, error) {
	if o.AttemptsDir == "" || o.Logger == nil {
		return nil, errors.New("open executor: AttemptsDir and Logger must be set")
	}
	dir, err := filepath.Abs(o.AttemptsDir)
	if err != nil {
		return nil, fmt.Errorf("open executor: %w", err)
	}
	o.AttemptsDir = dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open executor: %w", err)
	}
	if o.BootID == "" {
		if o.BootID, err = supervisor.BootID(); err != nil {
			return nil, fmt.Errorf("open executor: %w", err)
		}
	}
	if len(o.Supervisor) == 0 { // not by name: an upgrade may have replaced the file
		o.Supervisor = []string{"/proc/self/exe", "supervise"}
	}
	if o.Linger == 0 {
		o.Linger = defaultLinger
	}
	if o.Confirm == 0 {
		o.Confirm = defaultConfirm
	}
	return &Runner{
		opts: o, log: o.Logger.With("component", "executor"),
		attempts: make(map[string]*attempt), unknown: make(map[string]bool), wake: make(chan struct{}, 1),
	}, nil
}

// BootID is the boot new attempts are recorded for.
func (r *Runner) BootID() string { return r.opts.BootID }

// LogPath is the file an attempt's output goes to. It may not exist yet, and stays after Forget.
func (r *Runner) LogPath(token string) string { return filepath.Join(r.dir(token), supervisor.LogFile) }

func (r *Runner) dir(token string) string { return filepath.Join(r.opts.AttemptsDir, token) }

// Prepare writes the attempt down, synced, so that Launch may follow. It refuses a token that was ever seen here
// (ErrExists, ErrTombstone) and an experiment of which another attempt may still run here (ErrBusy).
func (r *Runner) Prepare(ctx context.Context, job Job) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("prepare attempt %s: %w", job.Token, err)
	}
	if job.BootID != "" && job.BootID != r.opts.BootID {
		return fmt.Errorf("prepare attempt %s: it is for boot %s, this is %s", job.Token, job.BootID, r.opts.BootID)
	}
	a := &attempt{token: job.Token, dir: r.dir(job.Token), rec: r.record(job), done: make(chan struct{})}
	r.mu.Lock()
	err := r.admitLocked(job)
	if err == nil {
		r.attempts[a.token] = a
	}
	r.mu.Unlock()
	if err != nil {
		return fmt.Errorf("prepare attempt %s: %w", job.Token, err)
	}
	err = supervisor.Create(a.dir, a.rec) // without the mutex: a slow disk must not keep anybody from stopping a job
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		delete(r.attempts, a.token)
		if errors.Is(err, fs.ErrExist) {
			err = errors.Join(ErrExists, err)
		}
		return fmt.Errorf("prepare attempt %s: %w", job.Token, err)
	}
	a.state = Prepared
	return nil
}

func (r *Runner) record(job Job) supervisor.Record {
	grace := job.Grace
	if grace == 0 {
		grace = defaultGrace
	}
	var leaseStart time.Duration
	if job.Lease > 0 {
		leaseStart = supervisor.Boottime() // before anybody can have asked for leave to start
	}
	return supervisor.Record{
		Version: supervisor.Version, Token: job.Token, Nonce: rand.Text(), Experiment: job.Experiment, Attempt: job.Attempt,
		BootID: r.opts.BootID, Argv: slices.Clone(job.Argv), Env: slices.Clone(job.Env), Dir: job.Dir,
		Limits:    supervisor.Limits{Grace: grace, TimeLimit: job.TimeLimit, Lease: job.Lease, Linger: r.opts.Linger},
		CreatedAt: time.Now().UTC(), LeaseStart: leaseStart, ContactLoss: job.ContactLoss,
		GPUs: slices.Clone(job.GPUs),
	}
}

func (r *Runner) admitLocked(job Job) error {
	if !supervisor.ValidToken(job.Token) {
		return fmt.Errorf("%q is not a token", job.Token)
	}
	if supervisor.Buried(r.dir(job.Token)) {
		return ErrTombstone
	}
	if r.attempts[job.Token] != nil {
		return ErrExists
	}
	for _, a := range r.attempts {
		if a.rec.Experiment == job.Experiment && a.state <= Running {
			return fmt.Errorf("%w: %s is %s", ErrBusy, a.token, a.state)
		}
	}
	for name := range r.unknown {
		dir := filepath.Join(r.opts.AttemptsDir, name)
		if alive, err := supervisor.Alive(dir); err == nil && !alive {
			delete(r.unknown, name) // it has ended; the next Recover puts it aside
			continue
		}
		return fmt.Errorf("%w: a supervisor stands over %s and its records are damaged; end that process, then try again",
			ErrBusy, dir)
	}
	return nil
}

// Launch starts the supervisor of a prepared attempt and returns once the job runs, or once it is written down that it
// could not be started, which is no error here: Wait gives it. After an error the attempt is either still prepared (no
// supervisor could be started: launch again, or discard) or running and will end as lost; Running tells.
func (r *Runner) Launch(ctx context.Context, token string) error {
	a, err := r.begin(ctx, token)
	if err != nil {
		return fmt.Errorf("launch attempt %s: %w", token, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.opts.Confirm, errors.New("its supervisor did not confirm in time"))
	defer cancel()
	failed, err := a.child.Confirm(ctx)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return fmt.Errorf("launch attempt %s: %w; see %s", token, err, filepath.Join(a.dir, supervisor.OwnLogFile))
	}
	if failed != "" {
		r.log.Info("job could not be started", "token", token, "error", failed)
	}
	return nil
}

// begin starts the supervisor and hands the attempt to Run.
func (r *Runner) begin(ctx context.Context, token string) (*attempt, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, err := r.getLocked(token, Prepared)
	if err != nil {
		return nil, err
	}
	locked, err := lockPatiently(ctx, a.dir)
	if err != nil {
		return nil, err
	}
	if a.child, err = supervisor.Start(supervisor.Launch{
		Argv: r.opts.Supervisor, Dir: a.dir, Nonce: a.rec.Nonce, Locked: locked, LeaseStart: a.confirmed,
	}); err != nil {
		return nil, err
	}
	a.pidfd = a.child.Handle()
	r.runningLocked(a)
	return a, nil
}

// lockPatiently locks the attempt. For a moment the lock may seem held: a child that is being forked somewhere else in
// this process has copies of all descriptors until its exec, also of one that only asked who is alive.
func lockPatiently(ctx context.Context, dir string) (*os.File, error) {
	for deadline := time.Now().Add(time.Second); ; {
		f, err := supervisor.Lock(dir)
		if !errors.Is(err, supervisor.ErrLocked) || time.Now().After(deadline) {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

func (r *Runner) runningLocked(a *attempt) {
	a.state = Running
	r.fresh = append(r.fresh, a)
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *Runner) getLocked(token string, want State) (*attempt, error) {
	a := r.attempts[token]
	switch {
	case a == nil && supervisor.ValidToken(token) && supervisor.Buried(r.dir(token)):
		return nil, ErrTombstone
	case a == nil:
		return nil, ErrUnknown
	case a.state != want:
		return nil, fmt.Errorf("%w: it is %s, not %s", ErrState, a.state, want)
	}
	return a, nil
}
