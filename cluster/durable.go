package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// How long the log may be looked at before it is opened. A disk reads 100 MB/s or more and a log has tens of MB, so after an
// unclean stop all of it is read. After a clean one what takes longer than a second is left to the checks at every read.
const (
	surveyLimit      = 10 * time.Second
	cleanSurveyLimit = time.Second
)

// durable is what raft stands on: log, term, vote and snapshots, each behind a checksum.
type durable struct {
	bolt  *raftboltdb.BoltStore
	watch *watchStore // between the file and the seals
	store *sealedStore
	snaps raft.SnapshotStore
	mark  *watermark
}

// openDurable looks at everything in a raft directory before any library does, and opens it. The error is a DamageError
// if this server must not go on from it.
func openDurable(o raftOptions) (_ *durable, err error) {
	found, err := inspect(o.dir, o.log)
	if errors.Is(err, ErrDamaged) && !o.member {
		// A start was cut short before anything was promised on this log.
		o.log.Warn("an unfinished log is made anew", "error", err)
		found, err = inspection{}, os.RemoveAll(o.dir)
		err = errors.Join(err, os.MkdirAll(o.dir, 0o700))
	}
	if err != nil {
		return nil, err
	}
	// A member's log may be empty, if it never heard from a leader; but it is one that this program has made.
	if o.member && found.reach() == 0 && !found.log.adopted && !found.skipped {
		return nil, damage(filepath.Join(o.dir, "raft.db"), "", errors.New("there is nothing in it"))
	}
	if err := found.setAside(o.dir, o.log); err != nil {
		return nil, err
	}
	d := &durable{}
	path := filepath.Join(o.dir, "raft.db")
	if d.bolt, err = openStore(path); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.bolt.Close())
		}
	}()
	last, err := d.bolt.LastIndex()
	if err != nil {
		return nil, fmt.Errorf("open consensus log: %w", err)
	}
	d.mark, err = openWatermark(o.dir, bootOf(), last, func(err error) {
		o.log.Warn("the watermark of the log cannot be written; the log itself is fine", "error", err)
	})
	if err != nil {
		return nil, err
	}
	var below logStore = d.bolt
	if o.faults != nil {
		below = o.faults(below)
	}
	d.watch = newWatchStore(below, path, o.room)
	if d.store, err = newSealedStore(d.watch, path, d.mark, o.damaged); err != nil {
		return nil, errors.Join(err, d.mark.close())
	}
	// Three snapshots: the older ones and the trailing log stand in for a corrupt newest one.
	files, err := raft.NewFileSnapshotStoreWithLogger(o.dir, 3, newRaftLog(o.log))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open snapshots: %w", err), d.mark.close())
	}
	d.snaps = &sealedSnapshots{SnapshotStore: files, dir: filepath.Join(o.dir, snapshotDir), lenient: found.lenient()}
	return d, nil
}

// close closes the log. After damage its locks may be held for ever, and the process is about to end.
func (d *durable) close() error {
	if d.store.isDead() {
		return nil
	}
	return errors.Join(d.bolt.Close(), d.mark.close())
}

// inspection is what was found in a raft directory.
type inspection struct {
	log       logSurvey
	snapshots snapshotSurvey
	skipped   bool // the log was too large to be looked at in time
}

// reach is the newest index that the directory knows.
func (i inspection) reach() uint64 {
	if i.snapshots.best != nil {
		return max(i.log.last, i.snapshots.best.Index)
	}
	return i.log.last
}

// lenient says whether snapshots may have been made before there were seals.
func (i inspection) lenient() bool { return !i.log.adopted || i.log.from > 1 }

// inspect checks a raft directory from end to end. What is damaged and not needed gives a warning.
func inspect(dir string, log *slog.Logger) (inspection, error) {
	var found inspection
	path := filepath.Join(dir, "raft.db")
	mark, marked, err := readMark(dir)
	if err != nil {
		log.Warn("the watermark of the log is damaged; it is made anew", "error", err)
	}
	if there, err := exists(path); err != nil {
		return found, fmt.Errorf("look at the consensus log: %w", err)
	} else if !there {
		return found, nil
	}
	limit := surveyLimit
	if marked && mark.Clean {
		limit = cleanSurveyLimit
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	found.log, err = surveyLog(ctx, path, true, nil)
	switch {
	case errors.Is(err, errInUse):
		found.skipped = true // opening it will say by whom
		return found, nil
	case errors.Is(err, context.DeadlineExceeded):
		found.skipped = true
		log.Warn("the log is too large to be checked before it is used; it is checked as it is read", "path", path, "limit", limit)
	case err != nil:
		return found, damage(path, "", err)
	}
	if found.snapshots, err = surveySnapshots(dir, found.lenient()); err != nil {
		return found, fmt.Errorf("look at the snapshots: %w", err)
	}
	if found.skipped {
		return found, nil
	}
	return found, found.connects(dir, mark, marked)
}

// connects says whether log and snapshots reach each other, and reach as far as they did.
func (i inspection) connects(dir string, m waterline, marked bool) error {
	best := uint64(0)
	if i.snapshots.best != nil {
		best = i.snapshots.best.Index
	}
	reason := i.snapshots.reason()
	switch {
	case i.log.last > best && i.log.first > best+1:
		return damage(filepath.Join(dir, snapshotDir), reason,
			fmt.Errorf("entries %d to %d are in no snapshot that is whole, and not in the log", best+1, i.log.first-1))
	case i.snapshots.badIndex > max(best, i.log.last):
		return damage(filepath.Join(dir, snapshotDir), reason,
			fmt.Errorf("what it held up to entry %d is nowhere else", i.snapshots.badIndex))
	case marked && m.holds(bootOf()) && m.Last > max(best, i.log.last):
		return damage(filepath.Join(dir, "raft.db"), "",
			fmt.Errorf("it ends with entry %d, and had %d entries", max(best, i.log.last), m.Last))
	}
	return nil
}

// reason names the damaged snapshots.
func (s snapshotSurvey) reason() string {
	for _, name := range slices.Sorted(maps.Keys(s.bad)) {
		return s.bad[name].Error()
	}
	return ""
}

// setAside moves damaged snapshots that are not needed out of raft's way, where they can be looked at.
func (i inspection) setAside(dir string, log *slog.Logger) error {
	for _, name := range slices.Sorted(maps.Keys(i.snapshots.bad)) {
		if i.skipped {
			return nil
		}
		to := filepath.Join(damagedDir(filepath.Dir(dir), time.Now()), snapshotDir)
		log.Warn("a damaged snapshot was set aside; it is not needed, the log reaches back far enough",
			"error", i.snapshots.bad[name], "to", to)
		err := os.MkdirAll(to, 0o700)
		if err == nil {
			err = os.Rename(filepath.Join(dir, snapshotDir, name), filepath.Join(to, name))
		}
		if err != nil {
			return fmt.Errorf("set a damaged snapshot aside: %w", err)
		}
	}
	return nil
}

// damagedDir is where damaged files of a data directory are kept for whoever wants to look at them.
func damagedDir(dataDir string, now time.Time) string {
	return filepath.Join(dataDir, "damaged-"+now.UTC().Format("20060102T150405Z"))
}

// startRaft is raft.NewRaft, which panics on what it cannot read.
func startRaft(config *raft.Config, facts raft.FSM, d *durable, dir string, trans raft.Transport, at func(step string)) (server *raft.Raft, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = damage(dir, "", fmt.Errorf("%v", r))
		}
	}()
	// Every heartbeat of a resting leader names its last entry: without the cache each one is read from the disk and decoded.
	logs, err := raft.NewLogCache(cachedLogs, d.store)
	if err != nil {
		return nil, fmt.Errorf("open consensus log: %w", err)
	}
	steps := &steppedLog{LogStore: logs, at: at}
	if server, err = raft.NewRaft(config, facts, steps, d.store, d.snaps, trans); err != nil {
		if errors.Is(err, ErrDamaged) {
			return nil, err
		}
		return nil, fmt.Errorf("start consensus: %w", err)
	}
	d.store.live.Store(true)
	steps.server.Store(server)
	return server, nil
}
