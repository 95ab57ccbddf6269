package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/deveronica/cvlab/cluster"
)

// Opener starts a node when the disk of its data directory lets it.
type Opener struct {
	Options Options
	// Say tells people why the node does not start yet; it is called once for each reason.
	Say func(sentence string)

	said string
}

// Pauses between two tries to open a node whose disk does not take it. Each try costs writes to a disk in trouble, and
// a log full of the same sentence helps nobody.
const (
	roomPause                     = time.Second
	firstRetryPause, longestRetry = 2 * time.Second, 30 * time.Second
)

// Open waits until the disk has room for the node's reserve and takes a write, and makes the node. A member waits for any
// trouble with its disk to end, since whoever started it would only start it again; a node that is in no cluster yet waits
// only for room.
func (o *Opener) Open(ctx context.Context) (*Node, error) {
	for pause := firstRetryPause; ; pause = min(2*pause, longestRetry) {
		if err := o.awaitRoom(ctx); err != nil {
			return nil, err
		}
		n, err := New(ctx, o.Options)
		if err == nil || !diskFault(err) || !Admitted(o.Options.DataDir) {
			return n, err
		}
		o.say(fmt.Sprintf("the node cannot start on its disk: %v; trying again", err))
		if err := sleep(ctx, pause); err != nil {
			return nil, err
		}
	}
}

func (o *Opener) awaitRoom(ctx context.Context) error {
	for {
		err := o.look(ctx)
		if err == nil {
			return nil
		}
		waits := errors.Is(err, cluster.ErrDiskFull) || diskFault(err) && Admitted(o.Options.DataDir)
		if ctx.Err() != nil || !waits {
			return err
		}
		o.say(fmt.Sprintf("the node waits for its disk: %v", err))
		if err := sleep(ctx, roomPause); err != nil {
			return err
		}
	}
}

// look tries the disk. A disk that hangs would hold up a signal, too, so another goroutine waits for it.
func (o *Opener) look(ctx context.Context) error {
	tried := make(chan error, 1)
	var left sync.WaitGroup
	left.Go(func() { tried <- tryDisk(o.Options.DataDir, o.Options.Disk) })
	for {
		select {
		case err := <-tried:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * roomPause):
			o.say(fmt.Sprintf("the node waits for its disk: %s does not answer", o.Options.DataDir))
		}
	}
}

func (o *Opener) say(sentence string) {
	if sentence != o.said && o.Say != nil {
		o.Say(sentence)
	}
	o.said = sentence
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// tryDisk says what a node would find: whether there is room for it, and whether a small file can be made durable.
func tryDisk(dir string, limits cluster.DiskLimits) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w; choose another one with --data", err)
	}
	if err := cluster.RoomToStart(dir, limits); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, "disk.probe"), make([]byte, 4096), 0o600); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, "disk.probe")); err != nil {
		return fmt.Errorf("write to the data directory: %w", err)
	}
	return nil
}

// diskFault says whether an error comes from a disk that is full, read-only or broken.
func diskFault(err error) bool {
	for _, e := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EIO} {
		if errors.Is(err, e) {
			return true
		}
	}
	return errors.Is(err, cluster.ErrDisk)
}
