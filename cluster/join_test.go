package cluster

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/deveronica/cvlab/cluster/mesh"
	"github.com/deveronica/cvlab/fsm"
)

func TestAJoinThatIsRefusedSaysWhy(t *testing.T) {
	first := newMachine(t, "first")
	first.start(found("lab"))
	other := newMachine(t, "other")
	other.start(found("other lab"))

	once := newToken(t, first, 1)
	newMachine(t, "second").start(joining(first.addr, once))
	expired, access, err := first.seat.CreateJoinToken(t.Context(), "ana", 1, time.Nanosecond)
	if err != nil || access.ExpiresAt.IsZero() {
		t.Fatalf("create token: %+v, %v", access, err)
	}
	wrong, err := mesh.NewJoinToken()
	if err != nil {
		t.Fatal(err)
	}
	wrong.ID = newToken(t, first, 1).ID // the ID is no secret
	foreign := newToken(t, other, 1)

	for _, c := range []struct {
		name  string
		token mesh.JoinToken
		says  string
	}{
		{"used", once, "used already"},
		{"expired", expired, "expired"},
		{"wrong secret", wrong, "not accepted"},
		{"of another cluster", foreign, "belongs to another cluster"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t, "stranger")
			err := m.tryStart(joining(first.addr, c.token))
			if !errors.Is(err, ErrNotAdmitted) || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("join gave %v, want ErrNotAdmitted saying %q", err, c.says)
			}
			if !strings.Contains(err.Error(), "cvlab token create --join") {
				t.Errorf("%q does not say what to do", err)
			}
			if _, err := os.Stat(m.dir + "/cluster.json"); !os.IsNotExist(err) {
				t.Errorf("a refused join left cluster.json behind (%v)", err)
			}
		})
	}
	if n := len(first.seat.registered()); n != 2 {
		t.Errorf("the cluster has %d members after all the refusals, want 2", n)
	}
}

func TestAJoinToNobodySaysWhatToCheck(t *testing.T) {
	token, err := mesh.NewJoinToken()
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine(t, "stranger")
	if err := m.tryStart(joining(freeAddr(t), token)); err == nil || !strings.Contains(err.Error(), "is cvlab up on that machine") {
		t.Fatalf("join gave %v", err)
	}
}

// A wiped machine is spoken to by those who knew it, while nobody there listens yet: a join that is refused must end all the
// same.
func TestARefusedJoinEndsWhileOthersTalkToIt(t *testing.T) {
	first := newMachine(t, "first")
	first.start(found("lab"))
	m := newMachine(t, "stranger")
	m.gossip = freeAddr(t)
	talker, err := net.Dial("udp", m.gossip)
	if err != nil {
		t.Fatal(err)
	}
	defer talker.Close()
	stream := make(chan struct{})
	ended := make(chan struct{})
	var talk sync.WaitGroup
	talk.Go(func() {
		for {
			_, _ = talker.Write([]byte("are you there?")) // refused until somebody listens
			if c, err := net.Dial("tcp", m.gossip); err == nil {
				c.Close()
				select {
				case <-stream:
				default:
					close(stream)
				}
			}
			select {
			case <-ended:
				return
			case <-time.After(time.Millisecond):
			}
		}
	})
	wrong, err := mesh.NewJoinToken()
	if err != nil {
		t.Fatal(err)
	}
	err = m.tryStart(func(o *Options) {
		joining(first.addr, wrong)(o)
		self := o.Self
		o.Self = func() fsm.Node { <-stream; return self() } // it has been spoken to before it asks
	})
	close(ended)
	talk.Wait()
	if !errors.Is(err, ErrNotAdmitted) {
		t.Fatalf("join gave %v, want a refusal", err)
	}
}

func TestAMemberNeedsNoTokenAndCannotChangeSides(t *testing.T) {
	first := newMachine(t, "first")
	first.start(found("lab"))
	second := newMachine(t, "second")
	second.start(joining(first.addr, newToken(t, first, 1)))
	submit(t, second, "a")
	second.stop()

	spent, err := mesh.NewJoinToken()
	if err != nil {
		t.Fatal(err)
	}
	second.start(joining(first.addr, spent)) // the same command line again, with a token that is long used
	submit(t, second, "b")
	second.stop()

	other := newMachine(t, "other")
	other.start(found("other lab"))
	err = second.tryStart(joining(other.addr, newToken(t, other, 1)))
	if !errors.Is(err, ErrNotAdmitted) || !errors.Is(err, ErrOtherMember) {
		t.Fatalf("a member told to join another cluster: %v", err)
	}
}

func TestAnImpostorIsNotBelieved(t *testing.T) {
	// A mesh that accepts any token without knowing it.
	m := newMachine(t, "impostor")
	m.start(found("lab"))
	m.stop()
	id := m.id
	wire, err := mesh.Listen(mesh.Options{Addr: "127.0.0.1:0", Identity: id, Logger: testLog(t, "impostor"), Membership: NewRoster()})
	if err != nil {
		t.Fatal(err)
	}
	ln := wire.Accept(protocolJoin)
	wire.Open(protocolJoin)
	ctx, cancel := context.WithCancel(t.Context())
	m.off = cancel
	m.group = &sync.WaitGroup{}
	m.group.Go(func() { _ = wire.Run(ctx) })
	m.group.Go(func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		var r joinRequest
		if mesh.ReadFrame(conn, maxJoin, &r) == nil {
			_ = mesh.WriteFrame(conn, joinAnswer{Status: joinOK, ID: "x", Name: "trap", Epoch: 1, Proof: make([]byte, 32), GossipKeys: [][]byte{make([]byte, 32)}})
		}
	})
	token, err := mesh.NewJoinToken()
	if err != nil {
		t.Fatal(err)
	}
	victim := newMachine(t, "victim")
	err = victim.tryStart(joining(wire.Addr().String(), token))
	if !errors.Is(err, ErrNotAdmitted) || !strings.Contains(err.Error(), "pretends") {
		t.Fatalf("join gave %v, want a refusal of the impostor", err)
	}
}

func TestAWipedMachineJoinsAgainAsSomebodyElse(t *testing.T) {
	all := lab(t, 3)
	for _, m := range all {
		waitVoters(t, m, 3)
	}
	leader, followers := leaderOf(t, all)
	wiped := followers[0]
	old := wiped.seat.ID()
	wiped.stop()

	// The disk is wiped; the machine comes back under its old addresses.
	reborn := newMachine(t, "reborn")
	reborn.addr, reborn.gossip = wiped.addr, wiped.gossip
	reborn.start(joining(leader.addr, newToken(t, leader, 1)))
	if reborn.seat.ID() == old {
		t.Fatal("a wiped machine has its old ID")
	}
	// It answers at the old address, but never for its old self.
	conn, err := leader.mesh.Dial(t.Context(), old, reborn.addr, protocolPulse)
	if _, other := errors.AsType[*mesh.WrongPeerError](err); !other {
		t.Errorf("a dial for the old ID gave %v, %v; want WrongPeerError", conn, err)
	}
	// The new self takes over the vote without anybody's help, long before VoterAway.
	eventually(t, "the new self votes and the old one does not", func() bool {
		v := voters(leader.seat.raft.servers())
		return len(v) == 3 && slices.Contains(v, reborn.seat.ID()) && !slices.Contains(v, old)
	})
	// The old ID is not needed: another machine may fail now.
	followers[1].kill()
	submit(t, leader, "with the new self's vote")
	// And it can be removed.
	r, err := leader.seat.Propose(t.Context(), fsm.Entry{By: "ana", Command: &fsm.Remove{Node: old, Off: true}})
	if err != nil || r.Refused() {
		t.Fatalf("remove: %+v, %v", r, err)
	}
	eventually(t, "the old server is out of the consensus", func() bool {
		for _, s := range leader.seat.raft.servers() {
			if string(s.ID) == old {
				return false
			}
		}
		return true
	})
}

func TestARemovedNodeStops(t *testing.T) {
	all := lab(t, 2)
	eventually(t, "the second is a server", func() bool { return len(all[0].seat.raft.servers()) == 2 })
	gone := all[1]
	submit(t, gone, "a")
	id := gone.seat.ID()
	r, err := all[0].seat.Propose(t.Context(), fsm.Entry{By: "ana", Command: &fsm.Remove{Node: id}})
	if err != nil || r.Refused() {
		t.Fatalf("remove: %+v, %v", r, err)
	}
	gone.group.Wait()
	gone.group = nil
	if !errors.Is(gone.err, ErrRemoved) {
		t.Fatalf("the removed node's run ended with %v, want ErrRemoved", gone.err)
	}
	submit(t, all[0], "b")
	// Started again, it learns it from the others, who no longer replicate to it.
	if err := gone.tryStart(again); err != nil {
		t.Fatalf("open: %v", err)
	}
	gone.group.Wait()
	gone.group = nil
	if !errors.Is(gone.err, ErrRemoved) {
		t.Fatalf("its second run ended with %v, want ErrRemoved", gone.err)
	}
}

func TestTheRemovedLeaderHandsOverFirst(t *testing.T) {
	all := lab(t, 3)
	for _, m := range all {
		waitVoters(t, m, 3)
	}
	leader, followers := leaderOf(t, all)
	r, err := followers[0].seat.Propose(t.Context(), fsm.Entry{By: "ana", Command: &fsm.Remove{Node: leader.seat.ID()}})
	if err != nil || r.Refused() {
		t.Fatalf("remove: %+v, %v", r, err)
	}
	submit(t, followers[0], "a")
	// Two members are left: one vote, not two.
	eventually(t, "one voter is left", func() bool {
		servers := followers[0].seat.raft.servers()
		return len(servers) == 2 && len(voters(servers)) == 1
	})
	submit(t, followers[1], "b")
}
