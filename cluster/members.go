package cluster

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// Alive words of a Member.
const (
	Alive   = "alive"
	Suspect = "suspect" // gossip has not given it up, but it is silent (seen from the leader only)
	Dead    = "dead"
	Unknown = "unknown" // never heard of since this node started
)

// Roles of a Member in the consensus.
const (
	RoleVoter    = "voter"
	RoleNonvoter = "nonvoter"
	RoleNone     = "none"
)

// Member is what this node knows of one member, from the registry, the consensus and gossip together.
type Member struct {
	ID      string
	Name    string // from the registry; empty if it is not there
	Role    string // RoleVoter, RoleNonvoter or RoleNone
	Leader  bool
	Alive   string // Alive, Suspect, Dead or Unknown; never leave to take anything from it
	Version string
	// LastHeard is how long ago a report came from the node, on this machine's monotonic clock; negative if never.
	LastHeard time.Duration
	// Applied is the log index its replica had then; the leader hears it twice a second, the others do not.
	Applied uint64
	// Stuck says that it votes and answers, and takes no entries while the others do (seen from the leader only).
	Stuck bool
	// Disk is its last word on its data directory, also when it is gone since; empty if it said none.
	Disk DiskState
	// Registered says that the registry has it and has not removed it.
	Registered bool
}

// Members lists everybody who stands in the registry or in the consensus, in the order of their IDs.
func (s *Seat) Members() []Member {
	now := time.Now()
	leader, _ := s.Leader()
	all := map[string]Member{}
	for n := range s.replica.state.View().Nodes() {
		all[n.ID] = Member{ID: n.ID, Name: n.Name, Version: n.Version, Role: RoleNone, Registered: true}
	}
	for _, server := range s.raft.servers() {
		m := all[string(server.ID)]
		m.ID, m.Role = string(server.ID), RoleNonvoter
		if server.Suffrage == raft.Voter {
			m.Role = RoleVoter
		}
		all[m.ID] = m
	}
	list := slices.SortedFunc(maps.Values(all), func(a, b Member) int { return strings.Compare(a.ID, b.ID) })
	for i := range list {
		s.observed(&list[i], leader, now)
	}
	return list
}

func (s *Seat) observed(m *Member, leader string, now time.Time) {
	m.Leader, m.Alive, m.LastHeard = m.ID == leader, Unknown, -1
	m.Stuck, m.Disk = s.stall.isStuck(m.ID), s.diskOf(m.ID)
	applied, ago, known := s.gossip.health.progress(m.ID, now)
	if known {
		m.Applied, m.LastHeard = applied, ago
	}
	g, met := s.gossip.member(m.ID)
	if met && g.meta.Version != "" {
		m.Version = g.meta.Version
	}
	switch {
	case m.ID == s.id:
		m.Alive, m.LastHeard, m.Applied = Alive, 0, s.raft.AppliedIndex()
	case met && !g.alive:
		m.Alive = Dead
	case met && leader == s.id && (!known || ago > heardLately) && now.Sub(g.since) > heardLately:
		m.Alive = Suspect
	case met:
		m.Alive = Alive
	}
}

// Stats are figures about this node's part in the consensus.
type Stats struct {
	Term    uint64 `json:"term"`
	Commit  uint64 `json:"commit"`
	Applied uint64 `json:"applied"` // by raft; the facts' own index is State().Index()
	Last    uint64 `json:"last"`    // newest entry in the log, committed or not
	// LastContact is how long ago the leader was heard; 0 on the leader, negative if never.
	LastContact time.Duration `json:"last_contact"`
	Leads       bool          `json:"leads"`
	Votes       bool          `json:"votes"`
	// Dropped counts gossip messages that came faster than they were read.
	Dropped int `json:"dropped"`
}

// Stats gives the figures of this moment.
func (s *Seat) Stats() Stats {
	st := Stats{
		Term: s.raft.CurrentTerm(), Commit: s.raft.CommitIndex(), Applied: s.raft.AppliedIndex(), Last: s.raft.LastIndex(),
		Leads: s.IsLeader(), Votes: s.raft.isVoter(),
	}
	if last := s.raft.LastContact(); !st.Leads && last.IsZero() {
		st.LastContact = -1
	} else if !st.Leads {
		st.LastContact = time.Since(last)
	}
	s.gossip.mu.Lock()
	st.Dropped = s.gossip.dropped
	s.gossip.mu.Unlock()
	return st
}
