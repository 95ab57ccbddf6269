package cluster

import (
	"context"
	"regexp"
	"strings"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

// forgetOldSelves removes members who were proved to be gone for good and in whose place the same machine has joined again:
// another key answers at their address, and the member who is registered there goes by their name. What they may still run
// is no business of that proof, a job outlives its node and its node's disk; so one that holds an attempt which was started
// stays until a person says that it is dead. The facts check that, along with the removal.
func (b *balancer) forgetOldSelves(ctx context.Context) {
	s := b.seat
	v := s.replica.state.View()
	for id := range b.replaced {
		old := v.Node(id)
		if _, away := b.away[id]; !away || old == nil || old.Removed || b.votes(id) || mayRun(v, id) {
			continue
		}
		fresh := newSelf(v, old)
		if fresh == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, s.o.Tuning.RPC)
		r, err := s.Propose(ctx, fsm.Entry{By: s.id, At: time.Now(), Command: &fsm.Remove{Node: id}})
		cancel()
		switch {
		case err != nil:
			s.log.Warn("forget the old self of a wiped machine", "node", id, "name", old.Name, "error", err)
		case r.Refused():
			s.log.Warn("forget the old self of a wiped machine", "node", id, "name", old.Name, "refused", r.Message)
		default:
			s.log.Info("forgot the old self of a wiped machine", "node", id, "name", old.Name, "new", fresh.ID)
		}
	}
}

func (b *balancer) votes(id string) bool {
	for _, v := range voters(b.seat.raft.servers()) {
		if v == id {
			return true
		}
	}
	return false
}

func mayRun(v fsm.View, node string) bool {
	for a := range v.Open(node) {
		if a.State == fsm.AttemptStarted {
			return true
		}
	}
	return false
}

// newSelf gives the member as which a machine has joined again: later, at the same address, under the same name.
func newSelf(v fsm.View, old *fsm.Node) *fsm.Node {
	for n := range v.Nodes() {
		if n.ID != old.ID && n.Mesh == old.Mesh && n.JoinedAt.After(old.JoinedAt) && plainName(n.Name) == plainName(old.Name) {
			return n
		}
	}
	return nil
}

var numbered = regexp.MustCompile(`-[0-9]+$`)

// plainName takes the number off that a name got because another member had it.
func plainName(name string) string { return numbered.ReplaceAllString(name, "") }

// keepName takes the name this node was given by people as soon as it is free: it may have belonged to its old self.
func (s *Seat) keepName(ctx context.Context) error {
	wanted := s.self().Name
	for {
		changed := s.replica.state.Changed()
		if s.nameIsFree(wanted) {
			if err := s.Announce(ctx); err != nil {
				s.log.Debug("take the free name", "name", wanted, "error", err)
			}
		}
		// A busy queue changes all the time, and a name can wait.
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(s.o.Tuning.Balance):
		}
	}
}

// nameIsFree says whether this node goes by another name than it wants, without need.
func (s *Seat) nameIsFree(wanted string) bool {
	v := s.replica.state.View()
	self := v.Node(s.id)
	if self == nil || self.Removed || wanted == "" || self.Name == wanted || !strings.HasPrefix(self.Name, wanted+"-") {
		return false
	}
	for n := range v.Nodes() {
		if n.Name == wanted {
			return false
		}
	}
	return true
}
