package cluster

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// clone is a copy of a machine's disk on another machine.
func (m *machine) clone() *machine {
	m.t.Helper()
	c := newMachine(m.t, m.name)
	copyDir(m.t, m.dir, c.dir)
	return c
}

func TestACopyOfALiveNodeNeverOpensItsLog(t *testing.T) {
	all := lab(t, 3)
	for _, m := range all {
		waitVoters(t, m, 3)
	}
	_, followers := leaderOf(t, all)
	original := followers[0]
	original.stop()
	copied := original.clone()
	original.start(again)
	if err := copied.tryStart(again); !errors.Is(err, ErrTwin) || !strings.Contains(err.Error(), "cvlab reset-identity") {
		t.Fatalf("the copy started: %v", err)
	}
	// Also when the original has moved since, and only the others know where it is.
	original.stop()
	original.addr, original.gossip = "127.0.0.1:0", "127.0.0.1:0"
	original.start(again)
	eventually(t, "the others know the new address", func() bool {
		for _, m := range all {
			if n := m.seat.State().View().Node(original.seat.ID()); n == nil || n.Mesh != original.addr {
				return false // whichever of them is asked
			}
		}
		return true
	})
	if err := copied.tryStart(again); !errors.Is(err, ErrTwin) || !strings.Contains(err.Error(), original.addr) {
		t.Fatalf("the copy started: %v", err)
	}
	// When the original is gone, the copy may be it.
	original.stop()
	copied.start(again)
	submit(t, copied, "as before")
}

func TestTwoMachinesWithOneKeyAreNoticedByAll(t *testing.T) {
	all := lab(t, 2)
	eventually(t, "the second is a server", func() bool { return len(all[0].seat.raft.servers()) == 2 })
	original := all[1]
	original.stop()
	copied := original.clone()
	// Both start at one moment, so that neither finds the other.
	both := func(o *Options) { o.trustTwins = true }
	original.start(both)
	copied.start(both)
	began := time.Now()
	for _, m := range []*machine{original, copied, all[0]} {
		eventually(t, m.name+" at "+m.addr+" raises the alarm", func() bool {
			p := m.seat.Problems()
			return len(p) == 1 && strings.Contains(p[0], original.addr) && strings.Contains(p[0], copied.addr)
		})
	}
	t.Logf("noticed by all after %v", time.Since(began))
}

func TestANodeThatMovedIsNoTwin(t *testing.T) {
	all := lab(t, 2)
	eventually(t, "the second is a server", func() bool { return len(all[0].seat.raft.servers()) == 2 })
	moved := all[1]
	moved.kill()
	moved.addr, moved.gossip = "127.0.0.1:0", "127.0.0.1:0"
	moved.start(again)
	submit(t, moved, "a")
	eventually(t, "the first sees it at its new address", func() bool { return all[0].seat.gossip.meshOf(moved.seat.ID()) == moved.addr })
	for _, m := range all {
		if p := m.seat.Problems(); len(p) != 0 {
			t.Errorf("%s complains: %v", m.name, p)
		}
	}
}
