package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/deveronica/cvlab/cluster"
)

// smallDisk mounts a file system of 64 MiB and fills it.
func smallDisk(t *testing.T) (dir string, empty func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root may mount a small file system")
	}
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"); err != nil {
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
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, 64<<20-64<<10), f.Close()); err != nil {
		t.Fatal(err)
	}
	return dir, func() {
		if err := os.Remove(f.Name()); err != nil {
			t.Error(err)
		}
	}
}

// ear keeps what is said.
type ear struct {
	mu   sync.Mutex
	said []string
	news chan struct{} // one for each sentence
}

func newEar() *ear { return &ear{news: make(chan struct{}, 100)} }

func (e *ear) hear(sentence string) {
	e.mu.Lock()
	e.said = append(e.said, sentence)
	e.mu.Unlock()
	e.news <- struct{}{}
}

func (e *ear) all() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Join(e.said, "\n")
}

func TestANodeWaitsForRoomAtItsStart(t *testing.T) {
	disk, empty := smallDisk(t)
	e := newEar()
	o := Opener{Options: Options{
		DataDir: filepath.Join(disk, "data"), Name: "a", HTTP: "127.0.0.1:0", Mesh: "127.0.0.1:0", Gossip: "127.0.0.1:0", SimulatedGPUs: 1,
		Disk: cluster.DiskLimits{Reserve: 8 << 20, Floor: 16 << 20}, Supervisor: []string{"false"}, Logger: quiet(),
	}, Say: e.hear}
	var opening sync.WaitGroup
	opening.Go(func() {
		n, err := o.Open(t.Context())
		if err != nil {
			t.Errorf("open: %v", err)
			return
		}
		if err := n.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	select {
	case <-e.news:
	case <-time.After(30 * time.Second):
		t.Error("nothing was said")
	}
	empty()
	opening.Wait()
	if said := e.all(); strings.Count(said, "\n") != 0 || !strings.Contains(said, "free some space") || !strings.Contains(said, disk) {
		t.Errorf("people were told %q, want one sentence", said)
	}
}

func TestAFullDiskCanBeGivenUp(t *testing.T) {
	disk, _ := smallDisk(t)
	e := newEar()
	o := Opener{Options: Options{DataDir: disk, Disk: cluster.DiskLimits{Reserve: 8 << 20, Floor: 16 << 20}}, Say: e.hear}
	ctx, cancel := context.WithCancel(t.Context())
	var opening sync.WaitGroup
	opening.Go(func() {
		if _, err := o.Open(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("open: %v", err)
		}
	})
	<-e.news
	cancel()
	opening.Wait()
}

func TestFaultsThatMayPass(t *testing.T) {
	for _, err := range []error{syscall.ENOSPC, syscall.EROFS, syscall.EIO, &os.PathError{Op: "write", Path: "x", Err: syscall.EDQUOT}, cluster.ErrDiskFailed} {
		if !diskFault(err) {
			t.Errorf("%v is no fault of the disk", err)
		}
	}
	for _, err := range []error{nil, syscall.EACCES, errors.New("address in use"), cluster.ErrRemoved} {
		if diskFault(err) {
			t.Errorf("%v is a fault of the disk", err)
		}
	}
}
