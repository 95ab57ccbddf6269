package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/deveronica/cvlab/cluster/mesh"
)

const (
	snapshotDir  = "snapshots"
	snapshotMeta = "meta.json"
	snapshotData = "state.bin"
	snapshotSeal = "seal"
)

// sealedSnapshots puts a checksum on a snapshot's meta.json, which raft does not check: an index, a term or a list of
// servers that is one flipped bit away would be believed. The state itself has raft's checksum and our own.
type sealedSnapshots struct {
	raft.SnapshotStore
	dir string
	// lenient accepts snapshots without a seal, of a version that wrote none.
	lenient bool
}

// List implements raft.SnapshotStore. Only snapshots whose seal is whole are there.
func (s *sealedSnapshots) List() ([]*raft.SnapshotMeta, error) {
	all, err := s.SnapshotStore.List()
	if err != nil {
		return nil, err
	}
	var whole []*raft.SnapshotMeta
	for _, m := range all {
		if checkSeal(filepath.Join(s.dir, m.ID), m.ID, s.lenient) == nil {
			whole = append(whole, m)
		}
	}
	return whole, nil
}

// Open implements raft.SnapshotStore.
func (s *sealedSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	if err := checkSeal(filepath.Join(s.dir, id), id, s.lenient); err != nil {
		return nil, nil, err
	}
	return s.SnapshotStore.Open(id)
}

// Create implements raft.SnapshotStore.
func (s *sealedSnapshots) Create(v raft.SnapshotVersion, index, term uint64, c raft.Configuration, ci uint64, t raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.SnapshotStore.Create(v, index, term, c, ci, t)
	if err != nil {
		return nil, err
	}
	return &sealedSink{SnapshotSink: sink, dir: s.dir}, nil
}

type sealedSink struct {
	raft.SnapshotSink
	dir    string
	closed bool
}

// Close implements raft.SnapshotSink: a snapshot counts once its seal is on disk. The log is cut only afterwards.
func (s *sealedSink) Close() error {
	if s.closed {
		return nil
	}
	s.closed = true
	if err := s.SnapshotSink.Close(); err != nil {
		return err
	}
	return writeSeal(filepath.Join(s.dir, s.ID()))
}

// Cancel implements raft.SnapshotSink.
func (s *sealedSink) Cancel() error {
	s.closed = true
	return s.SnapshotSink.Cancel()
}

func sealText(dir string) ([]byte, error) {
	meta, err := os.ReadFile(filepath.Join(dir, snapshotMeta))
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(meta)
	return mesh.Seal([]byte(hex.EncodeToString(sum[:]) + "\n")), nil
}

func writeSeal(dir string) error {
	text, err := sealText(dir)
	if err == nil {
		err = replaceFile(filepath.Join(dir, snapshotSeal), text)
	}
	if err != nil {
		return fmt.Errorf("seal snapshot: %w", err)
	}
	return nil
}

// checkSeal says what is wrong with the meta.json of a snapshot.
func checkSeal(dir, id string, lenient bool) error {
	want, err := sealText(dir)
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", id, err)
	}
	have, err := os.ReadFile(filepath.Join(dir, snapshotSeal))
	if errors.Is(err, fs.ErrNotExist) && lenient {
		return nil
	}
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", id, err)
	}
	if string(have) != string(want) {
		return fmt.Errorf("snapshot %s: %s: %w", id, snapshotMeta, errSeal)
	}
	return nil
}

// snapshotNames lists the finished snapshots of a raft directory, whole or not.
func snapshotNames(raftDir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(raftDir, snapshotDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasSuffix(e.Name(), ".tmp") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
