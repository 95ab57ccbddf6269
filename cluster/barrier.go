package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Barrier returns once this node's replica has everything that was committed, by anybody, before the call: a View taken
// afterwards is linearizable. It works on any node while there is a leader; errors are those of Propose.
//
// The leader proves that it still leads by committing an entry of its term. Raft's VerifyLeader would be cheaper, but
// it counts the answers of non-voters.
func (s *Seat) Barrier(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, proposeLimit)
	defer cancel()
	began := time.Now()
	for {
		news := s.leader.changed()
		index, err := s.readIndex(ctx, 0)
		if err == nil {
			return s.WaitIndex(ctx, index)
		}
		if errors.Is(err, ErrStopped) || errors.Is(err, ErrStalled) {
			return err
		}
		if gone := s.givesUp(err, began); gone != nil {
			return gone
		}
		select {
		case <-ctx.Done():
			return err
		case <-s.stopping:
			return ErrStopped
		case <-news:
		case <-time.After(longestPause):
		}
	}
}

// readIndex gives a log index that covers every change answered before the call.
func (s *Seat) readIndex(ctx context.Context, hops int) (uint64, error) {
	if ctx.Err() != nil {
		return 0, ErrNoLeader
	}
	if s.raft.State() == raft.Leader {
		bound, unbind := s.stall.bind(ctx)
		defer unbind()
		if err := s.barriers.wait(bound); err != nil {
			return 0, cmp.Or(s.stall.reason(), err)
		}
		return s.replica.state.Index(), nil
	}
	leader, known := s.Leader()
	if !known || leader == s.id || hops >= maxHops {
		return 0, ErrNoLeader
	}
	a, err := s.forward.call(ctx, leader, forwardRequest{Op: opBarrier, Hops: hops + 1})
	return a.Index, err
}

// barriers lets all readers that wait share one entry: those that came before it was sent share it, those that came
// later share the next.
type barriers struct {
	commit func() error

	mu      sync.Mutex
	closed  bool
	running bool
	next    *round
	wg      sync.WaitGroup
}

type round struct {
	done chan struct{}
	err  error
}

// join enters the next round and starts the rounds if none is under way.
func (b *barriers) join() *round {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		r := &round{done: make(chan struct{}), err: ErrStopped}
		close(r.done)
		return r
	}
	if b.next == nil {
		b.next = &round{done: make(chan struct{})}
	}
	if !b.running {
		b.running = true
		b.wg.Go(b.run)
	}
	return b.next
}

// close starts no more rounds and waits for those under way.
func (b *barriers) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.wg.Wait()
}

func (b *barriers) run() {
	for {
		b.mu.Lock()
		r := b.next
		b.next = nil
		if r == nil {
			b.running = false
			b.mu.Unlock()
			return
		}
		b.mu.Unlock()
		r.err = b.commit()
		close(r.done)
	}
}

func (b *barriers) wait(ctx context.Context) error {
	r := b.join()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return fmt.Errorf("%w: wait for barrier: %w", ErrNotApplied, context.Cause(ctx))
	}
}

// commitBarrier commits one entry that changes nothing.
func (s *Seat) commitBarrier() error {
	if s.isStopping() {
		return ErrStopped
	}
	ctx, cancel := context.WithTimeout(context.Background(), proposeLimit)
	defer cancel()
	s.applying.Add(1)
	defer s.applying.Add(-1)
	if err := s.raft.await(ctx, s.raft.Barrier(enqueueLimit)); err != nil {
		return fmt.Errorf("%w: barrier: %w", ErrNotApplied, err)
	}
	return nil
}
