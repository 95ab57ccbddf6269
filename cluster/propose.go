package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/deveronica/cvlab/fsm"
)

const (
	// maxInFlight bounds the changes one node has under way, so that a stalled disk gives "busy" and not a full memory.
	maxInFlight = 4096
	// proposeLimit bounds how long Propose looks for a leader and an answer.
	proposeLimit = 10 * time.Second
	// ownReplicaLimit bounds the wait for the own replica once the answer is known.
	ownReplicaLimit = 5 * time.Second
	// enqueueLimit bounds the hand-over to raft.
	enqueueLimit = 2 * time.Second
	// Between two tries a proposer waits for news of a leader, but not longer than this; it doubles.
	firstPause, longestPause = 5 * time.Millisecond, 100 * time.Millisecond
)

// Propose makes a change of the facts and answers what it gave, on any node: a follower forwards it to the leader. It
// tries again by itself for up to 10 s (or until ctx ends) while it is certain that nothing was changed, and, if the
// entry has a key, also when the outcome is unknown. It returns once this node's own replica has the change, so that a
// View taken afterwards shows it.
//
// Errors: ErrNotApplied (with ErrNoLeader, ErrBusy, ErrStopped), ErrUnknown, ErrNotUnderstood. A refusal by the facts is
// a Result with a code. A zero e.At is filled in.
func (s *Seat) Propose(ctx context.Context, e fsm.Entry) (fsm.Result, error) {
	result, err := s.commit(ctx, e, true)
	if err != nil {
		return result, err
	}
	ctx, cancel := context.WithTimeout(ctx, ownReplicaLimit)
	defer cancel()
	if err := s.WaitIndex(ctx, result.Index); err != nil {
		// The change is made; to report an error for it would be the greater harm.
		s.log.Debug("own replica is behind an answered change", "index", result.Index, "error", err)
	}
	return result, nil
}

// Commit is Propose without the wait for the own replica: the answer is final, but a View taken here may not show the
// change yet. A follower's replica is up to twice Tuning.Commit behind, which is long for somebody who only needs leave
// to start a process.
func (s *Seat) Commit(ctx context.Context, e fsm.Entry) (fsm.Result, error) {
	return s.commit(ctx, e, false)
}

func (s *Seat) commit(ctx context.Context, e fsm.Entry, follow bool) (fsm.Result, error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		return fsm.Result{}, ErrBusy
	}
	if e.At.IsZero() {
		e.At = time.Now()
	}
	data, err := fsm.Encode(e)
	if err != nil {
		return fsm.Result{}, fmt.Errorf("%w: %w", ErrNotApplied, err)
	}
	ctx, cancel := context.WithTimeout(ctx, proposeLimit)
	defer cancel()
	result, err := s.retry(ctx, forwardRequest{Op: opPropose, Entry: data, Follow: follow}, e.Key != "")
	if err == nil && s.raft.State() == raft.Leader {
		s.auditReport(s.id, e, result) // nobody else sees what the leader reports to itself
	}
	return result, err
}

// retry offers the change until it has an answer, or an error that another try cannot help.
func (s *Seat) retry(ctx context.Context, r forwardRequest, repeatable bool) (fsm.Result, error) {
	var unknown error
	pause := firstPause
	for {
		news := s.leader.changed()
		result, err := s.offer(ctx, r)
		switch {
		case err == nil:
			return result, nil
		case errors.Is(err, ErrNotUnderstood), errors.Is(err, ErrStopped):
			return fsm.Result{}, err
		case errors.Is(err, ErrUnknown):
			if !repeatable {
				return fsm.Result{}, err
			}
			unknown = err
		}
		select {
		case <-ctx.Done():
			if unknown != nil {
				return fsm.Result{}, unknown // an earlier try may have succeeded
			}
			return fsm.Result{}, err
		case <-s.stopping:
			if unknown != nil {
				return fsm.Result{}, unknown
			}
			return fsm.Result{}, ErrStopped
		case <-news:
		case <-time.After(pause):
			pause = min(2*pause, longestPause)
		}
	}
}

// offer tries once: here if this node leads, else at the leader it knows of.
func (s *Seat) offer(ctx context.Context, r forwardRequest) (fsm.Result, error) {
	if ctx.Err() != nil {
		return fsm.Result{}, ErrNoLeader
	}
	if s.raft.State() == raft.Leader {
		if id, _, _ := s.replica.state.View().Cluster(); id == "" {
			return fsm.Result{}, ErrNoLeader // the founder is about to commit the first entry; see ownTerm
		}
		return s.applyHere(ctx, r.Entry)
	}
	leader, known := s.Leader()
	if !known || leader == s.id || r.Hops >= maxHops {
		return fsm.Result{}, ErrNoLeader
	}
	r.Hops++
	answer, err := s.forward.call(ctx, leader, r)
	return answer.Result, err
}

// applyHere commits an entry on the leader.
func (s *Seat) applyHere(ctx context.Context, data []byte) (fsm.Result, error) {
	if s.isStopping() {
		return fsm.Result{}, ErrStopped
	}
	if err := s.replica.failure(); err != nil {
		return fsm.Result{}, fmt.Errorf("%w: %w", ErrNotApplied, err)
	}
	f := s.raft.Apply(data, enqueueLimit)
	if err := s.raft.await(ctx, f); err != nil {
		return fsm.Result{}, classify(err)
	}
	s.reached(StepCommitted)
	a, ok := f.Response().(applied)
	if !ok || a.err != nil {
		return fsm.Result{}, fmt.Errorf("%w: %w", ErrUnknown, a.err)
	}
	return a.result, nil
}

// classify turns raft's words into certainty. Everything that is not known to be harmless is unknown.
func classify(err error) error {
	for _, harmless := range []error{
		raft.ErrNotLeader, raft.ErrLeadershipTransferInProgress, raft.ErrEnqueueTimeout, raft.ErrAbortedByRestore,
	} {
		if errors.Is(err, harmless) {
			return fmt.Errorf("%w: %w", ErrNotApplied, err)
		}
	}
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}

// WaitIndex blocks until this node's replica has applied the entry with that log index, or ctx ends.
func (s *Seat) WaitIndex(ctx context.Context, index uint64) error {
	state := s.replica.state
	for {
		changed := state.Changed()
		if state.Index() >= index {
			return nil
		}
		select {
		case <-changed:
		case <-s.replica.broken:
			return s.replica.failure()
		case <-ctx.Done():
			return fmt.Errorf("wait for log index %d, have %d: %w", index, state.Index(), context.Cause(ctx))
		}
	}
}
