package cluster

import (
	"sync"

	"github.com/deveronica/cvlab/fsm"
)

// Roster tells the mesh which cluster this node belongs to and who its members are. Make it with NewRoster before the
// mesh, give it to both the mesh and Open. Safe for concurrent use.
type Roster struct {
	mu    sync.RWMutex
	id    string
	epoch uint64
	state *fsm.State
	peers map[string]bool
}

// NewRoster gives the roster of a node that is in no cluster yet.
func NewRoster() *Roster { return &Roster{} }

// Cluster gives the cluster's ID and epoch; the ID is empty while the node is in none.
func (r *Roster) Cluster() (id string, epoch uint64) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.id, r.epoch
}

// IsMember says whether the node was admitted and not removed. The registry's word counts; a node it does not know yet is
// a member if a member vouched for it when this node joined or asked last.
func (r *Roster) IsMember(node string) bool {
	r.mu.RLock()
	state, known := r.state, r.peers[node]
	r.mu.RUnlock()
	if state == nil {
		return known
	}
	if n := state.View().Node(node); n != nil {
		return !n.Removed
	}
	return known
}

func (r *Roster) set(f clusterFile, state *fsm.State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.id, r.epoch, r.state = f.ID, f.Epoch, state
	r.peers = map[string]bool{}
	for _, p := range f.Peers {
		r.peers[p.ID] = true
	}
}
