package executor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/deveronica/cvlab/executor/supervisor"
)

// What is kept of settled attempts: their records help people for a while, and hold environments, so not for ever.
const (
	recordsKept = 30 * 24 * time.Hour
	recordsMost = 10_000
	tidyEvery   = 24 * time.Hour
)

// Tidy removes the records of settled attempts that are old, or more than anybody looks at, now and once a day until ctx
// ends. Tombstones and outputs stay.
func (r *Runner) Tidy(ctx context.Context) error {
	for {
		if n, err := r.tidy(time.Now()); err != nil {
			r.log.Warn("old records of attempts could not be removed; trying again tomorrow", "removed", n, "error", err)
		} else if n > 0 {
			r.log.Info("old records of attempts were removed", "attempts", n)
		}
		timer := time.NewTimer(tidyEvery)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

type settled struct {
	dir string
	at  time.Time // of its tombstone
}

// tidy goes over all directories once and says of how many attempts the records were removed.
func (r *Runner) tidy(now time.Time) (removed int, err error) {
	entries, err := os.ReadDir(r.opts.AttemptsDir)
	if err != nil {
		return 0, fmt.Errorf("tidy attempts: %w", err)
	}
	var all []settled
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || !e.IsDir() {
			continue
		}
		dir := r.dir(e.Name())
		stone, err := os.Lstat(filepath.Join(dir, supervisor.TombstoneFile))
		if err != nil {
			continue // not settled
		}
		if _, err := os.Lstat(filepath.Join(dir, supervisor.RecordFile)); err == nil {
			all = append(all, settled{dir: dir, at: stone.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b settled) int { return b.at.Compare(a.at) }) // newest first
	var errs []error
	for i, s := range all {
		if i < recordsMost && now.Sub(s.at) < recordsKept {
			continue
		}
		if alive, err := supervisor.Alive(s.dir); err != nil || alive {
			continue // a supervisor that has just buried it, and is about to go
		}
		err := dropRecords(s.dir)
		errs = append(errs, err)
		if err == nil {
			removed++
		}
	}
	return removed, errors.Join(errs...)
}

// dropRecords removes attempt.json last: while it is there, the rest is looked at again.
func dropRecords(dir string) error {
	for _, name := range []string{supervisor.SocketFile, supervisor.LifeFile, supervisor.OwnLogFile, supervisor.ExitFile, supervisor.RecordFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
