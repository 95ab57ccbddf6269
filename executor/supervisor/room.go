package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// outputRoom keeps room ahead of the end of a job's output, so that a disk that has filled up does not make the next print
// fail and with it a training of days. When no more can be had, the middle of the output gives its own up: the beginning
// and the newest part stay, and offsets stay what they were.
type outputRoom struct {
	out  *os.File
	path string
	log  *slog.Logger

	ahead    int64 // bytes to have beyond the end
	reserved int64 // the file has the blocks up to here
	hole     span  // given up
	full     bool
	off      bool // the file system cannot
}

// span is a part of a file, in bytes; to is not in it.
type span struct{ from, to int64 }

const (
	// mostAhead is what is kept on a disk of at least 64 times that: more than a job prints between two looks.
	mostAhead = 16 << 20
	roomLook  = 50 * time.Millisecond
	block     = 4096
)

func newOutputRoom(out *os.File, path string, log *slog.Logger) *outputRoom {
	r := &outputRoom{out: out, path: path, log: log, ahead: mostAhead}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(out.Fd()), &fs); err == nil {
		r.ahead = min(r.ahead, int64(fs.Blocks)*fs.Bsize/64)
	}
	r.ahead = max(r.ahead/block*block, block)
	return r
}

// run looks until ctx ends, when nobody writes any more. It has a goroutine of its own: a disk that hangs must not keep the lease from being enforced.
func (r *outputRoom) run(ctx context.Context) {
	tick := time.NewTicker(roomLook)
	defer tick.Stop()
	for !r.off {
		if err := r.look(); err != nil {
			r.log.Warn("keep room for the output", "error", err)
		}
		select {
		case <-ctx.Done():
			r.release()
			return
		case <-tick.C:
		}
	}
}

// look takes room when half of it is used.
func (r *outputRoom) look() error {
	info, err := r.out.Stat()
	if err != nil {
		return fmt.Errorf("look at the output: %w", err)
	}
	size := info.Size()
	if size+r.ahead/2 < r.reserved {
		return nil
	}
	err = r.take(size)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		if !r.full {
			r.full = true
			r.log.Warn("the disk is full; the output goes on in the room that was kept for it", "bytes", r.reserved-size)
		}
		if err = r.giveUpMiddle(size); err == nil {
			err = r.take(size)
		}
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			return nil // nothing of its own is left to give; what was kept is still there
		}
	}
	if err != nil {
		r.off = true // said once; the job is no worse off than without
		return err
	}
	r.full = false
	return nil
}

// take makes the blocks up to a good way beyond the end the file's own, without changing its size.
func (r *outputRoom) take(size int64) error {
	to := size + r.ahead
	if err := unix.Fallocate(int(r.out.Fd()), unix.FALLOC_FL_KEEP_SIZE, size, to-size); err != nil {
		return fmt.Errorf("reserve %d bytes: %w", to-size, err)
	}
	r.reserved = to
	return nil
}

// giveUpMiddle frees what lies between the first and the newest part, and says so in the output itself, at the place.
func (r *outputRoom) giveUpMiddle(size int64) error {
	from, to := r.ahead, (size-r.ahead)/block*block
	if to-max(from+block, r.hole.to) < block {
		return nil
	}
	start := max(from+block, r.hole.to)
	if err := unix.Fallocate(int(r.out.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, start, to-start); err != nil {
		return fmt.Errorf("give up the middle of the output: %w", err)
	}
	r.hole = span{from, to}
	// Not through the job's descriptor: what is written to that goes to the end.
	f, err := os.OpenFile(r.path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("mark what was given up: %w", err)
	}
	defer f.Close()
	note := make([]byte, block)
	copy(note, fmt.Sprintf("\n[cvlab: the disk was full; %d bytes of output were dropped here, up to offset %d]\n", to-from, to))
	if _, err := f.WriteAt(note, from); err != nil {
		return fmt.Errorf("mark what was given up: %w", err)
	}
	r.log.Warn("the disk is full; the middle of the output was given up", "from", from, "to", to)
	return nil
}

// release gives back what lies beyond the end.
func (r *outputRoom) release() {
	if r.reserved == 0 {
		return
	}
	info, err := r.out.Stat()
	if err == nil {
		err = r.out.Truncate(info.Size())
	}
	if err != nil {
		r.log.Warn("give back the room of the output", "error", err)
	}
}
