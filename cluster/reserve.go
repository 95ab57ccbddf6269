package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// reserve is a file that only takes up room, so that a node whose disk was filled by others can still finish what it
// has: given up, it leaves its blocks to the log.
type reserve struct {
	path string
	size int64
	mu   sync.Mutex
}

func newReserve(dir string, size int64) *reserve {
	return &reserve{path: filepath.Join(dir, "reserve"), size: size}
}

// held says whether the file is there as a whole.
func (r *reserve) held() bool {
	info, err := os.Stat(r.path)
	return err == nil && info.Size() >= r.size
}

// take makes the file. It is there as a whole or not at all.
func (r *reserve) take() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	f, err := os.OpenFile(r.path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("make the reserve file: %w", err)
	}
	if err := errors.Join(fill(f, r.size), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("make the reserve file: %w", errors.Join(err, os.Remove(r.path)))
	}
	return nil
}

// fill takes blocks for the whole file: where the file system cannot promise them, by writing. Zeros might be stored as
// a hole.
func fill(f *os.File, size int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	source := rand.NewChaCha8([32]byte{})
	block := make([]byte, 1<<20)
	for left := size; left > 0; left -= int64(len(block)) {
		block = block[:min(int64(len(block)), left)]
		_, _ = source.Read(block) // it never fails
		if _, err := f.Write(block); err != nil {
			return err
		}
	}
	return nil
}

// release gives the room back; false when there is nothing to give.
func (r *reserve) release() (freed bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	err = os.Remove(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
