package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// ErrTermEnded is the cause of the end of a leadership's context.
var ErrTermEnded = errors.New("this node's leadership has ended")

// Lead calls fn once for every term this node wins, after its replica has applied everything that was committed before
// that term. fn's context ends, with cause ErrTermEnded, when the term does; Lead waits for fn to return before it goes
// on. Lead blocks until ctx ends and then returns nil, or returns the error fn returned while its term lasted. Several
// may run at once.
func (s *Seat) Lead(ctx context.Context, fn func(ctx context.Context, term uint64) error) error {
	var served *reign
	for {
		news := s.leader.changed()
		r := s.leader.reign()
		if r != nil && r != served && !r.over() {
			served = r
			if err := s.serveTerm(ctx, r, fn); err != nil {
				return err
			}
			continue
		}
		select {
		case <-news:
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Seat) serveTerm(ctx context.Context, r *reign, fn func(ctx context.Context, term uint64) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-r.ended:
			cancel(ErrTermEnded)
		case <-ctx.Done():
		}
	})
	defer watch.Wait()
	defer cancel(nil)
	for s.barriers.wait(ctx) != nil {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(firstPause):
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	err := fn(ctx, r.term)
	if ctx.Err() != nil {
		return nil // whatever fn met, it met it because its term or the seat ended
	}
	if err != nil {
		return fmt.Errorf("lead term %d: %w", r.term, err)
	}
	return nil
}

// reign is one term that this node leads.
type reign struct {
	term  uint64
	ended chan struct{}
}

func (r *reign) over() bool {
	select {
	case <-r.ended:
		return true
	default:
		return false
	}
}

// leadership knows who leads and wakes who waits for news of it.
type leadership struct {
	mu   sync.Mutex
	news chan struct{}
	now  *reign
	none time.Time // since when nobody is known to lead; zero while somebody is
}

func newLeadership() *leadership { return &leadership{news: make(chan struct{}), none: time.Now()} }

// note keeps since when nobody leads.
func (l *leadership) note(known bool, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case known:
		l.none = time.Time{}
	case l.none.IsZero():
		l.none = now
	}
}

// missing gives how long nobody has been known to lead.
func (l *leadership) missing(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.none.IsZero() {
		return 0
	}
	return now.Sub(l.none)
}

func (l *leadership) changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.news
}

func (l *leadership) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.news)
	l.news = make(chan struct{})
}

func (l *leadership) reign() *reign {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

// set ends the present reign, if any, and begins a new one for a term that was won.
func (l *leadership) set(won bool, term uint64) {
	l.mu.Lock()
	if l.now != nil {
		close(l.now.ended)
		l.now = nil
	}
	if won {
		l.now = &reign{term: term, ended: make(chan struct{})}
	}
	l.mu.Unlock()
	l.wake()
}

// watchLeader reads raft's notices for as long as the seat runs; raft blocks on them.
func (s *Seat) watchLeader(ctx context.Context) error {
	last := ""
	for {
		select {
		case won := <-s.raft.terms:
			s.leader.set(won, s.raft.CurrentTerm())
		case <-s.raft.leaders:
		case <-ctx.Done():
			s.leader.set(false, 0)
			return nil
		}
		id, known := s.Leader()
		s.leader.note(known, time.Now())
		if known && id != last {
			last = id
			s.log.Info("leader", "node", id, "self", id == s.id)
			s.forward.keepOnly(id)
		}
		s.leader.wake()
	}
}

// Leader gives the ID of the node that leads, as far as this node knows.
func (s *Seat) Leader() (id string, known bool) {
	_, leader := s.raft.LeaderWithID()
	return string(leader), leader != ""
}

// IsLeader says whether this node believes that it leads. Only a committed entry proves it; see Barrier.
func (s *Seat) IsLeader() bool { return s.raft.State() == raft.Leader }

// LeaderChanged gives a channel that is closed when the leader may have changed. Take it before asking who leads.
func (s *Seat) LeaderChanged() <-chan struct{} { return s.leader.changed() }
