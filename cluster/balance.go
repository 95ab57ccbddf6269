package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/hashicorp/raft"

	"github.com/deveronica/cvlab/cluster/mesh"
)

// heardLately is how old a node's last word may be for it to count as alive.
const heardLately = 3 * time.Second

// balancer is one leader's memory of how its servers do. It lives for one term.
type balancer struct {
	seat     *Seat
	rule     voterRule
	away     map[string]time.Time // since when a node is not alive
	steady   map[string]time.Time // since when it is alive and caught up
	replaced map[string]bool      // proved to be gone from its address for good
}

// balance keeps the right number of voters while this node leads.
func (s *Seat) balance(ctx context.Context) error {
	b := &balancer{
		seat: s, rule: voterRule{Steady: s.o.Tuning.VoterSteady, Away: s.o.Tuning.VoterAway},
		away: map[string]time.Time{}, steady: map[string]time.Time{}, replaced: map[string]bool{},
	}
	tick := time.NewTicker(s.o.Tuning.Balance)
	defer tick.Stop()
	for {
		members := s.replica.state.Changed()
		b.step(ctx, time.Now())
		b.forgetOldSelves(ctx)
		// A new member is added as soon as its admission is committed, but no faster than one pass after the other.
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-s.departures.wake:
		case <-b.strangers(members):
		}
	}
}

// strangers gives the channel only while all members are servers; else the tick is soon enough to try again.
func (b *balancer) strangers(changed <-chan struct{}) <-chan struct{} {
	servers := map[string]bool{}
	for _, s := range b.seat.raft.servers() {
		servers[string(s.ID)] = true
	}
	for n := range b.seat.replica.state.View().Nodes() {
		if !servers[n.ID] {
			return nil
		}
	}
	return changed
}

func (b *balancer) step(ctx context.Context, now time.Time) {
	all := b.standings(ctx, now)
	changes := b.rule.chooseVoters(all)
	for i, c := range changes {
		err := b.carryOut(ctx, c)
		if err == nil {
			b.seat.log.Info("consensus membership", "change", c.Do, "node", c.ID)
			continue
		}
		b.seat.log.Warn("consensus membership", "change", c.Do, "node", c.ID, "error", err)
		if i > 0 && c.Do == promote {
			// Never stay at two voters: the first of the pair gives its vote back.
			if err := b.carryOut(ctx, change{demote, changes[0].ID}); err != nil {
				b.seat.log.Warn("consensus membership", "change", demote, "node", changes[0].ID, "error", err)
			}
		}
		return
	}
}

// standings joins what the registry, the consensus and gossip say.
func (b *balancer) standings(ctx context.Context, now time.Time) []standing {
	s := b.seat
	all := map[string]*standing{}
	for n := range s.replica.state.View().Nodes() {
		all[n.ID] = &standing{ID: n.ID, Member: true}
	}
	for _, server := range s.raft.servers() {
		id := string(server.ID)
		if all[id] == nil {
			all[id] = &standing{ID: id}
		}
		all[id].Server, all[id].Voter, all[id].Leader = true, server.Suffrage == raft.Voter, id == s.id
	}
	last := s.raft.LastIndex()
	list := make([]standing, 0, len(all))
	for id, st := range all {
		b.observe(st, last, now)
		if !st.Alive && !b.replaced[id] && b.addressTaken(ctx, id) {
			b.replaced[id] = true
		}
		st.Replaced, st.Leaving = b.replaced[id], s.departures.wanted(id, now)
		list = append(list, *st)
	}
	return list
}

func (b *balancer) observe(st *standing, last uint64, now time.Time) {
	applied, ago, known := b.seat.gossip.health.progress(st.ID, now)
	m, _ := b.seat.gossip.member(st.ID)
	talks := known && ago < heardLately
	st.Alive = st.ID == b.seat.id || m.alive || talks
	mark(b.away, st.ID, !st.Alive, now)
	mark(b.steady, st.ID, st.ID == b.seat.id || m.alive && talks && applied+caughtUp >= last, now)
	st.Away, st.Steady = span(b.away, st.ID, now), span(b.steady, st.ID, now)
}

// mark keeps since when a condition holds.
func mark(since map[string]time.Time, id string, holds bool, now time.Time) {
	if _, held := since[id]; holds && !held {
		since[id] = now
	} else if !holds {
		delete(since, id)
	}
}

// span is how long a condition has held; a condition that holds has held for at least an instant.
func span(since map[string]time.Time, id string, now time.Time) time.Duration {
	start, ok := since[id]
	if !ok {
		return 0
	}
	return max(now.Sub(start), 1)
}

// addressTaken proves that a silent voter was replaced: another member is registered at its address, and the key that
// answers there is not the voter's. A wiped machine that joined again is this case; its old self will not come back.
func (b *balancer) addressTaken(ctx context.Context, id string) bool {
	s := b.seat
	old := s.replica.state.View().Node(id)
	if old == nil {
		return false
	}
	taken := false
	for n := range s.replica.state.View().Nodes() {
		taken = taken || n.ID != id && n.Mesh == old.Mesh
	}
	if !taken {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := s.o.Mesh.Dial(ctx, id, old.Mesh, protocolPulse)
	if err == nil {
		conn.Close()
		return false
	}
	_, other := errors.AsType[*mesh.WrongPeerError](err)
	return other
}

// carryOut makes one change, on the condition that the configuration is still the one that was looked at.
func (b *balancer) carryOut(ctx context.Context, c change) error {
	r := b.seat.raft
	if c.Do == handOff {
		hostport, _ := b.seat.meshAddress(c.ID)
		return r.await(ctx, r.LeadershipTransferToServer(raft.ServerID(c.ID), address(c.ID, hostport)))
	}
	config := r.GetConfiguration()
	if err := config.Error(); err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	id, index := raft.ServerID(c.ID), config.Index()
	var f raft.IndexFuture
	switch c.Do {
	case demote:
		f = r.DemoteVoter(id, index, enqueueLimit)
	case removeServer:
		f = r.RemoveServer(id, index, enqueueLimit)
	default:
		hostport, ok := b.seat.meshAddress(c.ID)
		if _, _, err := net.SplitHostPort(hostport); !ok || err != nil {
			return fmt.Errorf("node %s has no mesh address", c.ID)
		}
		if c.Do == promote {
			f = r.AddVoter(id, address(c.ID, hostport), index, enqueueLimit)
		} else {
			f = r.AddNonvoter(id, address(c.ID, hostport), index, enqueueLimit)
		}
	}
	return r.await(ctx, f)
}
