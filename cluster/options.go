package cluster

import (
	"cmp"
	"log/slog"
	"time"

	"github.com/deveronica/cvlab/cluster/mesh"
	"github.com/deveronica/cvlab/fsm"
)

// Options say where a seat lives and how it comes by its cluster. Dir, Identity, Mesh, Roster, Self and Logger are
// required.
type Options struct {
	// Dir is the data directory; the seat owns cluster.json and raft/ in it.
	Dir      string
	Identity *mesh.Identity
	// Mesh listens already and does not run yet. The seat registers the protocols raft, forward, pulse, join and peer.
	Mesh *mesh.Mesh
	// Roster is the membership the mesh was made with; the seat fills it.
	Roster *Roster
	// GossipAddr is the host:port to gossip on, TCP and UDP; port 0 picks one. It is bound in Open.
	GossipAddr string
	// Advertise is the host other machines reach this one under; empty means: find out.
	Advertise string
	// Self describes this node. ID, Mesh and Gossip are filled in by the seat.
	Self   func() fsm.Node
	Logger *slog.Logger
	// Disk bounds what the seat keeps of the data directory's file system for a time when others have filled it.
	Disk DiskLimits
	// DiskOf reads a node's word on its disk out of what it gave to SendBeacon or Publish; nil means that nobody says any.
	DiskOf func(payload []byte) DiskState
	// Health gives what this node would say of itself now. It is told to all once more when the disk ends the node.
	Health func() []byte
	// Found founds a cluster of one, Join joins one, if the directory holds none yet; otherwise both are ignored.
	Found  *Founding
	Join   *Joining
	Tuning Tuning
	// At is told when a change reaches one of the Steps on this node as leader. Tests let the process die there; nil else.
	At func(step string)

	trustTwins bool                    // do not look for another process with this key; for tests
	store      func(logStore) logStore // puts faults between raft and its store; nil outside tests
}

// Founding is the wish for a new cluster.
type Founding struct {
	Name string // shown to people
}

// Joining is the wish to become a member of the cluster that Peer belongs to.
type Joining struct {
	Peer  string // host:port of the peer's mesh
	Token mesh.JoinToken
}

// Tuning holds the timers. Zero means the default beside each; tests shorten them.
type Tuning struct {
	// Heartbeat is how long a follower waits for its leader before it doubts it, and how long a candidate waits for votes.
	// A crashed process is replaced by proof (see pulse.go), so this is for machines that vanish without a word: 600 ms. An
	// election then takes about 2.2 of it, since the first candidate is mostly refused by a follower whose own timer has
	// not run out; 1 s cost 2.2 s, and 300 ms would doubt a leader that is only busy.
	Heartbeat time.Duration
	// Lease is how long a leader goes on without hearing from a majority: 500 ms. Heartbeats leave every 60–120 ms.
	Lease time.Duration
	// Commit is the longest time, doubled, after which an idle follower learns of the last commit: 50 ms.
	Commit time.Duration
	// RPC bounds one exchange between replicas: 3 s. An unplugged peer blocks its replication that long per try.
	RPC time.Duration
	// PulseStep is the head start each voter gives the one before it when the leader's process is gone: 300 ms. Two that stand
	// at once split the vote, and then the calm timer decides; on two busy cores one was seen to win 150 ms after it stood.
	// A longer step costs only when the first in line is gone too, which with three voters leaves no majority anyway.
	PulseStep time.Duration
	// LeaderHang and FollowerHang are how long one operation on the log may take before this node is cut off and Run ends:
	// 3 s while it leads, since all wait for it, and 5 s else. Two syncs of a disk that is busy with checkpoints take one.
	LeaderHang, FollowerHang time.Duration
	// Balance is how often the leader looks at the voters: 500 ms.
	Balance time.Duration
	// VoterSteady is how long a node is caught up and alive before it may vote: 2 s.
	VoterSteady time.Duration
	// VoterAway is how long a voter is missed before a stand-by takes its vote: 60 s.
	VoterAway time.Duration
	// Rejoin is how often lost members are looked for: 10 s.
	Rejoin time.Duration
	// Gossip holds memberlist's timers.
	Gossip GossipTuning
}

// GossipTuning are the timers of memberlist that tests shorten.
type GossipTuning struct {
	// Probe is how often one other member is probed: 1 s. SuspicionMult stays at memberlist's 4: training saturates CPUs,
	// and a slow answer is not a death.
	Probe time.Duration
	// Interval is how often queued news is sent on: 200 ms.
	Interval time.Duration
	// PushPull is how often the whole state is exchanged with one member: 15 s.
	PushPull time.Duration
	// ForgetDead is how long a dead member is still gossiped to, and then forgotten: 60 s. Rejoin finds it again.
	ForgetDead time.Duration
}

func (t Tuning) withDefaults() Tuning {
	t.Heartbeat = cmp.Or(t.Heartbeat, 600*time.Millisecond)
	t.Lease = min(cmp.Or(t.Lease, 500*time.Millisecond), t.Heartbeat)
	t.Commit = cmp.Or(t.Commit, 50*time.Millisecond)
	t.RPC = cmp.Or(t.RPC, 3*time.Second)
	t.PulseStep = cmp.Or(t.PulseStep, 300*time.Millisecond)
	t.LeaderHang = cmp.Or(t.LeaderHang, 3*time.Second)
	t.FollowerHang = cmp.Or(t.FollowerHang, 5*time.Second)
	t.Balance = cmp.Or(t.Balance, 500*time.Millisecond)
	t.VoterSteady = cmp.Or(t.VoterSteady, 2*time.Second)
	t.VoterAway = cmp.Or(t.VoterAway, 60*time.Second)
	t.Rejoin = cmp.Or(t.Rejoin, 10*time.Second)
	t.Gossip.Probe = cmp.Or(t.Gossip.Probe, time.Second)
	t.Gossip.Interval = cmp.Or(t.Gossip.Interval, 200*time.Millisecond)
	t.Gossip.PushPull = cmp.Or(t.Gossip.PushPull, 15*time.Second)
	t.Gossip.ForgetDead = cmp.Or(t.Gossip.ForgetDead, 60*time.Second)
	return t
}
