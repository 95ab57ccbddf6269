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
// Errors: ErrNotApplied (with ErrNoLeader, ErrBusy, ErrStopped, ErrStalled, ErrNoRoom), ErrUnknown, ErrNotUnderstood; a
// *TroubleError where machines can be named. When there has been no leader for 4 s, or nothing is committed for as long, it
// says so without trying for 10 s. A refusal by the facts is a Result with a code. A zero e.At is filled in.
//
// Before it removes a node, that node's vote and leadership are taken over by others; where that is not possible now, the
// error is ErrVoteNeeded.
func (s *Seat) Propose(ctx context.Context, e fsm.Entry) (fsm.Result, error) {
	if removal, ok := e.Command.(*fsm.Remove); ok {
		if refusal, err := s.retire(ctx, removal); err != nil || refusal.Refused() {
			return refusal, err
		}
	}
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
	if err := s.refusesForRoom(e); err != nil {
		return fsm.Result{}, err
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
	pause, began := firstPause, time.Now()
	for {
		news := s.leader.changed()
		result, err := s.offer(ctx, r)
		switch {
		case err == nil:
			return result, nil
		case errors.Is(err, ErrNotUnderstood), errors.Is(err, ErrStopped), errors.Is(err, ErrStalled), errors.Is(err, ErrNoRoom):
			return fsm.Result{}, stillUnknown(unknown, err)
		case errors.Is(err, ErrUnknown):
			if _, stalled := errors.AsType[*TroubleError](err); stalled || !repeatable {
				return fsm.Result{}, err
			}
			unknown = err
		}
		if gone := s.givesUp(err, began); gone != nil {
			return fsm.Result{}, stillUnknown(unknown, gone)
		}
		select {
		case <-ctx.Done():
			if _, known := s.Leader(); !known && errors.Is(err, ErrNoLeader) {
				err = &TroubleError{Kind: ErrNoLeader, Sentence: s.leaderlessSentence()}
			}
			return fsm.Result{}, stillUnknown(unknown, err)
		case <-s.stopping:
			return fsm.Result{}, stillUnknown(unknown, ErrStopped)
		case <-news:
		case <-time.After(pause):
			pause = min(2*pause, longestPause)
		}
	}
}

// stillUnknown gives the error of the last try, unless an earlier one may have succeeded: then the outcome is unknown, and
// the last error only says why nobody can tell.
func stillUnknown(unknown, last error) error {
	if unknown == nil {
		return last
	}
	if trouble, ok := errors.AsType[*TroubleError](last); ok {
		return &TroubleError{Kind: ErrUnknown, Sentence: trouble.Sentence}
	}
	return unknown
}

// patience is how long a call tries at least, so that callers that try again by themselves do so calmly.
const patience = time.Second

// givesUp ends the search for a leader early when there has been none for longer than an election takes.
func (s *Seat) givesUp(err error, began time.Time) error {
	now := time.Now()
	limit := max(leaderlessLimit, 4*s.o.Tuning.Heartbeat)
	if !errors.Is(err, ErrNoLeader) || s.leader.missing(now) < limit || now.Sub(began) < patience {
		return nil
	}
	return &TroubleError{Kind: ErrNoLeader, Sentence: s.leaderlessSentence()}
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
	if err := s.stall.reason(); err != nil {
		return fsm.Result{}, err
	}
	s.applying.Add(1)
	defer s.applying.Add(-1)
	f := s.raft.Apply(data, untilDeadline(ctx, enqueueLimit))
	bound, unbind := s.stall.bind(ctx)
	defer unbind()
	if err := s.raft.await(bound, f); err != nil {
		if trouble, ok := errors.AsType[*TroubleError](err); ok {
			return fsm.Result{}, &TroubleError{Kind: ErrUnknown, Sentence: trouble.Sentence} // it lies in the log
		}
		return fsm.Result{}, classify(err)
	}
	s.reached(StepCommitted)
	a, ok := f.Response().(applied)
	if !ok || a.err != nil {
		return fsm.Result{}, fmt.Errorf("%w: %w", ErrUnknown, a.err)
	}
	return a.result, nil
}

// untilDeadline gives a limit that does not reach beyond ctx's; raft knows no context, and takes 0 for no limit.
func untilDeadline(ctx context.Context, limit time.Duration) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline))
	}
	return max(limit, time.Millisecond)
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
