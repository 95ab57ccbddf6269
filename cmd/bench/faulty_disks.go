package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// diskKind is where the nodes of a cluster keep their data.
type diskKind string

const (
	plainDisks  diskKind = ""      // in a directory
	faultyDisks diskKind = "fuse"  // on a file system of this program, which can hang, slow down and fail
	smallDisks  diskKind = "small" // each on a memory disk of 64 MiB
)

// disks are the disks of one cluster's nodes; nil are plain ones.
type disks struct {
	kind diskKind
	all  map[string]*disk // by directory
}

// disk is one node's.
type disk struct {
	dir    string
	server *fuse.Server // nil for a memory disk

	mu     sync.Mutex
	faults faults
	healed chan struct{} // closed when faults are taken away
}

// faults are what a disk does wrong, to files whose path holds Path.
type faults struct {
	path string
	hang bool          // writing and syncing do not return until the disk is mended
	slow time.Duration // each sync takes so much longer
	err  syscall.Errno // what writing and syncing give
}

func newDisks(k diskKind) *disks {
	if k == plainDisks {
		return nil
	}
	return &disks{kind: k, all: map[string]*disk{}}
}

// of gives a node's disk.
func (d *disks) of(m *member) *disk { return d.all[m.dir] }

// attach puts a disk under an empty directory.
func (d *disks) attach(dir string) (err error) {
	if d == nil {
		return nil
	}
	x := &disk{dir: dir, healed: make(chan struct{})}
	if d.kind == smallDisks {
		err = unix.Mount("cvlab-bench", dir, "tmpfs", 0, "size=64m,mode=0700")
	} else {
		err = x.mount(dir + ".disk")
	}
	if err != nil {
		return fmt.Errorf("make the disk of %s: %w", filepath.Base(dir), err)
	}
	d.all[dir] = x
	return nil
}

// mend takes all faults away, so that nothing hangs on them.
func (d *disks) mend() {
	if d == nil {
		return
	}
	for _, x := range d.all {
		x.fault(faults{})
	}
}

// detach takes all disks away.
func (d *disks) detach() error {
	if d == nil {
		return nil
	}
	var all []error
	for dir, x := range d.all {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			all = append(all, fmt.Errorf("take the disk of %s away: %w", filepath.Base(dir), err))
		} else if x.server != nil {
			x.server.Wait()
		}
	}
	return errors.Join(all...)
}

// fault makes a disk do wrong from now on; no faults mend it, and let go what hangs.
func (x *disk) fault(f faults) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.faults = f
	close(x.healed)
	x.healed = make(chan struct{})
}

// suffer does the disk's faults to one operation on a file.
func (x *disk) suffer(ctx context.Context, path string, sync bool) syscall.Errno {
	for {
		x.mu.Lock()
		f, changed := x.faults, x.healed
		x.mu.Unlock()
		if !strings.Contains(path, f.path) {
			return 0
		}
		if !f.hang {
			if sync && f.slow > 0 {
				_ = pause(ctx, f.slow) // it ends early when the kernel has given the operation up
			}
			return f.err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return syscall.EINTR
		}
	}
}

// mount serves a directory beside the mount point through the faults.
func (x *disk) mount(behind string) error {
	if err := os.Mkdir(behind, 0o700); err != nil {
		return err
	}
	inner, err := fs.NewLoopbackRoot(behind)
	if err != nil {
		return err
	}
	loop := inner.(*fs.LoopbackNode)
	node := &faultyNode{LoopbackNode: loop, disk: x}
	loop.RootData.RootNode = node
	second := time.Second // only this mount changes the files
	server, err := fs.Mount(x.dir, node, &fs.Options{
		EntryTimeout: &second, AttrTimeout: &second,
		MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "cvlab-bench", Name: "cvlab"},
	})
	x.server = server
	return err
}

// faultyNode is a file or directory that is passed through; what is opened suffers the faults.
type faultyNode struct {
	*fs.LoopbackNode
	disk *disk
}

// WrapChild implements fs.NodeWrapChilder.
func (n *faultyNode) WrapChild(_ context.Context, child fs.InodeEmbedder) fs.InodeEmbedder {
	if plain, ok := child.(*fs.LoopbackNode); ok {
		return &faultyNode{LoopbackNode: plain, disk: n.disk}
	}
	return child
}

// Open implements fs.NodeOpener.
func (n *faultyNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	h, f, errno := n.LoopbackNode.Open(ctx, flags)
	return n.wrap(h, n.Path(nil)), f, errno
}

// Create implements fs.NodeCreater.
func (n *faultyNode) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	inode, h, f, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	return inode, n.wrap(h, filepath.Join(n.Path(nil), name)), f, errno
}

func (n *faultyNode) wrap(h fs.FileHandle, path string) fs.FileHandle {
	if whole, ok := h.(*fs.LoopbackFile); ok {
		return &faultyFile{LoopbackFile: whole, disk: n.disk, path: path}
	}
	return h
}

// faultyFile is an open file.
type faultyFile struct {
	*fs.LoopbackFile
	disk *disk
	path string
}

// PassthroughFd keeps the kernel from going past the faults.
func (*faultyFile) PassthroughFd() (int, bool) { return 0, false }

// Write implements fs.FileWriter.
func (f *faultyFile) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	if errno := f.disk.suffer(ctx, f.path, false); errno != 0 {
		return 0, errno
	}
	return f.LoopbackFile.Write(ctx, data, off)
}

// Fsync implements fs.FileFsyncer.
func (f *faultyFile) Fsync(ctx context.Context, flags uint32) syscall.Errno {
	if errno := f.disk.suffer(ctx, f.path, true); errno != 0 {
		return errno
	}
	return f.LoopbackFile.Fsync(ctx, flags)
}

// Allocate implements fs.FileAllocater.
func (f *faultyFile) Allocate(ctx context.Context, off, size uint64, mode uint32) syscall.Errno {
	if errno := f.disk.suffer(ctx, f.path, false); errno != 0 {
		return errno
	}
	return f.LoopbackFile.Allocate(ctx, off, size, mode)
}

// fill takes all the room of a memory disk; the file is removed to free it.
func (x *disk) fill() (filler string, err error) {
	filler = filepath.Join(x.dir, "filler")
	f, err := os.OpenFile(filler, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return "", fmt.Errorf("fill a disk: %w", err)
	}
	defer f.Close()
	for size := 1 << 20; size >= 512; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
			size /= 2
		} else if err != nil {
			return "", fmt.Errorf("fill a disk: %w", err)
		}
	}
	return filler, nil
}
