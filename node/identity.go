package node

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/deveronica/cvlab/cluster"
	"github.com/deveronica/cvlab/cluster/mesh"
)

// Names of the files that make a node who it is.
const (
	keyFile     = "identity.key"
	machineFile = "machine.json"
)

// openIdentity reads the node's key, and makes one only where nothing counts on an older one. A copied directory is
// refused: two machines that speak as one would vote twice.
func (n *Node) openIdentity() error {
	dir := n.o.DataDir
	if err := cluster.RestoreAside(dir); err != nil {
		return err
	}
	founded, err := cluster.Founded(dir)
	if err != nil {
		return fmt.Errorf("look for a cluster: %w", err)
	}
	path := filepath.Join(dir, keyFile)
	if founded {
		n.id, err = mesh.LoadIdentity(path)
	} else {
		n.id, _, err = mesh.LoadOrCreateIdentity(path)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return cluster.Damaged(dir, keyFile, errors.New("it is gone"))
	case founded && errors.Is(err, mesh.ErrDamagedKey):
		return cluster.Damaged(dir, keyFile, err)
	case err != nil:
		return fmt.Errorf("open the node's key: %w", err)
	}
	known, err := mesh.BindMachine(filepath.Join(dir, machineFile), mesh.ReadMarks(n.o.Machine))
	if errors.Is(err, mesh.ErrCopied) {
		return fmt.Errorf("%w. Two machines must not share one identity: here run cvlab reset-identity, which makes a new key and "+
			"forgets the cluster, and then join it; or, if this is the same machine with new hardware, cvlab reset-identity --keep", err)
	}
	if err == nil && !known && founded {
		n.o.Logger.Warn("the marks of this node's machine were missing or damaged; it is bound to this machine now", "file", machineFile)
	}
	return err
}
