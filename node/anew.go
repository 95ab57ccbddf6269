package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/deveronica/cvlab/cluster"
	"github.com/deveronica/cvlab/cluster/mesh"
	"github.com/deveronica/cvlab/executor"
	"github.com/deveronica/cvlab/fsm"
)

// AnewOptions say how a stopped node gives up its identity.
type AnewOptions struct {
	DataDir string
	// Stop ends what runs here; without it, anything that runs is an ErrStillRuns.
	Stop bool
	// Former has the new self tell the cluster that the old one runs nothing any more, once it is a member. Not for a copy,
	// whose original lives.
	Former bool
	Logger *slog.Logger
}

// ErrStillRuns refuses to give up an identity while experiments run under it.
var ErrStillRuns = errors.New("experiments run here under the node's present identity")

// StartAnew makes a stopped node forget who it is, so that it may join as a new one. What it had is kept in a directory
// of its own, which is given. A directory without a cluster is left as it is.
func StartAnew(ctx context.Context, o AnewOptions) (kept string, err error) {
	founded, err := cluster.Founded(o.DataDir)
	if err != nil || !founded {
		return "", err
	}
	lockFile, err := lock(o.DataDir)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, lockFile.Close()) }()
	if err := endAll(ctx, o.DataDir, o.Stop, o.Logger); err != nil {
		return "", err
	}
	if id := formerID(o.DataDir); o.Former && id != "" {
		if err := writeFormer(o.DataDir, id); err != nil {
			return "", err
		}
	}
	// cluster.json goes last: until then this can be done again.
	return cluster.KeepDamaged(o.DataDir, time.Now(), "attempts", "raft", machineFile, keyFile, "cluster.json")
}

// formerID gives the ID of the node that a directory was, from its key or what its cluster.json says.
func formerID(dataDir string) string {
	if owner := cluster.Owner(dataDir); owner != "" {
		return owner
	}
	if id, err := mesh.LoadIdentity(filepath.Join(dataDir, keyFile)); err == nil {
		return id.ID()
	}
	return ""
}

// endTime is how long a supervisor may take to end its job and itself.
const endTime = 45 * time.Second

// endAll ends every attempt of a data directory, and returns when none is left.
func endAll(ctx context.Context, dataDir string, stop bool, logger *slog.Logger) error {
	if _, err := os.Stat(filepath.Join(dataDir, "attempts")); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	r, err := executor.Open(executor.Options{AttemptsDir: filepath.Join(dataDir, "attempts"), Logger: logger})
	if err != nil {
		return err
	}
	found, err := r.Recover(ctx)
	if err != nil {
		return err
	}
	running := r.Running()
	for _, f := range found {
		if f.Alive {
			return fmt.Errorf("%w: one whose records are damaged, in %s; end its process by hand first", ErrStillRuns, filepath.Join(dataDir, "attempts", f.Token))
		}
	}
	if len(running) > 0 && !stop {
		return fmt.Errorf("%w: %d of them; they must end first, and are run again by the cluster: repeat with --yes to stop them", ErrStillRuns, len(running))
	}
	ctx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	watched, unwatch := context.WithCancel(ctx)
	var g errgroup.Group
	g.Go(func() error { return r.Run(watched) })
	for _, token := range running {
		if err = errors.Join(err, r.Kill(ctx, token, "this node gives up its identity")); err != nil {
			break
		}
		if _, werr := r.Wait(ctx, token); werr != nil {
			err = errors.Join(err, werr)
		}
	}
	unwatch()
	if err = errors.Join(err, g.Wait()); err != nil {
		return fmt.Errorf("stop what runs here: %w", err)
	}
	for _, token := range running {
		if r.Occupied(token) {
			return fmt.Errorf("%w: attempt %s does not end", ErrStillRuns, token)
		}
	}
	return nil
}

// former tells the cluster that the node which this machine was before runs nothing any more: whoever gave up its identity
// has stopped all of it first. So its experiments start elsewhere without anybody's word that a machine is off.
type former struct {
	dataDir string
	seat    proposer
	// renamed tells the cluster this node's name again, which its former self had.
	renamed func(ctx context.Context) error
	logger  *slog.Logger
}

func formerPath(dataDir string) string { return filepath.Join(dataDir, "former.json") }

type formerNode struct {
	Node string `json:"node"`
}

func writeFormer(dataDir, id string) error {
	data, err := json.Marshal(formerNode{Node: id})
	if err != nil {
		return fmt.Errorf("note the former identity: %w", err)
	}
	return writeFile(formerPath(dataDir), mesh.Seal(append(data, '\n')), 0o600)
}

func readFormer(dataDir string) (string, error) {
	text, err := os.ReadFile(formerPath(dataDir))
	if err != nil {
		return "", err
	}
	body, sealed, err := mesh.Unseal(text)
	if err == nil && !sealed {
		err = mesh.ErrSeal
	}
	var f formerNode
	if err == nil {
		err = json.Unmarshal(body, &f)
	}
	return f.Node, err
}

// Run tries until the cluster has taken it, and waits for ctx then.
func (f *former) Run(ctx context.Context) error {
	id, err := readFormer(f.dataDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		f.logger.WarnContext(ctx, "who this machine was before cannot be read; remove that node with: cvlab remove NODE --it-is-off", "error", err)
	}
	// Its own name is there when giving up the identity was cut short.
	for err == nil && id != f.seat.ID() {
		var r fsm.Result
		r, err = f.seat.Propose(ctx, fsm.Entry{By: f.seat.ID(), At: time.Now().UTC(), Command: &fsm.Remove{Node: id, Off: true}})
		if err == nil {
			err = f.renamed(ctx)
		}
		if err == nil {
			f.logger.InfoContext(ctx, "this machine's former identity was removed from the cluster", "node", id, "answer", r.Code)
			break
		}
		err = nil
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
	if err := os.Remove(formerPath(f.dataDir)); err != nil && !errors.Is(err, os.ErrNotExist) {
		f.logger.WarnContext(ctx, "forget the former identity", "error", err)
	}
	<-ctx.Done()
	return ctx.Err()
}
