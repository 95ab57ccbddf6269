package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Aside is a cluster that a node has put aside to join another. One of Restore and Drop ends it.
type Aside struct {
	dir string
}

const asideDir = "before-join"

// PutAside takes the node's cluster out of its data directory, as if it had none. The node must not run. Whoever calls it
// has made sure that the cluster is of this one node and holds nothing that anybody would miss.
func PutAside(dataDir string) (*Aside, error) {
	a := &Aside{dir: dataDir}
	if err := os.RemoveAll(filepath.Join(dataDir, asideDir)); err != nil {
		return nil, fmt.Errorf("put the old cluster aside: %w", err)
	}
	if err := os.Mkdir(filepath.Join(dataDir, asideDir), 0o700); err != nil {
		return nil, fmt.Errorf("put the old cluster aside: %w", err)
	}
	// cluster.json goes first and comes back last: it says that raft/ must be there.
	for _, name := range []string{"cluster.json", "raft"} {
		err := os.Rename(filepath.Join(dataDir, name), filepath.Join(dataDir, asideDir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(fmt.Errorf("put the old cluster aside: %w", err), a.Restore())
		}
	}
	return a, nil
}

// Restore brings the old cluster back, in the place of whatever came of the join.
func (a *Aside) Restore() error {
	for _, name := range []string{"raft", "cluster.json"} {
		from, to := filepath.Join(a.dir, asideDir, name), filepath.Join(a.dir, name)
		if _, err := os.Lstat(from); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		err := os.RemoveAll(to)
		if err == nil {
			err = os.Rename(from, to)
		}
		if err != nil {
			return fmt.Errorf("bring the old cluster back: %w; it is in %s", err, filepath.Join(a.dir, asideDir))
		}
	}
	return a.Drop()
}

// Drop forgets the old cluster.
func (a *Aside) Drop() error {
	if err := os.RemoveAll(filepath.Join(a.dir, asideDir)); err != nil {
		return fmt.Errorf("forget the old cluster: %w", err)
	}
	return nil
}

// RestoreAside brings back a cluster that was being put aside when the node was killed. Call it before the node opens.
func RestoreAside(dataDir string) error {
	aside, err := exists(filepath.Join(dataDir, asideDir, "cluster.json"))
	if err != nil || !aside {
		return err
	}
	if joined, err := exists(filepath.Join(dataDir, "cluster.json")); err != nil || joined {
		return err
	}
	return (&Aside{dir: dataDir}).Restore()
}
