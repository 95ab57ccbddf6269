package cluster

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hashicorp/raft"

	"github.com/deveronica/cvlab/fsm"
)

// found writes the new cluster's name and keys; openRaft then bootstraps a log of this server alone, and the first term
// commits the Found entry. Each step may be repeated after a crash until the file says "member".
func (s *Seat) found(f Founding) error {
	key := make([]byte, gossipKeySize)
	if _, err := rand.Read(key); err != nil {
		return fmt.Errorf("found cluster: make gossip key: %w", err)
	}
	s.mesh, s.gossip.addr = s.advertised(s.o.Mesh.Addr(), ""), s.advertised(s.gossip.bound, "")
	err := s.file.update(func(c *clusterFile) {
		c.Phase, c.ID, c.Name, c.Epoch = phaseFounding, strings.ToLower(rand.Text()), f.Name, 1
		c.GossipKeys = [][]byte{key}
	})
	if err != nil {
		return fmt.Errorf("found cluster: %w", err)
	}
	return nil
}

// self is this node as it stands in the registry.
func (s *Seat) self() fsm.Node {
	n := s.o.Self()
	n.ID, n.Mesh, n.Gossip = s.id, s.mesh, s.gossip.addr
	return n
}

// ownTerm is what the seat itself does while it leads: it founds the cluster if that was not done, and keeps the right
// number of voters.
func (s *Seat) ownTerm(ctx context.Context, _ uint64) error {
	if id, _, _ := s.replica.state.View().Cluster(); id == "" {
		if err := s.commitFound(ctx); err != nil {
			return err
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.balance(ctx) })
	group.Go(func() error { return s.leaveLowDisk(ctx) })
	return group.Wait()
}

func (s *Seat) commitFound(ctx context.Context) error {
	f := s.file.get()
	data, err := fsm.Encode(fsm.Entry{By: s.id, At: time.Now(), Command: &fsm.Found{Cluster: f.ID, Name: f.Name, Node: s.self()}})
	if err != nil {
		return fmt.Errorf("found cluster: %w", err)
	}
	result, err := s.applyHere(ctx, data)
	if err != nil {
		return fmt.Errorf("found cluster: %w", err)
	}
	if result.Refused() {
		return fmt.Errorf("found cluster: %s", result.Message)
	}
	return nil
}

// standAlone makes the only voter of a cluster lead at once, instead of after its heartbeat timeout: there is nobody
// to wait for.
func (s *Seat) standAlone(ctx context.Context) error {
	if all := voters(s.raft.servers()); len(all) != 1 || all[0] != s.id || s.raft.State() != raft.Follower {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.Tuning.Heartbeat)
	defer cancel()
	if err := s.raft.trans.stand(ctx, s.id); err != nil {
		s.log.Debug("stand for election alone", "error", err)
	}
	return nil
}

// announceSelf brings the registry up to date with this node once after a start: addresses, boot, version.
func (s *Seat) announceSelf(ctx context.Context) error {
	for {
		err := s.Announce(ctx)
		if err == nil || ctx.Err() != nil || s.isStopping() {
			return nil
		}
		s.log.Debug("announce this node", "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(s.o.Tuning.Heartbeat):
		}
	}
}

// Announce writes what Options.Self says now, and this node's addresses, into the registry, if they differ from what
// stands there. The seat does so once after every start; call it when the inventory has changed.
func (s *Seat) Announce(ctx context.Context) error {
	if err := s.Barrier(ctx); err != nil {
		return fmt.Errorf("announce this node: %w", err)
	}
	self := s.self()
	if old := s.replica.state.View().Node(s.id); old != nil && sameNode(*old, self) && !s.nameIsFree(self.Name) {
		return nil
	}
	return s.describe(ctx, self)
}

// Reannounce is Announce also when nothing has changed: a name that another node had until now becomes this one's.
func (s *Seat) Reannounce(ctx context.Context) error { return s.describe(ctx, s.self()) }

func (s *Seat) describe(ctx context.Context, self fsm.Node) error {
	result, err := s.Propose(ctx, fsm.Entry{By: s.id, Command: &fsm.Update{Node: self}})
	if err != nil {
		return fmt.Errorf("announce this node: %w", err)
	}
	if result.Refused() {
		return fmt.Errorf("announce this node: %s", result.Message)
	}
	return nil
}

// sameNode compares what a node says of itself; the rest is the registry's. A name that was taken got a number behind
// it there, which is no difference.
func sameNode(old, self fsm.Node) bool {
	if old.Name != self.Name && !strings.HasPrefix(old.Name, self.Name+"-") {
		return false
	}
	self.Name, self.Draining, self.Removed, self.JoinedAt = old.Name, old.Draining, old.Removed, old.JoinedAt
	return slices.Equal(self.GPUs, old.GPUs) && maps.Equal(self.Labels, old.Labels) && flat(self) == flat(old)
}

// flat is the comparable rest of a node.
func flat(n fsm.Node) [9]string {
	return [9]string{n.ID, n.Name, n.Mesh, n.Gossip, n.HTTP, n.BootID, n.Version, fmt.Sprint(n.NoExec, n.NoUI), fmt.Sprint(n.CPUSlots)}
}
