package cluster

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"
)

// filesTick is how often the files are looked for: a promise made on a log that is gone is forgotten with the process.
const filesTick = time.Second

// watchFiles ends the seat when its log is no longer in its place: the data directory was deleted or replaced under it. The
// open file would go on working until the end of the process, and then everything since would be lost.
func (s *Seat) watchFiles(ctx context.Context) error {
	path := filepath.Join(s.raftDir(), "raft.db")
	opened, err := os.Stat(path)
	if err != nil {
		return s.filesGone(path, err)
	}
	tick := time.NewTicker(filesTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now, err := os.Stat(path)
		if err == nil && !os.SameFile(opened, now) {
			err = errors.New("another file is in its place")
		}
		if err == nil {
			_, err = os.Stat(s.file.path)
		}
		if err != nil && ctx.Err() == nil {
			return s.filesGone(path, err)
		}
	}
}

func (s *Seat) filesGone(path string, err error) error {
	return advised(damage(path, "it was deleted or replaced while this node runs", err), s.file.get(), s.id)
}
