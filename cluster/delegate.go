package cluster

import (
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"
)

// The methods of this file are called by memberlist from inside its packet loop and under its locks: they must not block
// and must not call memberlist.

// NodeMeta implements memberlist.Delegate.
func (g *gossip) NodeMeta(int) []byte { return g.meta }

// NotifyMsg implements memberlist.Delegate.
func (g *gossip) NotifyMsg(b []byte) { g.push(slices.Clone(b)) }

// GetBroadcasts implements memberlist.Delegate.
func (g *gossip) GetBroadcasts(overhead, limit int) [][]byte {
	return g.queue.GetBroadcasts(overhead, limit)
}

// LocalState implements memberlist.Delegate.
func (g *gossip) LocalState(bool) []byte { return g.health.batch(time.Now()) }

// MergeRemoteState implements memberlist.Delegate.
func (g *gossip) MergeRemoteState(b []byte, _ bool) {
	if len(b) > 0 {
		g.push(slices.Clone(b))
	}
}

// push never waits: a lost report is followed by the next one.
func (g *gossip) push(b []byte) {
	select {
	case g.in <- b:
	default:
		g.mu.Lock()
		g.dropped++
		g.mu.Unlock()
	}
}

// NotifyJoin implements memberlist.EventDelegate.
func (g *gossip) NotifyJoin(n *memberlist.Node) { g.note(n, true) }

// NotifyUpdate implements memberlist.EventDelegate.
func (g *gossip) NotifyUpdate(n *memberlist.Node) { g.note(n, true) }

// NotifyLeave implements memberlist.EventDelegate.
func (g *gossip) NotifyLeave(n *memberlist.Node) { g.note(n, false) }

func (g *gossip) note(n *memberlist.Node, alive bool) {
	m := gossipMember{node: *n, alive: alive, since: time.Now()}
	m.node.Addr, m.node.Meta = slices.Clone(n.Addr), slices.Clone(n.Meta)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := json.Unmarshal(n.Meta, &m.meta); err != nil {
		m.meta = g.members[n.Name].meta
	}
	g.members[n.Name] = m
	close(g.changed)
	g.changed = make(chan struct{})
}

// NotifyConflict implements memberlist.ConflictDelegate: a second machine may have this key; see twins.
func (g *gossip) NotifyConflict(have, other *memberlist.Node) {
	g.log.Debug("two addresses gossip as one node: it has moved, or its data directory was copied",
		"node", have.Name, "known_at", have.Address(), "also_at", other.Address())
	g.twins.hint(have, other)
}

// NotifyAlive implements memberlist.AliveDelegate. The registry may lag, so a node that it does not know is let in:
// gossip gives nobody any right.
func (g *gossip) NotifyAlive(n *memberlist.Node) error {
	if g.removed(n.Name) {
		return errors.New("the node was removed from the cluster")
	}
	return nil
}

// count is the number of nodes that broadcasts are meant for.
func (g *gossip) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for _, m := range g.members {
		if m.alive {
			n++
		}
	}
	return max(n, 1)
}

// news of a node replaces its older news in the queue.
type newsOf struct {
	node string
	body []byte
}

// Invalidates implements memberlist.Broadcast.
func (b newsOf) Invalidates(o memberlist.Broadcast) bool {
	old, ok := o.(newsOf)
	return ok && old.node == b.node
}

// Name implements memberlist.NamedBroadcast.
func (b newsOf) Name() string { return b.node }

// Message implements memberlist.Broadcast.
func (b newsOf) Message() []byte { return b.body }

// Finished implements memberlist.Broadcast.
func (newsOf) Finished() {}
