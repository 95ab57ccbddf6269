package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// space keeps an eye on the room of the data directory, and the reserve in it.
type space struct {
	dir     string
	limits  DiskLimits
	reserve *reserve
	log     *slog.Logger

	mu      sync.Mutex
	state   DiskState
	changed chan struct{}
}

func openSpace(dir string, limits DiskLimits, log *slog.Logger) (*space, error) {
	u, err := measure(dir)
	if err != nil {
		return nil, err
	}
	limits = limits.withDefaults(u)
	s := &space{dir: dir, limits: limits, reserve: newReserve(dir, limits.Reserve), log: log, changed: make(chan struct{})}
	if !s.reserve.held() {
		if err := s.reserve.take(); err != nil {
			log.Warn("no reserve for a full disk could be made", "error", err)
		}
	}
	s.set(limits.judge(u, s.reserve.held(), ""))
	return s, nil
}

// RoomToStart says whether a node may open its data directory: its reserve is there, or there is room for it. The error
// says what to do when there is not.
func RoomToStart(dir string, limits DiskLimits) error {
	u, err := measure(dir)
	if err != nil {
		return err
	}
	limits = limits.withDefaults(u)
	want := limits.nothing()
	if !newReserve(dir, limits.Reserve).held() {
		want += limits.Reserve
	}
	switch {
	case u.free < want:
		return fmt.Errorf("%w: %s has less than the %d MiB free that the node needs", ErrDiskFull, dir, want>>20+1)
	case u.noFiles:
		return fmt.Errorf("%w: no further file can be made in %s (its inodes are used up)", ErrDiskFull, dir)
	}
	return nil
}

// run measures until ctx ends. It never ends the seat: a disk that cannot be measured may still take writes, and one
// that does not is noticed where they are made.
func (s *space) run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if err := s.step(); err != nil {
			s.log.Warn("look after the disk", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (s *space) step() error {
	u, err := measure(s.dir)
	if err != nil {
		return err
	}
	held := s.reserve.held()
	switch {
	case held && u.free < s.limits.nothing():
		_, err = s.reserve.release()
		held = err != nil
	case !held && u.free >= s.limits.Reserve+s.limits.Floor:
		err = s.reserve.take()
		held, u.free = err == nil, u.free-s.limits.Reserve
	}
	s.set(s.limits.judge(u, held, s.now()))
	return err
}

// makeRoom gives up the reserve for a write that found no room. Whether it helps, the write finds out.
func (s *space) makeRoom() bool {
	freed, err := s.reserve.release()
	if err != nil {
		s.log.Error("the reserve for a full disk could not be given up", "error", err)
	}
	s.set(DiskFull)
	return freed
}

func (s *space) now() DiskState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

func (s *space) set(state DiskState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state == s.state {
		return
	}
	if s.state != "" {
		s.log.Log(context.Background(), levelOf(state), "disk of the data directory", "was", s.state, "is", state, "dir", s.dir)
	}
	s.state = state
	close(s.changed)
	s.changed = make(chan struct{})
}

func levelOf(state DiskState) slog.Level {
	if state.short() {
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

func (s *space) news() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Disk gives how much room this node's own data directory has.
func (s *Seat) Disk() DiskState { return s.space.now() }

// DiskChanged gives a channel that is closed when Disk may have changed. Take it before Disk.
func (s *Seat) DiskChanged() <-chan struct{} { return s.space.news() }

// SyncTime gives how long this node's disk takes to make entries durable: 99 of 100 took no longer. It is 0 before the
// first.
func (s *Seat) SyncTime() time.Duration {
	p99, _ := s.raft.watch.syncTime()
	return p99
}

// diskOf gives the last word of a node on its disk, also of one that is gone since.
func (s *Seat) diskOf(id string) DiskState {
	if id == s.id {
		return s.Disk()
	}
	if word := s.gossip.health.last(id); word != nil && s.o.DiskOf != nil {
		return s.o.DiskOf(word)
	}
	return ""
}

// errNotBetter: no voter that answers has more room than this leader.
var errNotBetter = errors.New("no voter that answers has more disk space")

// lowDiskPause is how long a leader on a low disk waits before it looks again for a voter with room, in looks at the voters.
const lowDiskPause = 10

// leaveLowDisk hands leadership to a voter with room while this leader has little. It does not come back by itself: the
// next leader has room.
func (s *Seat) leaveLowDisk(ctx context.Context) error {
	for {
		changed := s.DiskChanged()
		var again <-chan time.Time
		if s.Disk().short() {
			again = time.After(lowDiskPause * s.o.Tuning.Balance)
			if err := s.moveToRoom(ctx); err != nil && ctx.Err() == nil {
				s.log.Info("the disk is low, and leadership stays here", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-again:
		}
	}
}

func (s *Seat) moveToRoom(ctx context.Context) error {
	for _, id := range s.successors() {
		if s.diskOf(id).short() {
			continue
		}
		hostport, ok := s.meshAddress(id)
		if !ok {
			continue
		}
		s.log.Info("the disk is low; handing leadership over", "to", id)
		s.handing.Store(true)
		defer s.handing.Store(false)
		return s.raft.await(ctx, s.raft.LeadershipTransferToServer(raft.ServerID(id), address(id, hostport)))
	}
	return errNotBetter
}

// successors lists the other voters that answer, those first that are furthest.
func (s *Seat) successors() []string {
	now, applied := time.Now(), map[string]uint64{}
	ids := slices.DeleteFunc(voters(s.raft.servers()), func(id string) bool {
		m, _ := s.gossip.member(id)
		index, ago, known := s.gossip.health.progress(id, now)
		applied[id] = index
		return id == s.id || !m.alive && !(known && ago < heardLately)
	})
	slices.SortStableFunc(ids, func(a, b string) int { return cmp.Compare(applied[b], applied[a]) })
	return ids
}
