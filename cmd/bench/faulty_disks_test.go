package main

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

func needDisks(t *testing.T) {
	t.Helper()
	if why := (kind{disks: faultyDisks}).missing(); why != "" && os.Getenv("CI") == "true" {
		t.Fatal(why)
	} else if why != "" {
		t.Skip(why)
	}
}

func testDisk(t *testing.T, k diskKind) *disk {
	t.Helper()
	needDisks(t)
	dir := filepath.Join(t.TempDir(), "m1")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	d := newDisks(k)
	if err := d.attach(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.mend()
		if err := d.detach(); err != nil {
			t.Error(err)
		}
	})
	return d.all[dir]
}

// TestAFaultyDiskSuffersWhatItIsTold: whole at first, then each fault, on the files it is for only, and whole again.
func TestAFaultyDiskSuffersWhatItIsTold(t *testing.T) {
	d := testDisk(t, faultyDisks)
	sub := filepath.Join(d.dir, "raft")
	if err := os.Mkdir(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	open := func(name string) *os.File {
		f, err := os.Create(filepath.Join(sub, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	log, other := open("raft.db"), open("other")
	write := func(f *os.File) error {
		_, err := f.WriteString("x")
		return errors.Join(err, f.Sync())
	}
	if err := write(log); err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(log.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Errorf("locks do not work: %v", err)
	}
	if text, err := os.ReadFile(filepath.Join(d.dir+".disk", "raft", "raft.db")); err != nil || string(text) != "x" {
		t.Errorf("behind the mount there is %q, %v", text, err)
	}
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EIO} {
		d.fault(faults{path: "raft.db", err: errno})
		if err := write(log); !errors.Is(err, errno) {
			t.Errorf("want %v, got %v", errno, err)
		}
		if err := write(other); err != nil {
			t.Errorf("the other file: %v", err)
		}
	}
	d.fault(faults{slow: 100 * time.Millisecond})
	began := time.Now()
	if err := write(log); err != nil || time.Since(began) < 100*time.Millisecond {
		t.Errorf("slow: %v after %v", err, time.Since(began))
	}
	d.fault(faults{hang: true})
	var g errgroup.Group
	done := make(chan struct{})
	g.Go(func() error { defer close(done); return write(log) })
	select {
	case <-done:
		t.Error("it did not hang")
	case <-time.After(100 * time.Millisecond):
	}
	d.fault(faults{})
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

func TestASmallDiskFillsAndIsFreed(t *testing.T) {
	d := testDisk(t, smallDisks)
	filler, err := d.fill()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(d.dir, "more")
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("want a full disk, got %v", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		t.Errorf("freed: %v", err)
	}
}
