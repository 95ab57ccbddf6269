package cluster

import (
	"errors"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// faultyStore is a log that hangs or fails when it is told to.
type faultyStore struct {
	inner logStore

	mu     sync.Mutex
	stuck  chan struct{} // writes wait for it; nil: they do not
	faults []error       // of the next writes
	always error         // of all further ones
}

func newFaultyStore(inner logStore) *faultyStore { return &faultyStore{inner: inner} }

// hang makes every write wait until the end of the returned function.
func (f *faultyStore) hang() (release func()) {
	stuck := make(chan struct{})
	f.mu.Lock()
	f.stuck = stuck
	f.mu.Unlock()
	return sync.OnceFunc(func() {
		f.mu.Lock()
		f.stuck = nil
		f.mu.Unlock()
		close(stuck)
	})
}

// fail makes the next writes fail, one with each of these errors.
func (f *faultyStore) fail(errs ...error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = errs
}

// failAll makes every write fail from now on; nil ends it.
func (f *faultyStore) failAll(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.always = err
}

func (f *faultyStore) fault() error {
	f.mu.Lock()
	stuck := f.stuck
	f.mu.Unlock()
	if stuck != nil {
		<-stuck
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.always != nil {
		return f.always
	}
	if len(f.faults) == 0 {
		return nil
	}
	err := f.faults[0]
	f.faults = f.faults[1:]
	return err
}

func (f *faultyStore) FirstIndex() (uint64, error)        { return f.inner.FirstIndex() }
func (f *faultyStore) LastIndex() (uint64, error)         { return f.inner.LastIndex() }
func (f *faultyStore) GetLog(i uint64, l *raft.Log) error { return f.inner.GetLog(i, l) }
func (f *faultyStore) Get(k []byte) ([]byte, error)       { return f.inner.Get(k) }
func (f *faultyStore) GetUint64(k []byte) (uint64, error) { return f.inner.GetUint64(k) }
func (f *faultyStore) StoreLog(l *raft.Log) error         { return f.StoreLogs([]*raft.Log{l}) }
func (f *faultyStore) StoreLogs(l []*raft.Log) error {
	return f.write(func() error { return f.inner.StoreLogs(l) })
}
func (f *faultyStore) DeleteRange(a, b uint64) error {
	return f.write(func() error { return f.inner.DeleteRange(a, b) })
}
func (f *faultyStore) Set(k, v []byte) error {
	return f.write(func() error { return f.inner.Set(k, v) })
}
func (f *faultyStore) SetUint64(k []byte, v uint64) error {
	return f.write(func() error { return f.inner.SetUint64(k, v) })
}

func (f *faultyStore) write(do func() error) error {
	if err := f.fault(); err != nil {
		return err
	}
	return do()
}

// watched is a watched store over memory, with a reserve of some releases.
func watched(releases int) (*watchStore, *faultyStore) {
	f := newFaultyStore(raft.NewInmemStore())
	return newWatchStore(f, "raft.db", func() bool { releases--; return releases >= 0 }), f
}

func entry(i uint64) []*raft.Log { return []*raft.Log{{Index: i, Term: 1}} }

func TestEveryFailedWriteEndsTheStore(t *testing.T) {
	full := &fsPathError{syscall.ENOSPC}
	for name, write := range map[string]func(*watchStore) error{
		"entries": func(w *watchStore) error { return w.StoreLogs(entry(2)) },
		"entry":   func(w *watchStore) error { return w.StoreLog(entry(2)[0]) },
		"delete":  func(w *watchStore) error { return w.DeleteRange(1, 1) },
		"vote":    func(w *watchStore) error { return w.Set([]byte("LastVoteCand"), []byte("x")) },
		"term":    func(w *watchStore) error { return w.SetUint64([]byte("LastVoteTerm"), 3) },
	} {
		for _, c := range []struct{ fault, want error }{
			{syscall.EIO, ErrDiskFailed}, {full, ErrDiskFull}, {syscall.EROFS, ErrDiskFailed}, {syscall.EDQUOT, ErrDiskFull},
			{errors.New("file resize error: " + syscall.ENOSPC.Error()), ErrDiskFull}, // as bbolt words it
		} {
			w, f := watched(0)
			if err := w.StoreLogs(entry(1)); err != nil {
				t.Fatal(err)
			}
			f.fail(c.fault)
			if err := write(w); err == nil {
				t.Errorf("%s: no error", name)
			}
			select {
			case <-w.failed:
			default:
				t.Errorf("%s: nobody was told", name)
			}
			if err := w.failure(); !errors.Is(err, c.want) || !errors.Is(err, ErrDisk) {
				t.Errorf("%s failed with %v: %v, want %v", name, c.fault, err, c.want)
			}
			// What raft believes about its log may be wrong now, so nothing more is written, though the disk works again.
			if err := w.StoreLogs(entry(3)); err == nil {
				t.Errorf("%s: a later write was let through", name)
			}
		}
	}
}

type fsPathError struct{ error }

func (e *fsPathError) Error() string { return "write raft.db: " + e.error.Error() }
func (e *fsPathError) Unwrap() error { return e.error }

func TestAFullDiskCostsTheReserveFirst(t *testing.T) {
	w, f := watched(1)
	f.fail(syscall.ENOSPC)
	if err := w.StoreLogs(entry(1)); err != nil {
		t.Fatalf("with a reserve: %v", err)
	}
	if last, err := w.LastIndex(); last != 1 || err != nil {
		t.Errorf("the entry is not there: last %d, %v", last, err)
	}
	f.fail(syscall.ENOSPC)
	if err := w.StoreLogs(entry(2)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("without one: %v", err)
	}
	if !errors.Is(w.failure(), ErrDiskFull) {
		t.Errorf("the store ended with %v", w.failure())
	}
}

func TestATermThatCannotBeWrittenIsNotBelievedBeforeTheNodeIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, f := watched(0)
		f.fail(syscall.EIO)
		var raftLoop sync.WaitGroup
		done := false
		raftLoop.Go(func() {
			if err := w.SetUint64([]byte(currentTerm), 7); err != nil {
				t.Errorf("raft would panic on %v", err)
			}
			done = true
		})
		synctest.Wait()
		if done {
			t.Error("raft went on with a term that is not on the disk")
		}
		if !errors.Is(w.failure(), ErrDiskFailed) {
			t.Errorf("the store ended with %v", w.failure())
		}
		w.letGo()
		raftLoop.Wait()
	})
}

func TestOnlyWatchedTimeMakesAHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, f := watched(0)
		if _, any := w.oldest(time.Hour); any {
			t.Error("an operation is under way before the first")
		}
		release := f.hang()
		var raftLoop sync.WaitGroup
		raftLoop.Go(func() {
			if err := w.StoreLogs(entry(1)); err != nil {
				t.Errorf("an operation that ended late: %v", err)
			}
		})
		synctest.Wait()
		time.Sleep(time.Minute) // the process was stopped, say
		op, any := w.oldest(time.Second)
		if !any || op.age != time.Second || op.name != "store entries" {
			t.Errorf("after one look: %+v, %v", op, any)
		}
		if op, _ := w.oldest(2500 * time.Millisecond); op.age != 3500*time.Millisecond {
			t.Errorf("after two looks: %+v", op)
		}
		release()
		raftLoop.Wait()
		if op, any := w.oldest(time.Second); any {
			t.Errorf("an ended operation is under way: %+v", op)
		}
		if err := w.hang(op); !errors.Is(err, ErrDiskHangs) || !errors.Is(w.failure(), ErrDiskHangs) {
			t.Errorf("hang gives %v, the store ended with %v", err, w.failure())
		}
	})
}

func TestSyncTimes(t *testing.T) {
	var l latencies
	if p99, n := l.p99(); p99 != 0 || n != 0 {
		t.Errorf("of nothing: %v of %d", p99, n)
	}
	for i := range 100 {
		l.add(time.Duration(i+1) * time.Millisecond)
	}
	if p99, n := l.p99(); p99 != 99*time.Millisecond || n != 100 {
		t.Errorf("of 1 … 100 ms: %v of %d", p99, n)
	}
	for range 300 {
		l.add(time.Second)
	}
	if p99, n := l.p99(); p99 != time.Second || n != 300 {
		t.Errorf("of the last 300: %v of %d", p99, n)
	}
}

func TestUsageBecomesAState(t *testing.T) {
	const mib = 1 << 20
	tmpfs := DiskLimits{Reserve: 8 * mib, Floor: 16 * mib}.withDefaults(usage{total: 64 * mib})
	for _, c := range []struct {
		free int64
		held bool
		was  DiskState
		no   bool
		want DiskState
	}{
		{free: 40 * mib, held: true, want: DiskOK},
		{free: 16 * mib, held: true, want: DiskOK},
		{free: 16*mib - 1, held: true, want: DiskLow},
		{free: 18 * mib, held: true, was: DiskLow, want: DiskLow}, // not yet a quarter above the floor
		{free: 20 * mib, held: true, was: DiskLow, want: DiskOK},
		{free: 40 * mib, held: true, no: true, want: DiskLow},
		{free: 8 * mib, held: false, want: DiskFull},
		{free: 40 * mib, held: false, was: DiskOK, want: DiskFull},
	} {
		u := usage{total: 64 * mib, free: c.free, noFiles: c.no}
		if got := tmpfs.judge(u, c.held, c.was); got != c.want {
			t.Errorf("%+v is %s", c, got)
		}
	}
}

func TestDiskLimitsFollowTheSizeOfTheFileSystem(t *testing.T) {
	const gib = 1 << 30
	for total, want := range map[int64]DiskLimits{
		64 << 20:    {8 << 20, 8 << 20},
		100 * gib:   {128 << 20, 2 * gib},
		8 * gib:     {128 << 20, 256 << 20},
		20000 * gib: {128 << 20, 16 * gib},
	} {
		if got := (DiskLimits{}).withDefaults(usage{total: total}); got != want {
			t.Errorf("of %d: %+v, want %+v", total, got, want)
		}
	}
	if got := (DiskLimits{}).withDefaults(usage{total: 8 * gib, inMemory: true}); got.Reserve != 8<<20 {
		t.Errorf("in memory %d bytes are kept", got.Reserve)
	}
}
