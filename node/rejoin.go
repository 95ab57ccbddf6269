package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/deveronica/cvlab/cluster"
	"github.com/deveronica/cvlab/cluster/mesh"
)

// Rejoin ends Run of a node that was told to join another cluster: start it anew with Join, JoinToken and Replace.
type Rejoin struct {
	Peer, Token string
}

// Error says what the node ends for.
func (r *Rejoin) Error() string { return "the node leaves its cluster of one to join " + r.Peer }

// ErrNotEmpty refuses to leave a cluster that somebody would miss.
var ErrNotEmpty = errors.New("this node cannot join another cluster")

// JoinOther makes a node that is alone and has no experiments end with a Rejoin. It returns once that is decided.
func (n *Node) JoinOther(_ context.Context, peer, token string) error {
	if _, err := mesh.ParseJoinToken(token); err != nil {
		return fmt.Errorf("%w: join token: %w", ErrNotEmpty, err)
	}
	if _, _, err := net.SplitHostPort(peer); err != nil {
		peer = net.JoinHostPort(peer, "8001")
	}
	v := n.seat.State().View()
	members := 0
	for range v.Nodes() {
		members++
	}
	for range v.Experiments() {
		return fmt.Errorf("%w: its own has experiments, which would be lost; use another data directory, or leave first", ErrNotEmpty)
	}
	if members > 1 {
		return fmt.Errorf("%w: its own has %d members; leave it first", ErrNotEmpty, members)
	}
	// Whoever asks looks for the note next, and must not find that of an earlier try.
	if err := noteJoin(n.o.DataDir, nil); err != nil {
		return err
	}
	select {
	case n.rejoin <- &Rejoin{Peer: peer, Token: token}:
		return nil
	default:
		return fmt.Errorf("%w: it is doing so already", ErrNotEmpty)
	}
}

// awaitRejoin ends the node when it is told to join another cluster, or has left its own.
func (n *Node) awaitRejoin(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case r := <-n.rejoin:
		return r
	case <-n.left:
		return cluster.ErrRemoved
	}
}

// replaceCluster joins in the place of the cluster that the node has; when that fails, the old one is back.
func (n *Node) replaceCluster(ctx context.Context, o cluster.Options) (*cluster.Seat, error) {
	old, err := cluster.PutAside(n.o.DataDir)
	if err != nil {
		return nil, err
	}
	seat, err := cluster.Open(ctx, o)
	if err != nil {
		return nil, errors.Join(err, old.Restore(), noteJoin(n.o.DataDir, err))
	}
	if err := old.Drop(); err != nil {
		n.o.Logger.WarnContext(ctx, "the old cluster's files are still there", "error", err)
	}
	return seat, noteJoin(n.o.DataDir, nil)
}

// noteJoin leaves in DATA/join.error why the last join failed, for whoever told the running node to join.
func noteJoin(dataDir string, why error) error {
	path := filepath.Join(dataDir, "join.error")
	if why == nil {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("note the join: %w", err)
		}
		return nil
	}
	return writeFile(path, []byte(why.Error()+"\n"), 0o600)
}

// ReadJoinError gives why the last join that a running node was told to do has failed, "" if it has not.
func ReadJoinError(dataDir string) string {
	text, err := os.ReadFile(filepath.Join(dataDir, "join.error"))
	if err != nil {
		return ""
	}
	return string(text)
}
