package cluster

import (
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/deveronica/cvlab/fsm"
)

// replica lets raft drive the facts. After an entry it does not understand it is broken for good: it applies nothing
// further and gives no snapshot, so that what is on disk stays what everybody else will agree on.
type replica struct {
	state *fsm.State

	mu     sync.Mutex
	err    error
	broken chan struct{} // closed once err is set
}

// applied is what one entry gave here.
type applied struct {
	result fsm.Result
	err    error
}

func newReplica() *replica {
	return &replica{state: fsm.New(), broken: make(chan struct{})}
}

// Apply implements raft.FSM.
func (r *replica) Apply(l *raft.Log) any {
	if err := r.failure(); err != nil {
		return applied{err: err}
	}
	result, err := r.state.Apply(l.Index, l.Data)
	if err != nil {
		r.fail(err)
	}
	return applied{result: result, err: err}
}

// Snapshot implements raft.FSM: a view is immutable, so this takes no time.
func (r *replica) Snapshot() (raft.FSMSnapshot, error) {
	if err := r.failure(); err != nil {
		return nil, err
	}
	return snapshot{r.state.View()}, nil
}

// Restore implements raft.FSM. The state changes only when the whole snapshot was read.
func (r *replica) Restore(in io.ReadCloser) error {
	defer in.Close()
	if err := r.failure(); err != nil {
		return err
	}
	if err := r.state.Restore(in); err != nil {
		return fmt.Errorf("restore facts: %w", err)
	}
	return nil
}

func (r *replica) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

func (r *replica) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
		close(r.broken)
	}
}

type snapshot struct{ view fsm.View }

// Persist implements raft.FSMSnapshot.
func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if err := s.view.Write(sink); err != nil {
		_ = sink.Cancel() // the write's error says more
		return err
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (snapshot) Release() {}
