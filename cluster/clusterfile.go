package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/deveronica/cvlab/cluster/mesh"
)

// fileFormat is the version of cluster.json; it grows only when an older program could misread it.
const fileFormat = 1

// maxFile bounds what is read: a thousand peers take 150 KiB.
const maxFile = 1 << 20

const gossipKeySize = 32 // AES-256

// How far a node has come with its cluster. The mark stands outside raft/, so that a lost raft/ is noticed.
const (
	phaseFounding = "founding" // about to bootstrap; may be done again
	phaseJoined   = "joined"   // admitted; the log is about to be made
	phaseMember   = "member"   // has a log that others count on; must never bootstrap again
)

// peer is how to find one member when nothing else is known.
type peer struct {
	ID     string `json:"id"`
	Mesh   string `json:"mesh"`
	Gossip string `json:"gossip"`
}

// clusterFile is what a node must know of its cluster before it has a replica. It holds the gossip key: mode 0600.
type clusterFile struct {
	Format     int      `json:"format"`
	Node       string   `json:"node,omitempty"` // ID of the node it belongs to
	Mesh       string   `json:"mesh,omitempty"` // where it was last
	Phase      string   `json:"phase"`
	ID         string   `json:"id"`
	Name       string   `json:"name"`
	Epoch      uint64   `json:"epoch"`
	GossipKeys [][]byte `json:"gossip_keys"` // the first encrypts, all decrypt
	Peers      []peer   `json:"peers,omitempty"`
}

// decodeClusterFile reads cluster.json: one JSON value, and since there are checksums its own.
func decodeClusterFile(data []byte) (clusterFile, error) {
	var f clusterFile
	data, _, err := mesh.Unseal(data)
	if err != nil {
		return clusterFile{}, err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return clusterFile{}, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return clusterFile{}, errors.New("more than one JSON value")
	}
	return f, f.check()
}

func (f clusterFile) check() error {
	switch {
	case f.Format != fileFormat:
		return fmt.Errorf("format %d, this program reads %d", f.Format, fileFormat)
	case f.Phase != phaseFounding && f.Phase != phaseJoined && f.Phase != phaseMember:
		return fmt.Errorf("phase %q is not known", f.Phase)
	case f.ID == "" || f.Epoch == 0:
		return errors.New("no cluster ID or epoch")
	case len(f.GossipKeys) == 0:
		return errors.New("no gossip key")
	}
	for _, k := range f.GossipKeys {
		if len(k) != gossipKeySize {
			return fmt.Errorf("a gossip key of %d bytes, want %d", len(k), gossipKeySize)
		}
	}
	for _, p := range f.Peers {
		if p.ID == "" {
			return errors.New("a peer without an ID")
		}
		for _, addr := range []string{p.Mesh, p.Gossip} {
			if _, _, err := net.SplitHostPort(addr); err != nil {
				return fmt.Errorf("peer %s: %w", p.ID, err)
			}
		}
	}
	return nil
}

// fileStore keeps cluster.json and what it says. Safe for concurrent use.
type fileStore struct {
	path string
	mu   sync.Mutex
	now  clusterFile
}

// openFile reads cluster.json; a missing one gives an empty clusterFile.
func openFile(dir string) (*fileStore, error) {
	s := &fileStore{path: filepath.Join(dir, "cluster.json")}
	file, err := os.Open(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read cluster file: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFile))
	if err != nil {
		return nil, fmt.Errorf("read cluster file: %w", err)
	}
	if s.now, err = decodeClusterFile(data); err != nil {
		return nil, damage(s.path, "", err)
	}
	return s, nil
}

func (s *fileStore) get() clusterFile {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// update changes the file; after a crash at any moment it is either the old one or the new one.
func (s *fileStore) update(change func(*clusterFile)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.now
	next.GossipKeys, next.Peers = slices.Clone(next.GossipKeys), slices.Clone(next.Peers)
	change(&next)
	next.Format = fileFormat
	if err := next.check(); err != nil {
		return fmt.Errorf("write cluster file: %w", err)
	}
	data, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return fmt.Errorf("write cluster file: %w", err)
	}
	if err := replaceFile(s.path, mesh.Seal(append(data, '\n'))); err != nil {
		return fmt.Errorf("write cluster file: %w", err)
	}
	s.now = next
	return nil
}

// replaceFile writes beside the old file, makes it durable, then takes its place.
func replaceFile(path string, data []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
