package cluster

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// stallLimit is how long a leader may commit nothing while something waits. It leaves room for the answer to reach a
	// client within 5 s.
	stallLimit = 4 * time.Second
	// stuckLimit is how long a voter that answers may stand still while others go on.
	stuckLimit = 10 * time.Second
)

// progress is one leader's memory of what was committed, and who follows. It has no clock: time passes by step.
type progress struct {
	commit uint64
	stood  time.Duration // how long the commit index has stood still while something waited
	voters map[string]*follower
}

type follower struct {
	applied uint64
	behind  time.Duration // how long it has stood still behind the commit index
}

// seen is one look at a leader's consensus.
type seen struct {
	commit  uint64
	waits   bool // something is to be committed
	applied map[string]uint64
}

// step takes one look after a time has passed. It says whether nothing is committed any more, and which voters stand
// still. applied has the voters that answer.
func (p *progress) step(passed time.Duration, now seen) (stalled bool, stuck []string) {
	if now.commit != p.commit || !now.waits {
		p.stood = 0
	} else {
		p.stood += passed
	}
	before := p.voters
	p.commit, p.voters = now.commit, map[string]*follower{}
	for id, applied := range now.applied {
		f := &follower{applied: applied}
		if old := before[id]; old != nil && old.applied == applied && applied < now.commit {
			f.behind = old.behind + passed
		}
		p.voters[id] = f
		if f.behind >= stuckLimit {
			stuck = append(stuck, id)
		}
	}
	slices.Sort(stuck)
	return p.stood >= stallLimit, stuck
}

// stall is whether this leader commits nothing, for all who wait for it.
type stall struct {
	mu     sync.Mutex
	ctx    context.Context // ends, with the reason, when the stall begins
	cancel context.CancelCauseFunc
	stuck  []string
}

func newStall() *stall {
	s := &stall{}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	return s
}

// now gives a context that ends with a stall; one that has ended already says that there is one.
func (s *stall) now() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ctx
}

// reason gives the *TroubleError of the present stall, or nil.
func (s *stall) reason() error { return context.Cause(s.now()) }

func (s *stall) begin(reason error) { s.cancel(reason) }

func (s *stall) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		s.ctx, s.cancel = context.WithCancelCause(context.Background())
	}
}

// bind gives a context that also ends when a stall begins.
func (s *stall) bind(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	now := s.now()
	unlink := context.AfterFunc(now, func() { cancel(context.Cause(now)) })
	return ctx, func() { unlink(); cancel(nil) }
}

func (s *stall) setStuck(ids []string) (news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	news = !slices.Equal(ids, s.stuck)
	s.stuck = ids
	return news
}

func (s *stall) isStuck(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.stuck, id)
}

// watchProgress looks whether this leader still commits, and whether its voters follow. Followers whose disks are full or
// hang go on answering heartbeats, so that everything looks well. Nothing is written to find out: an idle cluster has
// nothing to commit.
func (s *Seat) watchProgress(ctx context.Context) error {
	tick := time.NewTicker(2 * watchTick)
	defer tick.Stop()
	p, term, last := &progress{}, uint64(0), time.Now()
	for {
		var now time.Time
		select {
		case <-ctx.Done():
			return nil
		case now = <-tick.C:
		}
		passed := min(now.Sub(last), longestTick)
		last = now
		if t := s.raft.CurrentTerm(); !s.IsLeader() || t != term {
			p, term = &progress{}, t
			s.stall.end()
			s.stall.setStuck(nil)
			continue
		}
		stalled, stuck := p.step(passed, s.look(now))
		if s.stall.setStuck(stuck) && len(stuck) > 0 {
			s.log.Warn("voters answer, and take no entries", "voters", s.names(stuck), "for", stuckLimit)
		}
		s.setStalled(stalled)
	}
}

func (s *Seat) look(now time.Time) seen {
	commit := s.raft.CommitIndex()
	look := seen{commit: commit, waits: s.raft.LastIndex() > commit || s.applying.Load() > 0, applied: map[string]uint64{}}
	for _, id := range voters(s.raft.servers()) {
		if applied, ago, known := s.gossip.health.progress(id, now); known && ago < heardLately && id != s.id {
			look.applied[id] = applied
		}
	}
	return look
}

func (s *Seat) setStalled(stalled bool) {
	switch was := s.stall.reason() != nil; {
	case stalled && !was && s.raft.State() == raft.Leader:
		reason := &TroubleError{Kind: ErrStalled, Sentence: s.stallSentence()}
		s.log.Error("nothing is committed", "reason", reason)
		s.stall.begin(reason)
	case !stalled && was:
		s.log.Info("changes are committed again")
		s.stall.end()
	}
}
