package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/deveronica/cvlab/cluster"
	"github.com/deveronica/cvlab/cluster/mesh"
)

// RecoverOptions say which stopped node goes on from its own files.
type RecoverOptions struct {
	DataDir string
	// Name is what the node is called if its key was lost; default: the host name.
	Name string
	// Carry does it; without it nothing is changed.
	Carry  bool
	Logger *slog.Logger
}

// Recovered is a recovery that was planned, and, if kept is not empty, done.
type Recovered struct {
	*cluster.Recovery
	// Kept is where the files of before are.
	Kept string
	// NewKey says that the node's key was lost too, so that it goes on as a new node.
	NewKey bool
}

// Recover plans how a node goes on without the majority of its cluster, or with damaged files, and does it if asked to.
// What runs here runs on, unless the node's key was lost: then it must be stopped, since nobody could report its end.
func Recover(ctx context.Context, o RecoverOptions) (_ *Recovered, err error) {
	if founded, err := cluster.Founded(o.DataDir); err != nil || !founded {
		return nil, errors.Join(err, fmt.Errorf("%s holds no cluster to recover; name another directory with --data", o.DataDir))
	}
	lockFile, err := lock(o.DataDir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lockFile.Close()) }()
	if o.Name == "" {
		if o.Name, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("find the host name: %w; give one with --name", err)
		}
	}
	path := filepath.Join(o.DataDir, keyFile)
	id, err := mesh.LoadIdentity(path)
	owner := cluster.Owner(o.DataDir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, mesh.ErrDamagedKey) || err == nil && owner != "" && owner != id.ID() {
		return recoverWithNewKey(ctx, o, path)
	}
	if err != nil {
		return nil, err
	}
	r := &Recovered{}
	if r.Recovery, err = plan(ctx, o, id); err != nil || !o.Carry {
		return r, err
	}
	r.Kept, err = r.Carry(time.Now())
	return r, err
}

func plan(ctx context.Context, o RecoverOptions, id *mesh.Identity) (*cluster.Recovery, error) {
	return cluster.PlanRecovery(ctx, cluster.RecoverOptions{Dir: o.DataDir, Identity: id, Name: o.Name, Logger: o.Logger})
}

// recoverWithNewKey is for a node that was alone: other members could not be asked under a key they do not know.
func recoverWithNewKey(ctx context.Context, o RecoverOptions, path string) (*Recovered, error) {
	work, err := os.MkdirTemp("", "cvlab-recover-")
	if err != nil {
		return nil, fmt.Errorf("recover: %w", err)
	}
	defer os.RemoveAll(work)
	id, _, err := mesh.LoadOrCreateIdentity(filepath.Join(work, keyFile))
	if err != nil {
		return nil, err
	}
	r := &Recovered{NewKey: true}
	if r.Recovery, err = plan(ctx, o, id); err != nil {
		return nil, err
	}
	former := cluster.Owner(o.DataDir)
	for _, p := range r.Peers {
		if p.ID != former && former != "" || former == "" && len(r.Peers) > 1 {
			r.Against = append(r.Against, "this node's key is lost, so the other members cannot be asked what they have; "+
				"if one of them is left, recover it there, and join here as a new node with: cvlab join PEER --as-new")
			break
		}
	}
	if former == "" && len(r.Peers) == 1 {
		former = r.Peers[0].ID // the only member of a cluster of one
	}
	r.Lost = append(r.Lost, "the node's key; it goes on as a new node")
	if !o.Carry || len(r.Against) > 0 {
		if len(r.Against) > 0 && o.Carry {
			return r, fmt.Errorf("%w: %s", cluster.ErrRecoveryRefused, r.Against[0])
		}
		return r, nil
	}
	if err := endAll(ctx, o.DataDir, true, o.Logger); err != nil {
		return r, err
	}
	if former != "" {
		if err := writeFormer(o.DataDir, former); err != nil {
			return r, err
		}
	}
	if _, err := cluster.KeepDamaged(o.DataDir, time.Now(), "attempts", machineFile, keyFile); err != nil {
		return r, err
	}
	if id, _, err = mesh.LoadOrCreateIdentity(path); err != nil {
		return r, err
	}
	if r.Recovery, err = plan(ctx, o, id); err != nil {
		return r, err
	}
	r.Kept, err = r.Carry(time.Now())
	return r, err
}

// KeepIdentity binds a node's identity to the machine it is on now.
func KeepIdentity(dataDir, stand string) (err error) {
	lockFile, err := lock(dataDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lockFile.Close()) }()
	return mesh.RebindMachine(filepath.Join(dataDir, machineFile), mesh.ReadMarks(stand))
}
