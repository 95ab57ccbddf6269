package cluster

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// logStore is where raft keeps its log, its term and its vote.
type logStore interface {
	raft.LogStore
	raft.StableStore
}

// currentTerm is raft's key of its term. It panics when that cannot be written.
const currentTerm = "CurrentTerm"

// Operations on terms and votes, in words.
const storeTerm, storeVote = "store the term", "store the vote"

// watchStore stands between raft and its store. It knows which operations are under way, since raft itself waits for its
// disk for ever while its heartbeats go on, and it keeps the first error of a write: what raft believes about its log may
// be wrong from then on, so no further write is let through and the node must end.
type watchStore struct {
	inner logStore
	path  string // of the store, for messages
	// room frees what was kept for a full disk; false when nothing is left.
	room func() bool
	// failed is closed with the first error of a write.
	failed chan struct{}
	// free is closed when this node can reach nobody any more.
	free chan struct{}

	mu    sync.Mutex
	ops   map[*storeOp]struct{}
	err   error
	doing string // what failed
	syncs latencies
	loose bool
}

// storeOp is one operation under way.
type storeOp struct {
	name string
	age  time.Duration // as far as somebody watched
}

func newWatchStore(inner logStore, path string, room func() bool) *watchStore {
	return &watchStore{inner: inner, path: path, room: room, failed: make(chan struct{}), free: make(chan struct{}), ops: map[*storeOp]struct{}{}}
}

// oldest adds the time since the last look to every operation under way and gives the one that is longest on it. Only
// watched time counts: a process that was stopped for a minute has not seen its disk hang for a minute.
func (w *watchStore) oldest(step time.Duration) (op storeOp, any bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for o := range w.ops {
		o.age += step
		if !any || o.age > op.age {
			op, any = *o, true
		}
	}
	return op, any
}

// failure gives the error that must end the node, or nil.
func (w *watchStore) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// concernsOthers says whether what failed was the log of a leader. A term or a vote is written because somebody else
// stands for election already.
func (w *watchStore) concernsOthers() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.doing != storeTerm && w.doing != storeVote
}

func (w *watchStore) fail(doing string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.doing, w.err = doing, err
		close(w.failed)
	}
}

// hang ends the store because an operation does not.
func (w *watchStore) hang(op storeOp) error {
	w.fail(op.name, fmt.Errorf("%w: to %s in %s has taken %v so far", ErrDiskHangs, op.name, w.path, op.age.Round(100*time.Millisecond)))
	return w.failure()
}

// letGo frees what waits in vain. Nothing that raft does afterwards may reach another node.
func (w *watchStore) letGo() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.loose {
		w.loose = true
		close(w.free)
	}
}

// syncTime gives the time that 99 of the last 100 writes of entries took at most, and of how many that was measured.
func (w *watchStore) syncTime() (p99 time.Duration, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.syncs.p99()
}

func (w *watchStore) watched(name string, do func() error) error {
	op := &storeOp{name: name}
	w.mu.Lock()
	w.ops[op] = struct{}{}
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		delete(w.ops, op)
		w.mu.Unlock()
	}()
	return do()
}

func (w *watchStore) write(name string, do func() error) error {
	if err := w.failure(); err != nil {
		return err
	}
	err := w.watched(name, do)
	// A transaction that found no room has left the store as it was, so it may be done again.
	if noSpace(err) && w.watched("make room", func() error { return errUnless(w.room()) }) == nil {
		err = w.watched(name, do)
	}
	if err != nil {
		w.fail(name, diskError(name, w.path, err))
	}
	return err
}

func errUnless(ok bool) error {
	if ok {
		return nil
	}
	return errors.ErrUnsupported
}

// StoreLogs implements raft.LogStore.
func (w *watchStore) StoreLogs(logs []*raft.Log) error {
	start := time.Now()
	err := w.write("store entries", func() error { return w.inner.StoreLogs(logs) })
	if err == nil {
		w.mu.Lock()
		w.syncs.add(time.Since(start))
		w.mu.Unlock()
	}
	return err
}

// StoreLog implements raft.LogStore.
func (w *watchStore) StoreLog(log *raft.Log) error { return w.StoreLogs([]*raft.Log{log}) }

// DeleteRange implements raft.LogStore.
func (w *watchStore) DeleteRange(first, last uint64) error {
	return w.write("delete entries", func() error { return w.inner.DeleteRange(first, last) })
}

// Set implements raft.StableStore. Raft panics when its term cannot be written, before anybody could be told why. So it waits
// here instead until this node is cut off, and may then believe what it likes: it reaches nobody.
func (w *watchStore) Set(key, value []byte) error {
	isTerm := bytes.Equal(key, []byte(currentTerm))
	name := storeVote
	if isTerm {
		name = storeTerm
	}
	err := w.write(name, func() error { return w.inner.Set(key, value) })
	if err != nil && isTerm {
		<-w.free
		return nil
	}
	return err
}

// SetUint64 implements raft.StableStore. The seals above write numbers as values.
func (w *watchStore) SetUint64(key []byte, value uint64) error {
	return w.Set(key, binary.BigEndian.AppendUint64(nil, value))
}

// GetLog implements raft.LogStore.
func (w *watchStore) GetLog(index uint64, log *raft.Log) error {
	return w.watched("read an entry", func() error { return w.inner.GetLog(index, log) })
}

// FirstIndex implements raft.LogStore.
func (w *watchStore) FirstIndex() (index uint64, err error) {
	err = w.watched("read the first index", func() error { index, err = w.inner.FirstIndex(); return err })
	return index, err
}

// LastIndex implements raft.LogStore.
func (w *watchStore) LastIndex() (index uint64, err error) {
	err = w.watched("read the last index", func() error { index, err = w.inner.LastIndex(); return err })
	return index, err
}

// Get implements raft.StableStore.
func (w *watchStore) Get(key []byte) (value []byte, err error) {
	err = w.watched("read the vote", func() error { value, err = w.inner.Get(key); return err })
	return value, err
}

// GetUint64 implements raft.StableStore.
func (w *watchStore) GetUint64(key []byte) (value uint64, err error) {
	err = w.watched("read the term", func() error { value, err = w.inner.GetUint64(key); return err })
	return value, err
}

// noSpace says whether a write failed because the file system or the owner's share of it is full. bbolt has some of its
// causes only as text.
func noSpace(err error) bool {
	if err == nil {
		return false
	}
	for _, e := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT} {
		if errors.Is(err, e) || strings.Contains(err.Error(), e.Error()) {
			return true
		}
	}
	return false
}

// diskError names what the disk did not do.
func diskError(doing, path string, err error) error {
	kind := ErrDiskFailed
	if noSpace(err) {
		kind = ErrDiskFull
	}
	return fmt.Errorf("%w: %s in %s: %w", kind, doing, path, err)
}

// openError names the disk where it is the reason that a store cannot be opened: then it may be tried again later.
func openError(path string, err error) error {
	if noSpace(err) || errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EROFS) {
		return diskError("open the log", path, err)
	}
	return err
}

// latencies are the last few hundred measurements.
type latencies struct {
	last [300]time.Duration
	n    int
}

func (l *latencies) add(d time.Duration) {
	l.last[l.n%len(l.last)] = d
	l.n++
}

func (l *latencies) p99() (d time.Duration, n int) {
	n = min(l.n, len(l.last))
	if n == 0 {
		return 0, 0
	}
	sorted := slices.Sorted(slices.Values(l.last[:n]))
	return sorted[(n*99+99)/100-1], n
}
