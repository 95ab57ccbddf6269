package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/deveronica/cvlab/cluster"
	"github.com/deveronica/cvlab/cluster/mesh"
	"github.com/deveronica/cvlab/executor"
	"github.com/deveronica/cvlab/fsm"
)

var (
	// ErrLeft ends Run of a node that has left its cluster; its data directory has forgotten that cluster.
	ErrLeft = errors.New("this node has left its cluster")
	// ErrStays refuses to leave; the text says why.
	ErrStays = errors.New("this node cannot leave its cluster")
)

// Leave gets the node out of its cluster: nothing new is given to it, others take over its part in the decisions, and it
// is removed. Then Run ends with ErrLeft. It may be repeated until it succeeds. The errors are ErrStays and those of the
// cluster: cluster.ErrVoteNeeded means that nobody can take over yet.
func (n *Node) Leave(ctx context.Context, by string) error {
	if err := n.mayLeave(); err != nil {
		return err
	}
	if self := n.seat.State().View().Node(n.seat.ID()); self != nil && !self.Draining {
		if err := n.propose(ctx, by, &fsm.Drain{Node: self.ID, On: true}); err != nil {
			return err
		}
	}
	open := 0
	for range n.seat.State().View().Open(n.seat.ID()) {
		open++
	}
	if open > 0 {
		return fmt.Errorf("%w: %d experiments still run here; wait for their end, or give them to other machines with: cvlab leave --now", ErrStays, open)
	}
	if err := noteLeaving(n.o.DataDir, n.seat.ClusterID()); err != nil {
		return err
	}
	err := n.propose(ctx, by, &fsm.Remove{Node: n.seat.ID()})
	switch {
	case errors.Is(err, cluster.ErrUnknown): // it may be out: whoever tells it so then finds the note
		return err
	case err != nil:
		return errors.Join(err, dropNote(n.o.DataDir))
	}
	select {
	case n.left <- struct{}{}:
	default: // another request was first
	}
	return nil
}

func (n *Node) mayLeave() error {
	v := n.seat.State().View()
	members, experiments := 0, 0
	for range v.Nodes() {
		members++
	}
	for range v.Experiments() {
		experiments++
	}
	if members < 2 {
		return fmt.Errorf("%w: it is the only machine, so there is nothing to leave, and the queue with its %d experiments would be lost; "+
			"to have it forgotten nevertheless, stop the node and delete %s", ErrStays, experiments, n.o.DataDir)
	}
	return nil
}

func (n *Node) propose(ctx context.Context, by string, c fsm.Command) error {
	r, err := n.seat.Propose(ctx, fsm.Entry{By: by, Command: c})
	if err != nil {
		return fmt.Errorf("leave the cluster: %w", err)
	}
	if r.Refused() {
		return fmt.Errorf("%w: %s", ErrStays, r.Message)
	}
	return nil
}

// revokeLimit bounds how long a removed node waits for its experiments to die; the lease ends them otherwise.
const revokeLimit = 30 * time.Second

// removed does what a node owes that is no member any more: what runs here is ended, since the cluster has given it up,
// and the directory is left so that a later start says or does the right thing. Nothing else of the node runs then.
func (n *Node) removed(why error) error {
	revokeAll(n.runner, n.o)
	if _, leaving := readNote(n.o.DataDir); !leaving {
		if err := writeFile(removedFile(n.o.DataDir), []byte(n.id.ID()+"\n"), 0o600); err != nil {
			n.o.Logger.Warn("note that this node was removed", "error", err)
		}
		return why
	}
	kept, err := forget(n.o.DataDir)
	if err != nil {
		return err
	}
	n.o.Logger.Info("this node has left its cluster; a new start founds one of its own", "data", n.o.DataDir, "kept", kept)
	return ErrLeft
}

// revokeAll ends every experiment of this data directory and waits for that.
func revokeAll(r *executor.Runner, o Options) {
	running := r.Running()
	if len(running) == 0 {
		return
	}
	o.Logger.Warn("this machine was removed from its cluster; what runs here is ended", "attempts", strings.Join(running, " "))
	ctx, cancel := context.WithTimeout(context.Background(), revokeLimit)
	defer cancel()
	watching, stop := context.WithCancel(ctx)
	var watch errgroup.Group
	watch.Go(func() error { return r.Run(watching) })
	var each errgroup.Group
	for _, token := range running {
		each.Go(func() error {
			if err := r.Revoke(ctx, token, "its machine was removed from the cluster"); err != nil {
				return err
			}
			_, err := r.Wait(ctx, token)
			return err
		})
	}
	if err := each.Wait(); err != nil {
		o.Logger.Error("not everything that runs here could be ended", "error", err)
	} else {
		o.Logger.Info("what ran here has ended", "attempts", len(running))
	}
	stop()
	if err := watch.Wait(); err != nil {
		o.Logger.Warn("watch the experiments end", "error", err)
	}
}

// wasRemoved says whether the node of a data directory, by its ID, has learned that it was removed. With another key it is
// another node.
func wasRemoved(dataDir, id string) bool {
	text, err := os.ReadFile(removedFile(dataDir))
	return err == nil && strings.TrimSpace(string(text)) == id
}

func removedFile(dataDir string) string { return filepath.Join(dataDir, "removed") }

// The note of a node that leaves, DATA/leaving, holds the cluster's ID, and once the node is out the word "gone" before
// it: from then on the rest is done at the next start, should this process end in the midst of it.
func noteFile(dataDir string) string { return filepath.Join(dataDir, "leaving") }

const gone = "gone "

func noteLeaving(dataDir, clusterID string) error {
	if err := writeFile(noteFile(dataDir), []byte(clusterID+"\n"), 0o600); err != nil {
		return fmt.Errorf("note that this node leaves: %w", err)
	}
	return nil
}

func readNote(dataDir string) (text string, there bool) {
	b, err := os.ReadFile(noteFile(dataDir))
	return strings.TrimSpace(string(b)), err == nil
}

func dropNote(dataDir string) error {
	if err := os.Remove(noteFile(dataDir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget that this node leaves: %w", err)
	}
	return nil
}

// forget makes the data directory one of a machine in no cluster. What experiments have written is kept in a directory of
// its own, which it names: the next cluster counts from 1 again, and must not find results under its numbers.
func forget(dataDir string) (kept string, err error) {
	note, _ := readNote(dataDir)
	id := strings.TrimPrefix(note, gone)
	if err := noteLeaving(dataDir, gone+id); err != nil {
		return "", err
	}
	kept = filepath.Join(dataDir, "left-"+id[:min(8, len(id))])
	if err := os.MkdirAll(kept, 0o700); err != nil {
		return "", fmt.Errorf("forget the cluster: %w", err)
	}
	for _, name := range []string{"runs", "attempts", "archive", "metrics"} {
		if err := os.Rename(filepath.Join(dataDir, name), filepath.Join(kept, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("forget the cluster: %w", err)
		}
	}
	for _, name := range []string{"cluster.json", "raft", "identity.key", "token", "join.token", "join.error", "removed"} {
		if err := os.RemoveAll(filepath.Join(dataDir, name)); err != nil {
			return "", fmt.Errorf("forget the cluster: %w", err)
		}
	}
	return kept, dropNote(dataDir)
}

// finishLeaving ends what a node began that was out of its cluster and then ended before its time.
func finishLeaving(dataDir string) error {
	if note, there := readNote(dataDir); !there || !strings.HasPrefix(note, gone) {
		return nil
	}
	_, err := forget(dataDir)
	return err
}

// refuseRemoved keeps a node that was removed from coming near its old cluster again.
func (n *Node) refuseRemoved(id *mesh.Identity) error {
	if !wasRemoved(n.o.DataDir, id.ID()) {
		return nil
	}
	revokeAll(n.runner, n.o)
	return cluster.ErrRemoved
}
