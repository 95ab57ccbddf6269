package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/deveronica/cvlab/cluster"
	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/ui/api"
)

// clusterView is the seat as the API needs it.
type clusterView struct {
	*cluster.Seat
	name string // this node's own
}

// Age implements api.Cluster. A replica that never heard a leader is as old as anything.
func (c *clusterView) Age() time.Duration {
	if d := c.Stats().LastContact; d >= 0 {
		return d
	}
	return 24 * time.Hour
}

// Status implements api.Cluster.
func (c *clusterView) Status(context.Context) api.ClusterStatus {
	v, stats := c.State().View(), c.Stats()
	_, _, epoch := v.Cluster()
	s := api.ClusterStatus{
		ID: c.ClusterID(), Name: c.Name(), Epoch: epoch, Term: stats.Term, Index: v.Index(),
		Answered: api.NodeRef{ID: c.ID(), Name: c.name}, Nodes: []api.ClusterNode{},
	}
	s.Trouble, s.NoRoom = c.Trouble(), c.Crowded()
	said := map[string]beacon{}
	for _, h := range c.Health() {
		said[h.Node], _ = decodeBeacon(h.Payload) // one that cannot be read says nothing
	}
	var voters, alive []string
	for _, m := range c.Members() {
		n := v.Node(m.ID)
		if n == nil || !m.Registered {
			continue
		}
		if m.ID == c.ID() {
			s.Answered.Name = n.Name
		}
		s.Nodes = append(s.Nodes, clusterNode(m, n, said[m.ID]))
		if m.Role == cluster.RoleVoter {
			voters = append(voters, n.Name)
			if m.Alive == cluster.Alive {
				alive = append(alive, n.Name)
			}
		}
	}
	s.Voters = len(voters)
	s.Tolerates = max(0, len(alive)-(len(voters)/2+1))
	if id, known := c.Leader(); known {
		s.Leader = &api.NodeRef{ID: id}
		if n := v.Node(id); n != nil {
			s.Leader.Name = n.Name
		}
	}
	s.Note = outlook(voters, alive, len(s.Nodes))
	if disks := c.DiskNote(); disks != "" {
		s.Note += ". " + disks
	}
	for _, old := range s.Nodes {
		if fresh := newSelf(old, s.Nodes); fresh != "" && mayRun(v, old.ID) {
			s.Note += fmt.Sprintf("; %s was wiped and is here again as %s: if nothing of what it ran is left, say so with: cvlab remove %s --it-is-off", old.Name, fresh, old.Name)
		}
	}
	s.Problems = c.Problems()
	return s
}

// newSelf names the member that has joined later at the address of one that is gone.
func newSelf(old api.ClusterNode, all []api.ClusterNode) string {
	for _, n := range all {
		if old.State != cluster.Alive && n.ID != old.ID && n.Mesh == old.Mesh && n.JoinedAt.After(old.JoinedAt) {
			return n.Name
		}
	}
	return ""
}

// mayRun says whether an attempt that was started on a node is open.
func mayRun(v fsm.View, node string) bool {
	for a := range v.Open(node) {
		if a.State == fsm.AttemptStarted {
			return true
		}
	}
	return false
}

func clusterNode(m cluster.Member, n *fsm.Node, b beacon) api.ClusterNode {
	role := "learner"
	switch {
	case m.Leader:
		role = "leader"
	case m.Role == cluster.RoleVoter:
		role = "voter"
	}
	c := api.ClusterNode{
		ID: m.ID, Name: n.Name, Role: role, State: m.Alive, Version: n.Version, HTTP: n.HTTP, Mesh: n.Mesh, Gossip: n.Gossip,
		NoExec: n.NoExec, NoUI: n.NoUI, Draining: n.Draining, GPUs: len(n.GPUs), JoinedAt: n.JoinedAt,
		Disk: string(m.Disk), Sync: float64(b.Sync) / 1000, Stuck: m.Stuck,
	}
	if m.LastHeard >= 0 {
		heard := m.LastHeard.Seconds()
		c.LastHeard = &heard
	}
	return c
}

// outlook says in one sentence what one more dead machine would cost.
func outlook(voters, alive []string, nodes int) string {
	majority := len(voters)/2 + 1
	switch spare := len(alive) - majority; {
	case len(voters) == 0:
		return "nobody votes yet"
	case len(alive) < majority:
		return fmt.Sprintf("only %d of %d voters answer (%s); nothing can be changed until %d do", len(alive), len(voters), names(alive), majority)
	case len(voters) == 1 && nodes == 1:
		return "this one machine holds the queue; add two more and any one of them may die"
	case len(voters) == 1:
		return fmt.Sprintf("%s alone decides; while it is away nothing can be changed, and running experiments go on. With three machines any one may die", voters[0])
	case spare == 0:
		return fmt.Sprintf("%d of %d voters answer; if one more dies, nothing can be changed until it is back, and running experiments go on", len(alive), len(voters))
	case spare == 1:
		return "any one machine may die and nothing is lost"
	default:
		return fmt.Sprintf("any %d machines may die and nothing is lost", spare)
	}
}

func names(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

// joins makes join tokens for the API.
type joins struct {
	node *Node
}

// CreateJoinToken implements api.Joins.
func (j *joins) CreateJoinToken(ctx context.Context, by string, uses int, ttl time.Duration) (string, *fsm.Access, error) {
	token, access, err := j.node.seat.CreateJoinToken(ctx, by, uses, ttl)
	if err != nil {
		return "", nil, err
	}
	return token.String(), access, nil
}

// Leave implements api.Joins.
func (j *joins) Leave(ctx context.Context, by string) error {
	err := j.node.Leave(ctx, by)
	if errors.Is(err, ErrStays) {
		return fmt.Errorf("%w: %w", api.ErrConflict, err)
	}
	return err
}

// JoinOther implements api.Joins.
func (j *joins) JoinOther(ctx context.Context, peer, token string) error {
	return j.node.JoinOther(ctx, peer, token)
}
