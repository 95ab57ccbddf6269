package cluster

import (
	"slices"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/deveronica/cvlab/fsm"
)

// Roster tells the mesh which cluster this node belongs to and who its members are. Make it with NewRoster before the
// mesh, give it to both the mesh and Open. Safe for concurrent use.
type Roster struct {
	mu      sync.RWMutex
	id      string
	epoch   uint64
	state   *fsm.State
	servers func() []raft.Server
	peers   map[string]bool
}

// NewRoster gives the roster of a node that is in no cluster yet.
func NewRoster() *Roster { return &Roster{} }

// Cluster gives the cluster's ID and epoch; the ID is empty while the node is in none.
func (r *Roster) Cluster() (id string, epoch uint64) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.id, r.epoch
}

// IsMember says whether the node was admitted and not removed. The registry's word counts. But a node that starts has
// an empty replica until a leader tells it what is committed, and a node that was away may not know its leader; so one
// that the registry does not have is a member if the consensus has it, or if a member vouched for it when this node
// joined or asked last.
func (r *Roster) IsMember(node string) bool {
	r.mu.RLock()
	state, servers, vouched := r.state, r.servers, r.peers[node]
	r.mu.RUnlock()
	if state != nil {
		if n := state.View().Node(node); n != nil {
			return !n.Removed
		}
	}
	return vouched || servers != nil && slices.ContainsFunc(servers(), func(s raft.Server) bool { return string(s.ID) == node })
}

// join says where the seat's knowledge of members comes from.
func (r *Roster) join(state *fsm.State, servers func() []raft.Server) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state, r.servers = state, servers
}

// set takes over what cluster.json says.
func (r *Roster) set(f clusterFile) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.id, r.epoch = f.ID, f.Epoch
	r.peers = map[string]bool{}
	for _, p := range f.Peers {
		r.peers[p.ID] = true
	}
}
