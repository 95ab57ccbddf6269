package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"
)

// logSurvey is what a look at raft.db from outside has found.
type logSurvey struct {
	first, last uint64 // indexes of the entries, 0 for none
	lastTerm    uint64
	term        uint64 // CurrentTerm; 0 if it never had one
	from        uint64 // the first index that carries a seal
	adopted     bool   // from was written down
}

// errInUse says that somebody else has the log open.
var errInUse = errors.New("the log is in use")

// surveyLog reads a whole raft.db without trusting any byte of it. strict gives an error for the first thing that is not as
// this program, or bbolt below it, would have written it. Otherwise each is given every entry that is whole, in order, and
// what is damaged is passed over.
func surveyLog(ctx context.Context, path string, strict bool, each func(*raft.Log)) (logSurvey, error) {
	var s logSurvey
	file, err := os.Open(path)
	if err != nil {
		return s, err
	}
	defer file.Close()
	// Whoever has it open writes to it. The lock goes with the file.
	if err := unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		return s, errInUse
	}
	info, err := file.Stat()
	if err != nil {
		return s, err
	}
	if !info.Mode().IsRegular() || info.Size() == 0 {
		return s, errors.New("it is empty")
	}
	v := &logVisitor{s: &s, strict: strict, each: each, values: map[string][]byte{}}
	if err := walkBolt(ctx, file, info.Size(), !strict, v.visit); err != nil {
		return s, err
	}
	if err := v.settle(); err != nil && strict {
		return s, err
	}
	if strict && s.last > 0 && s.term < s.lastTerm {
		return s, fmt.Errorf("its term is %d, and its newest entry of term %d", s.term, s.lastTerm)
	}
	return s, nil
}

// logVisitor makes sense of the keys and values of raft.db. The values come first: their bucket is "conf", before "logs".
type logVisitor struct {
	s       *logSurvey
	strict  bool
	each    func(*raft.Log)
	values  map[string][]byte
	settled bool
}

func (v *logVisitor) visit(bucket string, key, value []byte) error {
	var err error
	switch bucket {
	case "conf":
		if name := string(key); name != sealedFrom && !slices.Contains(stableKeys(), name) {
			err = fmt.Errorf("value %q is not known", key)
		}
		v.values[string(key)] = value
	case "logs":
		if err = v.settle(); err == nil || !v.strict {
			err = v.entry(key, value)
		}
	default:
		err = fmt.Errorf("bucket %q is not known", bucket)
	}
	if v.strict {
		return err
	}
	return nil
}

// settle reads the values, once all are there.
func (v *logVisitor) settle() error {
	if v.settled {
		return nil
	}
	v.settled = true
	plain := map[string]uint64{}
	_, v.s.adopted = v.values[sealedFrom]
	for _, key := range slices.Sorted(maps.Keys(v.values)) {
		value, err := unsealValue([]byte(key), v.values[key])
		if err != nil && !v.s.adopted {
			value, err = v.values[key], nil // from before there were seals
		}
		if err == nil && key != "LastVoteCand" && len(value) != 8 {
			err = fmt.Errorf("it has %d bytes", len(value))
		}
		if err != nil {
			return fmt.Errorf("value %s: %w", key, err)
		}
		if key != "LastVoteCand" {
			plain[key] = binary.BigEndian.Uint64(value)
		}
	}
	v.s.from, v.s.term = plain[sealedFrom], plain["CurrentTerm"]
	return nil
}

func (v *logVisitor) entry(key, value []byte) error {
	if len(key) != 8 {
		return fmt.Errorf("an entry with a key of %d bytes", len(key))
	}
	index := binary.BigEndian.Uint64(key)
	l, err := decodeEntry(value)
	if err == nil {
		from := v.s.from
		if !v.s.adopted {
			from = index + 1 // nothing is known: a seal is checked where there is one
		}
		err = unsealEntry(l, index, from)
	}
	if err == nil && v.s.last > 0 && v.strict {
		switch {
		case index != v.s.last+1:
			err = fmt.Errorf("the entry before it is missing; the last one is %d", v.s.last)
		case l.Term < v.s.lastTerm:
			err = fmt.Errorf("it is of term %d, behind one of %d", l.Term, v.s.lastTerm)
		}
	}
	if err != nil {
		return fmt.Errorf("entry %d: %w", index, err)
	}
	if v.s.first == 0 {
		v.s.first = index
	}
	v.s.last, v.s.lastTerm = index, l.Term
	if v.each != nil {
		v.each(l)
	}
	return nil
}

// decodeEntry reads an entry as raft-boltdb has written it.
func decodeEntry(value []byte) (*raft.Log, error) {
	l := &raft.Log{}
	if err := codec.NewDecoderBytes(value, &codec.MsgpackHandle{}).Decode(l); err != nil {
		return nil, fmt.Errorf("it cannot be read: %w", err)
	}
	return l, nil
}

// snapshotSurvey is what was found of the snapshots.
type snapshotSurvey struct {
	// best is the newest one that is whole; nil if there is none.
	best *raft.SnapshotMeta
	// bad are those that are not whole, with the reason, and how far the newest of them reached by its name.
	bad      map[string]error
	badIndex uint64
}

// surveySnapshots looks at the seals of all snapshots, and at the state of the newest ones until one is whole.
func surveySnapshots(dir string, lenient bool) (snapshotSurvey, error) {
	s := snapshotSurvey{bad: map[string]error{}}
	names, err := snapshotNames(dir)
	if err != nil || len(names) == 0 {
		return s, err
	}
	// All are kept: raft's own limit of three would hide some.
	files, err := raft.NewFileSnapshotStoreWithLogger(dir, len(names), newRaftLog(slog.New(slog.DiscardHandler)))
	if err != nil {
		return s, err
	}
	for _, name := range names {
		if err := checkSeal(filepath.Join(dir, snapshotDir, name), name, lenient); err != nil {
			s.reject(name, err)
		}
	}
	all, err := files.List()
	if err != nil {
		return s, err
	}
	for _, m := range all {
		if s.bad[m.ID] != nil || s.best != nil {
			continue
		}
		if err := readSnapshot(files, m.ID); err != nil {
			s.reject(m.ID, fmt.Errorf("snapshot %s: %s: %w", m.ID, snapshotData, err))
			continue
		}
		s.best = m
	}
	return s, nil
}

func (s *snapshotSurvey) reject(name string, err error) {
	s.bad[name] = err
	// Its name is TERM-INDEX-TIME.
	if parts := strings.Split(name, "-"); len(parts) == 3 {
		if index, err := strconv.ParseUint(parts[1], 10, 64); err == nil {
			s.badIndex = max(s.badIndex, index)
		}
	}
}

func readSnapshot(store raft.SnapshotStore, id string) error {
	_, in, err := store.Open(id)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return errors.Join(err, in.Close())
}

// exists says whether a file is there.
func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
