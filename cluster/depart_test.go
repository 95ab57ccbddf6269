package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"

	"github.com/deveronica/cvlab/fsm"
)

// remove proposes the removal of a machine through another one, until it is answered.
func remove(t *testing.T, through, gone *machine) {
	t.Helper()
	id := gone.seat.ID()
	eventually(t, gone.name+" is removed", func() bool {
		r, err := through.seat.Propose(t.Context(), fsm.Entry{By: "ana", Key: "remove " + id, Command: &fsm.Remove{Node: id}})
		if err == nil && r.Refused() {
			t.Fatalf("remove %s: %s", gone.name, r.Message)
		}
		return err == nil
	})
}

// over waits until a machine's seat has ended by itself, and says with what.
func (m *machine) over() error {
	m.group.Wait()
	m.group = nil
	return m.err
}

// settled waits until a machine that stays sees so many servers and V(n) voters, and can still decide.
func settled(t *testing.T, m *machine, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d machines have %d voters", n, wantedVoters(n)), func() bool {
		all := m.seat.raft.servers()
		return len(all) == n && len(voters(all)) == wantedVoters(n)
	})
	submit(t, m, fmt.Sprintf("with %d machines", n))
	// I17: who votes or stands by is in the registry.
	eventually(t, "all of consensus is registered", func() bool {
		v := m.seat.State().View()
		return !slices.ContainsFunc(m.seat.raft.servers(), func(s raft.Server) bool {
			node := v.Node(string(s.ID))
			return node == nil || node.Removed
		})
	})
}

func TestTheOneThatHoldsTheQueueLeaves(t *testing.T) {
	for _, itself := range []bool{true, false} {
		t.Run(fmt.Sprintf("asks itself: %v", itself), func(t *testing.T) {
			all := lab(t, 2)
			gone, stays := all[0], all[1]
			submit(t, stays, "before")
			through := stays
			if itself {
				through = gone
			}
			remove(t, through, gone)
			if err := gone.over(); !errors.Is(err, ErrRemoved) {
				t.Fatalf("it ended with %v, want ErrRemoved", err)
			}
			settled(t, stays, 1)
			if stays.seat.State().View().Experiment(1) == nil {
				t.Fatal("what was acknowledged before is gone")
			}
		})
	}
}

func TestTheOnlyMachineCannotLeave(t *testing.T) {
	m := newMachine(t, "solo")
	m.start(found("lab"))
	submit(t, m, "it is up")
	r, err := m.seat.Propose(t.Context(), fsm.Entry{By: "ana", Command: &fsm.Remove{Node: m.seat.ID()}})
	if err != nil || r.Code != fsm.Conflict || !strings.Contains(r.Message, "only machine") {
		t.Fatalf("it answered %+v, %v; want a refusal that says why", r, err)
	}
	submit(t, m, "it goes on")
}

func TestNobodyLeavesOnWhomTheOthersDepend(t *testing.T) {
	all := lab(t, 2)
	eventually(t, "the second follows", func() bool { return len(all[0].seat.raft.servers()) == 2 })
	all[1].kill()
	eventually(t, "its absence is noticed", func() bool {
		return slices.ContainsFunc(all[0].seat.Members(), func(m Member) bool { return m.ID == all[1].seat.ID() && m.Alive != Alive })
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := all[0].seat.Propose(ctx, fsm.Entry{By: "ana", Command: &fsm.Remove{Node: all[0].seat.ID()}})
	if !errors.Is(err, ErrVoteNeeded) || !errors.Is(err, ErrNotApplied) {
		t.Fatalf("the only voter, whose stand-by is off, was let go: %v", err)
	}
	submit(t, all[0], "it goes on")
}

func TestOneLeavesWhileAnotherIsAway(t *testing.T) {
	all := lab(t, 3)
	for _, m := range all {
		waitVoters(t, m, 3)
	}
	leader, others := leaderOf(t, all)
	others[1].kill()
	remove(t, others[0], leader)
	if err := leader.over(); !errors.Is(err, ErrRemoved) {
		t.Fatalf("it ended with %v, want ErrRemoved", err)
	}
	eventually(t, "the one that stays decides alone", func() bool { return len(voters(others[0].seat.raft.servers())) == 1 })
	submit(t, others[0], "alone")
	others[1].start(again)
	submit(t, others[1], "and the absent one is back")
}

// F60.
func TestRemovedOneByOneAndAddedBack(t *testing.T) {
	all := lab(t, 5)
	settled(t, all[0], 5)
	for len(all) > 1 {
		gone, rest := all[0], all[1:]
		remove(t, rest[len(rest)-1], gone)
		if err := gone.over(); !errors.Is(err, ErrRemoved) {
			t.Fatalf("%s ended with %v, want ErrRemoved", gone.name, err)
		}
		all = rest
		settled(t, all[0], len(all))
	}
	for n := 2; n <= 5; n++ {
		m := newMachine(t, fmt.Sprintf("new%d", n))
		m.start(joining(all[0].addr, newToken(t, all[0], 1)))
		all = append(all, m)
		settled(t, all[0], n)
	}
	for _, m := range all {
		if m.seat.State().View().Experiment(1) == nil {
			t.Errorf("%s does not have the first experiment any more", m.name)
		}
	}
}

// F57. The leader dies in the midst of a change of the membership, and comes back. Whatever had come of the change, it can
// be repeated, and the cluster comes to rest at an odd number of voters and decides.
func TestTheLeaderDiesDuringAChange(t *testing.T) {
	t.Run("join", func(t *testing.T) {
		all := lab(t, 3)
		settled(t, all[0], 3)
		leader, others := leaderOf(t, all)
		token := newToken(t, leader, 3)
		fresh := newMachine(t, "fresh")
		var first errgroup.Group
		first.Go(func() error { return fresh.tryStart(joining(others[0].addr, token)) })
		leader.kill()
		if err := first.Wait(); err != nil {
			eventually(t, "a repeated join succeeds", func() bool { return fresh.tryStart(joining(others[0].addr, token)) == nil })
		}
		submit(t, fresh, "through the new one")
		leader.start(again)
		settled(t, others[0], 4)
	})
	t.Run("promotion", func(t *testing.T) {
		all := []*machine{newMachine(t, "m0"), newMachine(t, "m1"), newMachine(t, "m2")}
		all[0].start(found("lab"))
		token := newToken(t, all[0], 2)
		all[1].start(joining(all[0].addr, token))
		all[2].start(joining(all[0].addr, token))
		eventually(t, "a promotion is under way", func() bool { return len(voters(all[0].seat.raft.servers())) > 1 })
		all[0].kill()
		all[0].start(again)
		settled(t, all[1], 3)
	})
	t.Run("demotion", func(t *testing.T) {
		all := lab(t, 3)
		settled(t, all[0], 3)
		leader, others := leaderOf(t, all)
		var first sync.WaitGroup
		first.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			_, _ = others[1].seat.Propose(ctx, fsm.Entry{By: "ana", Command: &fsm.Remove{Node: others[0].seat.ID()}})
		})
		eventually(t, "a demotion is under way", func() bool { return len(voters(leader.seat.raft.servers())) < 3 })
		leader.kill()
		leader.start(again)
		first.Wait()
		remove(t, others[1], others[0])
		settled(t, others[1], 2)
		others[0].stop()
	})
	t.Run("removal", func(t *testing.T) {
		all := lab(t, 4)
		settled(t, all[0], 4)
		leader, others := leaderOf(t, all)
		id := others[0].seat.ID()
		var first sync.WaitGroup
		first.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			_, _ = others[1].seat.Propose(ctx, fsm.Entry{By: "ana", Command: &fsm.Remove{Node: id}})
		})
		eventually(t, "a removal is under way", func() bool {
			return !slices.Contains(voters(leader.seat.raft.servers()), id) || leader.seat.State().View().Node(id).Removed
		})
		leader.kill()
		first.Wait()
		leader.start(again)
		remove(t, others[1], others[0])
		settled(t, others[1], 3)
		others[0].stop()
	})
}

// A wiped machine joins again, on its address and under its name. Its old self, which runs nothing, is forgotten by itself,
// and its name goes to the new one.
func TestTheOldSelfIsForgotten(t *testing.T) {
	for _, runs := range []bool{false, true} {
		t.Run(fmt.Sprintf("it may run something: %v", runs), func(t *testing.T) {
			all := lab(t, 3)
			for _, m := range all {
				waitVoters(t, m, 3)
			}
			leader, others := leaderOf(t, all)
			wiped := others[0]
			old := wiped.seat.ID()
			if runs {
				startOn(t, leader, old)
			}
			wiped.stop()
			reborn := newMachine(t, wiped.name)
			reborn.addr, reborn.gossip = wiped.addr, wiped.gossip
			reborn.start(joining(leader.addr, newToken(t, leader, 1)))
			eventually(t, "the new self votes", func() bool {
				v := voters(leader.seat.raft.servers())
				return len(v) == 3 && slices.Contains(v, reborn.seat.ID())
			})
			if runs {
				// One pass of the balancer after the other: a machine that joins now is added by a later one.
				later := newMachine(t, "later")
				later.start(joining(leader.addr, newToken(t, leader, 1)))
				eventually(t, "a later pass is over", func() bool { return len(leader.seat.raft.servers()) == 5 })
				if n := leader.seat.State().View().Node(old); n.Removed {
					t.Fatal("the old self was forgotten, and with it an experiment that may still run")
				}
				return
			}
			eventually(t, "the old self is out and its name is taken over", func() bool {
				v := leader.seat.State().View()
				return v.Node(old).Removed && v.Node(reborn.seat.ID()).Name == wiped.name && len(leader.seat.raft.servers()) == 3
			})
		})
	}
}

// startOn lets a machine run an experiment, as far as the facts are concerned.
func startOn(t *testing.T, through *machine, node string) {
	t.Helper()
	id := submit(t, through, "runs")
	propose := func(c fsm.Command) fsm.Result {
		r, err := through.seat.Propose(t.Context(), fsm.Entry{By: "test", Command: c})
		if err != nil || r.Refused() {
			t.Fatalf("%s: %+v, %v", c.Kind(), r, err)
		}
		return r
	}
	n := *through.seat.State().View().Node(node)
	n.CPUSlots = 1
	propose(&fsm.Update{Node: n})
	token := propose(&fsm.Assign{Experiment: id, Node: node}).Token
	propose(&fsm.Start{Token: token, Node: node, BootID: "boot"})
}
