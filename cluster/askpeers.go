package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/deveronica/cvlab/cluster/mesh"
	"github.com/deveronica/cvlab/fsm"
)

// askLimit bounds how long a node that does not run waits for the answers of the others.
const askLimit = 5 * time.Second

// opStatus asks a member how far its log goes and whether it has a leader.
const opStatus = "status"

// logState is a member's answer to opStatus.
type logState struct {
	Last   uint64 `json:"last"`
	Term   uint64 `json:"term"` // of the newest entry
	Leader string `json:"leader,omitempty"`
}

// logState gives what this node tells of its log.
func (s *Seat) logState() *logState {
	l := &logState{Last: s.raft.LastIndex()}
	_, err := fmt.Sscan(s.raft.Stats()["last_log_term"], &l.Term)
	if err != nil {
		l.Term = s.raft.CurrentTerm() // never less than the entry's
	}
	l.Leader, _ = s.Leader()
	return l
}

// askPeers asks the other members over the mesh, for a node that does not run.
func askPeers(ctx context.Context, o RecoverOptions, f clusterFile, v fsm.View) []PeerState {
	peers := peersOf(f, v, o.Identity.ID())
	if len(peers) == 0 {
		return nil
	}
	fail := func(err error) []PeerState {
		for i := range peers {
			peers[i].Err = err
		}
		return peers
	}
	roster := NewRoster()
	if f.Phase == "" {
		f.ID, _, f.Epoch = v.Cluster()
	}
	roster.set(f)
	m, err := mesh.Listen(mesh.Options{Addr: "127.0.0.1:0", Identity: o.Identity, Logger: o.Logger, Membership: roster})
	if err != nil {
		return fail(err)
	}
	defer m.Close()
	m.Open(protocolJoin)
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	var asking sync.WaitGroup
	for i := range peers {
		asking.Go(func() { peers[i].ask(ctx, m) })
	}
	asking.Wait()
	return peers
}

func (p *PeerState) ask(ctx context.Context, m *mesh.Mesh) {
	conn, err := m.Dial(ctx, p.ID, p.Addr, protocolJoin)
	if err != nil {
		p.Err = err
		return
	}
	defer conn.Close()
	a, err := ask(ctx, conn, joinRequest{Op: opStatus})
	switch {
	case err != nil:
		p.Err = err
	case a.Status == joinRemoved:
		p.Err = ErrRemoved
	case a.Status == joinOutdated:
		p.Epoch = a.Epoch
	case a.Status != joinOK || a.Log == nil:
		p.Err = errors.New(a.Error)
	default:
		p.Last, p.Term, p.Leader, p.Epoch = a.Log.Last, a.Log.Term, a.Log.Leader, a.Epoch
	}
}
