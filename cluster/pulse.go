package cluster

import (
	"context"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// protocolPulse is a connection on which nothing is said. It closes when the process on the other end ends.
const protocolPulse = "pulse"

// servePulse holds the connection open; the peer never writes.
func servePulse(_ context.Context, conn net.Conn) {
	_, _ = io.Copy(io.Discard, conn) // any end is the end
}

// keepPulse keeps an idle connection to the leader. When it closes and a new dial is refused, the machine is there and
// its process is gone: then the voters need not wait for a timer. Only liveness depends on this; if it misjudges, a
// healthy leader is replaced by an ordinary election.
func (s *Seat) keepPulse(ctx context.Context) error {
	for {
		news := s.leader.changed()
		leader, known := s.Leader()
		if known && leader != s.id && s.mayVoteSoon() {
			s.holdPulse(ctx, leader, news)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-news:
		case <-time.After(s.o.Tuning.Heartbeat):
		}
	}
}

// mayVoteSoon says whether this node keeps a pulse. Nothing tells a server that it was made a voter, so in a small
// cluster the stand-bys keep one too; in a large one the leader need not carry a connection for each machine.
func (s *Seat) mayVoteSoon() bool {
	return len(s.raft.servers()) <= 2*maxVoters || s.raft.isVoter()
}

// holdPulse returns when the connection has ended, or there is news of the leader.
func (s *Seat) holdPulse(ctx context.Context, leader string, news <-chan struct{}) {
	term := s.raft.CurrentTerm()
	conn, err := s.dialPulse(ctx, leader)
	for err == nil {
		if !waitClosed(ctx, conn, news) {
			return
		}
		conn, err = s.redialPulse(ctx, leader, news)
	}
	if refused(err) {
		s.succeed(ctx, leader, term)
	}
}

// redialPulse asks for proof. A dying process closes its sockets one by one: for a moment a dial may still be accepted and
// then be reset, so anything but an answer or a refusal is asked again, soon.
func (s *Seat) redialPulse(ctx context.Context, leader string, news <-chan struct{}) (net.Conn, error) {
	for wait := 5 * time.Millisecond; ; wait *= 2 {
		conn, err := s.dialPulse(ctx, leader)
		if err == nil || refused(err) || wait > s.o.Tuning.Heartbeat/4 {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-news:
			return nil, err
		case <-time.After(wait):
		}
	}
}

func (s *Seat) dialPulse(ctx context.Context, leader string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.Tuning.Heartbeat)
	defer cancel()
	return s.DialPeer(ctx, leader, protocolPulse)
}

// waitClosed says whether the other end closed the connection, and not we because of news or the end of ctx.
func waitClosed(ctx context.Context, conn net.Conn, news <-chan struct{}) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	closed := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(closed)
		_, _ = io.Copy(io.Discard, conn) // any end is the end
	})
	defer reader.Wait()
	defer conn.Close()
	select {
	case <-closed:
		return ctx.Err() == nil
	case <-news:
		return false
	}
}

// succeed stands for election in this voter's turn, unless by then somebody else leads or stands: two who stand at once
// split the votes, and then the timers decide after all.
func (s *Seat) succeed(ctx context.Context, gone string, term uint64) {
	s.gossip.health.lost(gone, time.Now()) // or the next leader would still give it work for three seconds
	turn, ok := turnOf(s.id, gone, voters(s.raft.servers()))
	if !ok {
		return
	}
	select {
	case <-time.After(time.Duration(turn) * s.o.Tuning.PulseStep):
	case <-ctx.Done():
		return
	}
	if now, known := s.Leader(); known && now != gone || s.raft.CurrentTerm() != term {
		return
	}
	if s.raft.State() != raft.Follower || !s.raft.isVoter() {
		return
	}
	s.log.Info("the leader's process is gone; standing for election", "leader", gone)
	ctx, cancel := context.WithTimeout(ctx, s.o.Tuning.Heartbeat)
	defer cancel()
	if err := s.raft.trans.stand(ctx, s.id); err != nil {
		s.log.Debug("stand for election", "error", err)
	}
}

// turnOf is a voter's place in the line of successors: by ID, the one that is gone left out. Who does not vote has none.
func turnOf(id, gone string, all []string) (turn int, ok bool) {
	line := slices.DeleteFunc(slices.Sorted(slices.Values(all)), func(v string) bool { return v == gone })
	turn = slices.Index(line, id)
	return turn, turn >= 0
}
