package worker

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/deveronica/cvlab/executor"
	"github.com/deveronica/cvlab/executor/supervisor"
	"github.com/deveronica/cvlab/fsm"
)

// machine pretends to be the executor: records on a disk that survives the worker, and processes that exit on command.
type machine struct {
	story *story
	logs  string // directory of the outputs

	mu       sync.Mutex
	records  map[string]*record
	launches map[string]int
	deaf     int                          // so many stops are not heard
	stops    int                          // stops asked for
	renewals map[string][]time.Duration   // what supervisors were told, by token
	revokes  int                          // revokes asked for
	launch   func(token string) error     // decides a launch, before it happens
	prepare  func(job executor.Job) error // decides a record, before it is written
	listens  int                          // processes that have a handler for SIGUSR1
	signals  int                          // signals asked for
	unkind   bool                         // supervisors do not answer when they are asked how it stands
}

type record struct {
	job      executor.Job
	begun    time.Duration // of the lease
	created  time.Time
	state    executor.State
	settled  bool
	alive    bool // of a quarantined one: somebody stands over it
	exit     executor.Exit
	ended    chan struct{}
	stopped  string // why it was asked to stop
	frozen   bool
	since    time.Duration
	held     string
	obedient bool // it ends when it is asked to
}

func newMachine(s *story, logs string) *machine {
	return &machine{story: s, logs: logs, records: map[string]*record{}, launches: map[string]int{}, renewals: map[string][]time.Duration{}}
}

// Prepare implements Processes.
func (m *machine) Prepare(_ context.Context, job executor.Job) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.prepare != nil {
		if err := m.prepare(job); err != nil {
			return err
		}
	}
	if r := m.records[job.Token]; r != nil {
		if r.settled {
			return executor.ErrTombstone
		}
		return executor.ErrExists
	}
	if err := os.MkdirAll(m.dir(job.Token), 0o700); err != nil {
		return err
	}
	for token, r := range m.records {
		if r.job.Experiment == job.Experiment && !r.settled && r.state <= executor.Running {
			return fmt.Errorf("%w: %s", executor.ErrBusy, token)
		}
	}
	m.records[job.Token] = &record{job: job, begun: m.story.boottime(), created: time.Now(), state: executor.Prepared, ended: make(chan struct{}), obedient: true}
	m.story.tell("prepared")
	return nil
}

// Launch implements Processes.
func (m *machine) Launch(_ context.Context, token string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.records[token]
	switch {
	case r == nil:
		return executor.ErrUnknown
	case r.settled:
		return executor.ErrTombstone
	case r.state != executor.Prepared:
		return executor.ErrState
	}
	if m.launch != nil {
		if err := m.launch(token); err != nil {
			return err
		}
	}
	m.runLocked(token)
	return nil
}

func (m *machine) runLocked(token string) {
	m.records[token].state = executor.Running
	m.launches[token]++
	m.story.tell("launched")
}

// Wait implements Processes.
func (m *machine) Wait(ctx context.Context, token string) (executor.Exit, error) {
	m.mu.Lock()
	r := m.records[token]
	m.mu.Unlock()
	if r == nil {
		return executor.Exit{}, executor.ErrUnknown
	}
	select {
	case <-ctx.Done():
		return executor.Exit{}, ctx.Err()
	case <-r.ended:
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return r.exit, nil
}

// Stop implements Processes.
func (m *machine) Stop(_ context.Context, token, why string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stops++
	r := m.records[token]
	if r == nil {
		return executor.ErrUnknown
	}
	if m.deaf > 0 {
		m.deaf--
		return fmt.Errorf("ask the supervisor: no answer")
	}
	m.story.tell("stopped")
	r.stopped = why
	if r.state == executor.Running && r.obedient {
		m.exitLocked(token, executor.Exit{Reason: supervisor.ReasonStopped, Code: 143, Signal: 15, Message: why})
	}
	return nil
}

// Signal implements Processes.
func (m *machine) Signal(_ context.Context, token, signal string) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.signals++
	if m.deaf > 0 {
		m.deaf--
		return 0, fmt.Errorf("ask the supervisor: no answer")
	}
	m.story.tell("signalled %s", signal)
	return m.listens, nil
}

// Freeze implements Fences.
func (m *machine) Freeze(_ context.Context, token, why string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.deaf > 0 {
		m.deaf--
		return fmt.Errorf("ask the supervisor: no answer")
	}
	m.story.tell("frozen")
	r := m.records[token]
	r.frozen, r.held, r.since = true, why, m.story.boottime()
	return nil
}

// Standing implements Fences.
func (m *machine) Standing(_ context.Context, token string) (executor.Standing, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.records[token]
	if r == nil || m.unkind {
		return executor.Standing{}, fmt.Errorf("ask the supervisor: no answer")
	}
	s := executor.Standing{Frozen: r.frozen, Held: r.held}
	if r.frozen {
		s.For = m.story.boottime() - r.since
	}
	return s, nil
}

// Renew implements Fences.
func (m *machine) Renew(_ context.Context, token string, sent time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.renewals[token] = append(m.renewals[token], sent)
	if r := m.records[token]; r != nil && r.held == "" {
		r.frozen = false
	}
	return nil
}

// Revoke implements Fences.
func (m *machine) Revoke(_ context.Context, token, why string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.revokes++
	if m.deaf > 0 {
		m.deaf--
		return fmt.Errorf("ask the supervisor: no answer")
	}
	m.story.tell("revoked")
	if m.records[token].state == executor.Running {
		m.exitLocked(token, executor.Exit{Reason: supervisor.ReasonRevoked, Code: 137, Signal: 9, Message: why})
	}
	return nil
}

func (m *machine) renewed(token fsm.Token) []time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]time.Duration(nil), m.renewals[token.String()]...)
}

// exit ends a running job.
func (m *machine) exit(token string, x executor.Exit) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.exitLocked(token, x)
}

func (m *machine) exitLocked(token string, x executor.Exit) {
	r := m.records[token]
	r.state, r.exit = executor.Ended, x
	if x.Reason == supervisor.ReasonLost {
		r.state = executor.Lost
	}
	m.story.tell("exited")
	close(r.ended)
}

// Forget implements Records.
func (m *machine) Forget(_ context.Context, token string) error {
	return m.settle(token, "forgotten", func(s executor.State) bool { return s == executor.Ended || s == executor.Lost })
}

// Discard implements Records.
func (m *machine) Discard(_ context.Context, token string) error {
	return m.settle(token, "discarded", func(s executor.State) bool { return s == executor.Prepared })
}

func (m *machine) settle(token, word string, may func(executor.State) bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.records[token]
	switch {
	case r == nil:
		return executor.ErrUnknown
	case r.settled:
		return nil
	case !may(r.state):
		return executor.ErrState
	}
	r.settled = true
	m.story.tell("%s", word)
	return nil
}

// LogPath implements Records.
func (m *machine) LogPath(token string) string { return filepath.Join(m.dir(token), "out.log") }

// dir is the attempt's directory among the records.
func (m *machine) dir(token string) string { return filepath.Join(m.logs, token) }

// Occupied implements Records.
func (m *machine) Occupied(token string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.records[token]
	return r != nil && r.alive
}

// recover says what a daemon that starts now finds.
func (m *machine) recover() []executor.Found {
	m.mu.Lock()
	defer m.mu.Unlock()
	var found []executor.Found
	for token, r := range m.records {
		if !r.settled {
			found = append(found, executor.Found{
				Token: token, Experiment: r.job.Experiment, Attempt: r.job.Attempt, BootID: r.job.BootID,
				State: r.state, Exit: r.exit, Alive: r.alive, Lease: r.job.Lease, LeaseStart: r.begun,
				GPUs: r.job.GPUs, CreatedAt: r.created,
			})
		}
	}
	return found
}

func (m *machine) launched(token string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.launches[token]
}

func (m *machine) state(token string) (state executor.State, settled bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.records[token]; r != nil {
		return r.state, r.settled
	}
	return -1, false
}

// change does something to the machine that no worker sees.
func (m *machine) change(do func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	do()
}
