package cluster

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

const mib = 1 << 20

// smallDisk mounts a file system of 64 MiB.
func smallDisk(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root may mount a small file system")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64m,nr_inodes=1k"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("mount a small file system: %v", err)
		}
		t.Skipf("mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// filler takes room until only so much is left; its end gives the room back.
func filler(t *testing.T, dir string, left int64) (end func()) {
	t.Helper()
	u, err := measure(dir)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, u.free-left), f.Close()); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

func TestTheReserveIsGivenUpAndMadeAgain(t *testing.T) {
	dir := smallDisk(t)
	limits := DiskLimits{Reserve: 8 * mib, Floor: 16 * mib}
	s, err := openSpace(dir, limits, testLog(t, "a"))
	if err != nil {
		t.Fatal(err)
	}
	want := func(when string, state DiskState, held bool) {
		t.Helper()
		if err := s.step(); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if s.now() != state || s.reserve.held() != held {
			t.Fatalf("%s: %s, reserve %v, want %s, %v", when, s.now(), s.reserve.held(), state, held)
		}
	}
	want("at first", DiskOK, true)
	if u, err := measure(dir); err != nil || u.free > 56*mib {
		t.Fatalf("the reserve takes no room: %d MiB are free, %v", u.free/mib, err)
	}
	end := filler(t, dir, 15*mib)
	want("nearly full", DiskLow, true)
	end()
	want("emptied", DiskOK, true)
	end = filler(t, dir, 0)
	want("full", DiskFull, false)
	if u, err := measure(dir); err != nil || u.free < 8*mib {
		t.Fatalf("%d MiB are free for what must be finished, %v", u.free/mib, err)
	}
	want("still full", DiskFull, false)
	if err := RoomToStart(dir, limits); !errors.Is(err, ErrDiskFull) {
		t.Errorf("a node may start on a full disk: %v", err)
	}
	end()
	want("emptied again", DiskOK, true)
	if err := RoomToStart(dir, limits); err != nil {
		t.Errorf("a node may not start: %v", err)
	}
}

func TestAWriteThatFindsNoRoomGetsTheReserve(t *testing.T) {
	dir := smallDisk(t)
	s, err := openSpace(dir, DiskLimits{Reserve: 8 * mib, Floor: 16 * mib}, testLog(t, "a"))
	if err != nil {
		t.Fatal(err)
	}
	store, err := openStore(filepath.Join(dir, "raft.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	w := newWatchStore(store, "raft.db", s.makeRoom)
	defer filler(t, dir, 0)()
	last := uint64(0)
	for w.failure() == nil {
		l := entry(last + 1)
		l[0].Data = make([]byte, mib)
		if w.StoreLogs(l) == nil {
			last++
		}
		if last > 64 {
			t.Fatal("a disk of 64 MiB is never full")
		}
	}
	// bbolt keeps some of the room for itself, but most of the reserve is entries now.
	if !errors.Is(w.failure(), ErrDiskFull) || last < 3 || s.now() != DiskFull {
		t.Errorf("after %d entries of 1 MiB: %v, the disk is %s", last, w.failure(), s.now())
	}
	if got, err := store.LastIndex(); got != last || err != nil {
		t.Errorf("%d entries were acknowledged, the last that is there is %d (%v)", last, got, err)
	}
}

func TestNoInodesIsNoRoom(t *testing.T) {
	dir := smallDisk(t)
	s, err := openSpace(dir, DiskLimits{Reserve: 8 * mib, Floor: 16 * mib}, testLog(t, "a"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2000 {
		f, err := os.Create(filepath.Join(dir, "f"+string(rune('a'+i%26))+string(rune('a'+i/26%26))+string(rune('a'+i/676))))
		if errors.Is(err, unix.ENOSPC) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	if err := s.step(); err != nil || s.now() != DiskLow {
		t.Errorf("the disk is %s (%v)", s.now(), err)
	}
	if err := RoomToStart(dir, DiskLimits{}); !errors.Is(err, ErrDiskFull) {
		t.Errorf("a node may start: %v", err)
	}
}
