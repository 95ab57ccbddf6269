package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/deveronica/cvlab/cluster/mesh"
)

func TestEveryErrorOfRaftIsCertainOrUnknown(t *testing.T) {
	for _, c := range []struct {
		err  error
		want error
	}{
		{raft.ErrNotLeader, ErrNotApplied},
		{raft.ErrLeadershipTransferInProgress, ErrNotApplied},
		{raft.ErrEnqueueTimeout, ErrNotApplied},
		{raft.ErrAbortedByRestore, ErrNotApplied},
		{raft.ErrLeadershipLost, ErrUnknown},
		{raft.ErrRaftShutdown, ErrUnknown},
		{errUndecided, ErrUnknown},
		{errors.New("a new kind of error"), ErrUnknown},
	} {
		got := classify(c.err)
		if !errors.Is(got, c.want) || errors.Is(got, ErrUnknown) && errors.Is(got, ErrNotApplied) {
			t.Errorf("%v became %v, want %v alone", c.err, got, c.want)
		}
	}
}

func TestErrorsSurviveTheWire(t *testing.T) {
	for _, err := range []error{ErrNotApplied, ErrNoLeader, ErrBusy, ErrUnknown, ErrNotUnderstood} {
		a := forwardAnswer{Status: statusOf(fmt.Errorf("on the leader: %w", err)), Error: "on the leader"}
		if got := a.err(); !errors.Is(got, err) {
			t.Errorf("%v came back as %v", err, got)
		}
	}
	if err := (forwardAnswer{Status: "a status of a newer version"}).err(); !errors.Is(err, ErrUnknown) {
		t.Errorf("an unknown status is %v, want ErrUnknown", err)
	}
}

// talk is a forwarder that reaches a server function over a pipe.
func talk(t *testing.T, server func(conn net.Conn)) *forwarder {
	var group sync.WaitGroup
	t.Cleanup(group.Wait)
	f := newForwarder(func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		group.Go(func() {
			defer far.Close()
			server(far)
		})
		return near, nil
	})
	t.Cleanup(func() { f.keepOnly("nobody") })
	return f
}

func TestOnlyAnAnswerMakesAForwardCertain(t *testing.T) {
	request := forwardRequest{Op: opPropose, Entry: json.RawMessage(`{}`)}
	refusing := newForwarder(func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no route") })
	if _, err := refusing.call(t.Context(), "leader", request); !errors.Is(err, ErrNotApplied) || errors.Is(err, ErrUnknown) {
		t.Errorf("a dial that failed: %v, want ErrNotApplied", err)
	}
	hangsUp := talk(t, func(conn net.Conn) {
		var r forwardRequest
		_ = mesh.ReadFrame(conn, maxForward, &r)
	})
	if _, err := hangsUp.call(t.Context(), "leader", request); !errors.Is(err, ErrUnknown) {
		t.Errorf("a connection that broke after the request: %v, want ErrUnknown", err)
	}
	asked := make(chan struct{})
	silent := talk(t, func(conn net.Conn) {
		var r forwardRequest
		_ = mesh.ReadFrame(conn, maxForward, &r)
		close(asked)
		_ = mesh.ReadFrame(conn, maxForward, &r)
	})
	var group sync.WaitGroup
	group.Go(func() {
		<-asked
		silent.keepOnly("another leader")
	})
	start := time.Now()
	if _, err := silent.call(t.Context(), "leader", request); !errors.Is(err, ErrUnknown) {
		t.Errorf("a leader that was replaced before it answered: %v, want ErrUnknown", err)
	}
	if time.Since(start) > 5*time.Second {
		t.Error("the call waited for a leader that is none any more")
	}
	group.Wait()
}

func TestAForwardKeepsItsConnection(t *testing.T) {
	dials := 0
	f := talk(t, func(conn net.Conn) {
		for {
			var r forwardRequest
			if mesh.ReadFrame(conn, maxForward, &r) != nil {
				return
			}
			_ = mesh.WriteFrame(conn, forwardAnswer{Status: statusOK, Index: uint64(r.Hops)})
		}
	})
	dial := f.dial
	f.dial = func(ctx context.Context, node, protocol string) (net.Conn, error) {
		dials++
		return dial(ctx, node, protocol)
	}
	for i := range 10 {
		a, err := f.call(t.Context(), "leader", forwardRequest{Op: opBarrier, Hops: i})
		if err != nil || a.Index != uint64(i) {
			t.Fatalf("call %d: %+v, %v", i, a, err)
		}
	}
	if dials != 1 {
		t.Errorf("10 calls made %d connections", dials)
	}
}

func TestTooManyInFlightIsBusy(t *testing.T) {
	m := newMachine(t, "solo")
	seat := m.start(found("lab"))
	submit(t, m, "a")
	for range maxInFlight {
		seat.slots <- struct{}{}
	}
	_, err := seat.Propose(t.Context(), submission("b"))
	if !errors.Is(err, ErrBusy) || !errors.Is(err, ErrNotApplied) {
		t.Errorf("proposal number 4,097: %v, want ErrBusy", err)
	}
	a := seat.answerForward(t.Context(), "somebody", forwardRequest{Op: opPropose, Hops: 1, Limit: 1000, Entry: []byte(`{"kind":"revoke","at":"2026-01-01T00:00:00Z","body":{"id":"x"}}`)})
	if !errors.Is(a.err(), ErrBusy) {
		t.Errorf("forwarded proposal number 4,097: %v, want ErrBusy", a.err())
	}
	for range maxInFlight {
		<-seat.slots
	}
	submit(t, m, "b")
}

func TestARefusalIsAResult(t *testing.T) {
	m := newMachine(t, "solo")
	m.start(found("lab"))
	e := submission("a")
	submit(t, m, "a")
	e.Key = "a"
	r, err := m.seat.Propose(t.Context(), e)
	if err != nil || r.Refused() {
		t.Fatalf("repeat: %+v, %v", r, err)
	}
	other := submission("a")
	other.At = time.Now().Add(time.Hour)
	if r, err = m.seat.Propose(t.Context(), other); err != nil || r.Refused() {
		t.Fatalf("repeat at another time: %+v, %v", r, err)
	}
	_, err = m.seat.Propose(t.Context(), submission(string(make([]byte, 300))))
	if !errors.Is(err, ErrNotApplied) {
		t.Errorf("a key beyond its limit: %v, want ErrNotApplied", err)
	}
}

func TestConcurrentWritersOnAllMachinesAreCountedOnce(t *testing.T) {
	all := lab(t, 3)
	waitVoters(t, all[0], 3)
	const writers, each = 8, 10
	var group sync.WaitGroup
	for w := range writers {
		m := all[w%3]
		group.Go(func() {
			for i := range each {
				r, err := m.seat.Propose(t.Context(), submission(fmt.Sprintf("%d-%d", w, i)))
				if err != nil || r.Refused() {
					t.Errorf("writer %d on %s: %+v, %v", w, m.name, r, err)
				}
			}
		})
	}
	// Meanwhile leadership moves.
	leader, _ := leaderOf(t, all)
	_ = leader.seat.raft.LeadershipTransfer().Error()
	group.Wait()
	if err := all[0].seat.Barrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	n := 0
	for range all[0].seat.State().View().Experiments() {
		n++
	}
	if n != writers*each {
		t.Errorf("%d experiments, want %d", n, writers*each)
	}
}
