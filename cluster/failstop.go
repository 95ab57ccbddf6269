package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// watchTick is how often operations under way are looked at. One look counts for a second at most: what a stopped or
	// starved process did not see is not the disk's fault.
	watchTick, longestTick = 250 * time.Millisecond, time.Second
	// passOnLimit bounds how long a leader that must end tries to name its successor, passOnTry one try.
	passOnLimit, passOnTry = time.Second, 500 * time.Millisecond
	// passOnPause lets a successor be elected before this node's connections close: their end makes the next in line stand,
	// too, and two who stand at once split the votes.
	passOnPause = 300 * time.Millisecond
	// slowSync is how long making an entry durable may take before people are told, slowSyncPause how often.
	slowSync, slowSyncPause = 200 * time.Millisecond, 10 * time.Minute
	// slowSyncLeast is how many measurements make a picture.
	slowSyncLeast = 100
)

// watchDisk ends the seat when an operation on the store does not end, or a write has failed. Raft itself would go on: its
// heartbeats need no disk, so a leader would lead, and a follower answer, for ever without taking a single change.
func (s *Seat) watchDisk(ctx context.Context) error {
	tick := time.NewTicker(watchTick)
	defer tick.Stop()
	led, last, told := false, time.Now(), time.Time{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.raft.watch.failed:
			return s.failStop(ctx, s.raft.watch.failure(), led)
		case now := <-tick.C:
			led = s.IsLeader()
			op, any := s.raft.watch.oldest(min(now.Sub(last), longestTick))
			last = now
			limit := s.o.Tuning.FollowerHang
			if led {
				limit = s.o.Tuning.LeaderHang
			}
			if any && op.age > limit {
				return s.failStop(ctx, s.raft.watch.hang(op), led)
			}
			told = s.tellSlowDisk(now, told)
		}
	}
}

func (s *Seat) tellSlowDisk(now, told time.Time) time.Time {
	if p99, n := s.raft.watch.syncTime(); n >= slowSyncLeast && p99 > slowSync && now.Sub(told) > slowSyncPause {
		s.log.Warn("the disk is slow to make entries durable; every change waits for it", "p99", p99)
		return now
	}
	return told
}

// failStop cuts this node off from the others, so that none of them waits for it or counts on it, and gives the error
// that ends the node. It touches no disk. The process may be unable to end, with threads that hang in the kernel, so
// everything that others could still reach is closed here.
func (s *Seat) failStop(ctx context.Context, cause error, led bool) error {
	s.log.Error("this node stops taking part in the cluster", "error", cause)
	s.stop()
	if errors.Is(cause, ErrDiskFull) {
		s.space.set(DiskFull)
		s.lastWord()
	}
	if led {
		if s.raft.watch.concernsOthers() && !s.handing.Load() {
			s.passOn(ctx)
		}
		select {
		case <-time.After(passOnPause):
		case <-ctx.Done():
		}
	}
	s.raft.abandon()
	if err := s.o.Mesh.Close(); err != nil {
		s.log.Debug("close mesh", "error", err)
	}
	return cause
}

// lastWord tells all nodes how this one feels, so that they can name it when it is gone.
func (s *Seat) lastWord() {
	if s.o.Health == nil {
		return
	}
	r := s.report(kindState, s.o.Health())
	for n := range s.replica.state.View().Nodes() {
		s.send(n.ID, r)
	}
}

// passOn names a successor by the message that raft's own leadership transfer ends with. The transfer itself passes
// through raft's main loop, which waits for the disk. Terms and votes decide as always.
func (s *Seat) passOn(ctx context.Context) {
	if leader, known := s.Leader(); known && leader != s.id {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, passOnLimit)
	defer cancel()
	for _, id := range s.successors() {
		hostport, ok := s.meshAddress(id)
		if !ok || ctx.Err() != nil {
			continue
		}
		err := bounded("name a successor", passOnTry, func() error {
			request := &raft.TimeoutNowRequest{RPCHeader: s.raft.trans.header(s.id)}
			return s.raft.trans.TimeoutNow(raft.ServerID(id), address(id, hostport), request, &raft.TimeoutNowResponse{})
		})
		if err == nil {
			s.log.Info("leadership was passed on", "to", id)
			return
		}
		s.log.Info("leadership was not passed on", "to", id, "error", err)
	}
}

// bounded runs f and waits for it, but not beyond a limit: on a disk that hangs nothing ever ends. What has not ended by
// then is left to the end of the process.
func bounded(what string, limit time.Duration, f func() error) error {
	done := make(chan error, 1)
	var left sync.WaitGroup
	left.Go(func() { done <- f() })
	select {
	case err := <-done:
		return err
	case <-time.After(limit):
		return fmt.Errorf("%s: not done after %v; left as it is", what, limit)
	}
}
