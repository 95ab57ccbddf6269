package mesh

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestMembersTalkBothWays(t *testing.T) {
	a, b := pair(t, "raft")
	for _, way := range []struct {
		name     string
		from, to *node
	}{{"a to b", a, b}, {"b to a", b, a}, {"a to itself", a, a}} {
		t.Run(way.name, func(t *testing.T) {
			dialled := way.from.mustDial(t, way.to, "raft")
			accepted := way.to.accept(t, "raft")
			carries(t, dialled, accepted, "append entries")
			carries(t, accepted, dialled, "success")
			if got := PeerID(dialled); got != way.to.id {
				t.Errorf("dialler sees peer %q, dialled %q", got, way.to.id)
			}
			if got := accepted.PeerID(); got != way.from.id {
				t.Errorf("acceptor sees peer %q, was dialled by %q", got, way.from.id)
			}
			if accepted.Protocol() != "raft" || dialled.(*Conn).Protocol() != "raft" {
				t.Error("the two ends disagree about the protocol")
			}
			if id, epoch := accepted.PeerCluster(); id != "lab" || epoch != 1 {
				t.Errorf("acceptor sees cluster %q epoch %d", id, epoch)
			}
			dialled.Close()
			ended(t, accepted)
		})
	}
}

func TestConnectionsGoToTheProtocolTheyAskedFor(t *testing.T) {
	a, b := pair(t, "raft", "forward")
	forward, raft := a.mustDial(t, b, "forward"), a.mustDial(t, b, "raft")
	carries(t, raft, b.accept(t, "raft"), "for raft")
	carries(t, forward, b.accept(t, "forward"), "for forward")
}

func TestTheLimitOfTheHandshakeEndsWithIt(t *testing.T) {
	a, b := newNode(t), newNode(t, "raft")
	a.limit, b.limit = 300*time.Millisecond, 300*time.Millisecond
	a.roster.admit(b.id)
	b.roster.admit(a.id)
	a.run(t)
	b.run(t)
	dialled := a.mustDial(t, b, "raft")
	accepted := b.accept(t, "raft")
	dialled.SetReadDeadline(time.Now().Add(2 * a.limit))
	if _, err := dialled.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("an idle connection ended by itself: %v", err)
	}
	carries(t, accepted, dialled, "still here")
	carries(t, dialled, accepted, "me too")
}

func TestDialIsRefusedInOneSentence(t *testing.T) {
	tests := []struct {
		name     string
		change   func(a, b *node) // a dials b
		protocol string
		want     error
		says     string
	}{
		{"other cluster", func(a, b *node) { a.roster.belong("office", 1) }, "raft", ErrOtherCluster,
			`belongs to cluster "lab", this node belongs to cluster "office"`},
		{"peer is in no cluster", func(a, b *node) { b.roster.belong("", 0) }, "raft", ErrOtherCluster,
			`is in no cluster yet, this node belongs to cluster "lab"`},
		{"dialler is in no cluster", func(a, b *node) { a.roster.belong("", 0) }, "raft", ErrOtherCluster, "this node is in no cluster yet"},
		{"dialler missed a recovery", func(a, b *node) { b.roster.belong("lab", 2) }, "raft", ErrOtherEpoch, "without this node, which must join again"},
		{"peer missed a recovery", func(a, b *node) { a.roster.belong("lab", 2) }, "raft", ErrOtherEpoch, "without that node, which must join again"},
		{"dialler is no member", func(a, b *node) { b.roster.remove(a.id) }, "raft", ErrNotMember, `as a member of cluster "lab"`},
		{"peer is no member", func(a, b *node) { a.roster.remove(b.id) }, "raft", ErrPeerNotMember, "peer is not a member"},
		{"unknown protocol", func(a, b *node) {}, "telnet", ErrUnknownProtocol, `does not serve protocol "telnet"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, b := pair(t, "raft")
			tt.change(a, b)
			_, err := a.dial(t, b, tt.protocol)
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), b.id) || strings.Contains(err.Error(), "\n") {
				t.Errorf("the sentence is: %s", err)
			}
			await(t, "no connection is left", func() bool { return a.conns.size()+b.conns.size() == 0 })
			if n := len(b.serving("raft").ready); n != 0 {
				t.Errorf("%d refused connections reached the listener", n)
			}
		})
	}
}

func TestAnotherKeyAnswersAtTheAddress(t *testing.T) {
	a, b := pair(t, "raft")
	stranger := newNode(t, "raft").run(t)
	_, err := a.Dial(t.Context(), b.id, stranger.Addr().String(), "raft")
	wrong, ok := errors.AsType[*WrongPeerError](err)
	if !ok || !errors.Is(err, ErrWrongPeer) {
		t.Fatalf("got %v, want a WrongPeerError", err)
	}
	if *wrong != (WrongPeerError{Want: b.id, Got: stranger.id, Addr: stranger.Addr().String()}) {
		t.Errorf("got %+v", wrong)
	}
	await(t, "the stranger keeps nothing", func() bool { return stranger.conns.size() == 0 })
}

func TestDeadProcessIsTellable(t *testing.T) {
	a, b := pair(t)
	b.stop()
	if _, err := a.dial(t, b, "raft"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("got %v, want connection refused", err)
	}
}

func TestRevokedNodeIsCutOffAndStaysOut(t *testing.T) {
	a, b := pair(t, "raft")
	outgoing := a.mustDial(t, b, "raft")
	atB := b.accept(t, "raft")
	incoming := b.mustDial(t, a, "raft")
	atA := a.accept(t, "raft")
	waiting := b.mustDial(t, a, "raft") // never accepted

	a.roster.remove(b.id)
	a.CloseMember(b.id)

	for _, c := range []net.Conn{outgoing, atA, atB, incoming, waiting} {
		ended(t, c)
	}
	if _, err := b.dial(t, a, "raft"); !errors.Is(err, ErrNotMember) {
		t.Errorf("the revoked node dials: %v", err)
	}
	if _, err := a.dial(t, b, "raft"); !errors.Is(err, ErrPeerNotMember) {
		t.Errorf("the revoked node is dialled: %v", err)
	}
	await(t, "no connection is left", func() bool { return a.conns.size() == 0 })
}

// A revocation that falls between the first question and the registration of the connection must not be missed.
func TestRevocationDuringDial(t *testing.T) {
	a, b := pair(t, "raft")
	asked := 0
	a.roster.whenAsked(func(id string) {
		if asked++; asked == 2 { // the first answer was yes
			a.roster.remove(id)
		}
	})
	if _, err := a.dial(t, b, "raft"); !errors.Is(err, ErrPeerNotMember) {
		t.Fatalf("got %v, want %v", err, ErrPeerNotMember)
	}
	if n := a.conns.size(); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

func TestRevocationDuringAcceptance(t *testing.T) {
	a, b := pair(t, "raft")
	// The connection must be registered when membership is asked, or CloseMember would miss it.
	b.roster.whenAsked(b.CloseMember)
	if _, err := a.dial(t, b, "raft"); err == nil {
		t.Fatal("a connection outlived CloseMember")
	}
}

func TestOpenProtocol(t *testing.T) {
	tests := []struct {
		name    string
		cluster string
		epoch   uint64
		member  bool
		want    error
	}{
		{"a stranger in no cluster", "", 0, false, nil},
		{"a removed member", "lab", 1, false, nil},
		{"a member that missed a recovery", "lab", 0, true, nil},
		{"a node of another cluster", "office", 1, false, ErrOtherCluster},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			joiner, member := newNode(t).run(t), newNode(t, "join", "raft")
			member.Open("join")
			member.run(t)
			joiner.roster.belong(tt.cluster, tt.epoch)
			if tt.member {
				member.roster.admit(joiner.id)
			}
			c, err := joiner.DialUnknown(t.Context(), member.Addr().String(), "join")
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if err != nil {
				return
			}
			defer c.Close()
			accepted := member.accept(t, "join")
			carries(t, c, accepted, "may I?")
			if c.PeerID() != member.id || accepted.PeerID() != joiner.id {
				t.Errorf("the ends see %q and %q", c.PeerID(), accepted.PeerID())
			}
			if id, epoch := c.PeerCluster(); id != "lab" || epoch != 1 {
				t.Errorf("joiner learned cluster %q epoch %d", id, epoch)
			}
			if _, err := joiner.DialUnknown(t.Context(), member.Addr().String(), "raft"); err == nil {
				t.Error("an open protocol opened another")
			}
		})
	}
}

func TestSlowAcceptorBlocksNobodyElse(t *testing.T) {
	a, b := pair(t, "slow", "raft")
	for range queueLength {
		a.mustDial(t, b, "slow")
	}
	if _, err := a.dial(t, b, "slow"); !errors.Is(err, ErrBusy) {
		t.Fatalf("connection %d: got %v, want %v", queueLength+1, err, ErrBusy)
	}
	carries(t, a.mustDial(t, b, "raft"), b.accept(t, "raft"), "raft goes on")
	b.accept(t, "slow")
	a.mustDial(t, b, "slow")
}

func TestListenerLifetime(t *testing.T) {
	a, b := pair(t, "raft")
	if b.Accept("raft") != b.serves["raft"] {
		t.Fatal("asked again, Accept made a second listener")
	}
	waiting := a.mustDial(t, b, "raft")
	accepted := b.accept(t, "raft")
	queued := a.mustDial(t, b, "raft")

	b.serves["raft"].Close()
	if _, err := b.serves["raft"].Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept of a closed listener: %v", err)
	}
	ended(t, queued)
	carries(t, waiting, accepted, "accepted connections live on")
	if _, err := a.dial(t, b, "raft"); !errors.Is(err, ErrUnknownProtocol) {
		t.Errorf("dial after the listener closed: %v", err)
	}

	b.serves["raft"] = b.Accept("raft")
	carries(t, a.mustDial(t, b, "raft"), b.accept(t, "raft"), "served again")
}

func TestEndOfRunEndsEverything(t *testing.T) {
	a, b := pair(t, "raft")
	dialled := a.mustDial(t, b, "raft")
	accepted := b.accept(t, "raft")
	var waiter sync.WaitGroup
	var acceptErr error
	waiter.Go(func() { _, acceptErr = b.serves["raft"].Accept() })

	if err := b.stop(); err != nil {
		t.Fatalf("Run: %v", err)
	}
	waiter.Wait()
	if !errors.Is(acceptErr, net.ErrClosed) {
		t.Errorf("waiting Accept: %v", acceptErr)
	}
	ended(t, dialled)
	ended(t, accepted)
	if err := accepted.Close(); err != nil {
		t.Errorf("Close of a cut connection: %v", err)
	}
	if _, err := b.dial(t, a, "raft"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("dial from a closed mesh: %v", err)
	}
	if _, err := b.Accept("later").Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("new listener of a closed mesh: %v", err)
	}
	if n := b.conns.size(); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

func TestCloseWithoutRun(t *testing.T) {
	n := newNode(t, "raft")
	if err := errors.Join(n.Close(), n.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := n.serves["raft"].Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
	if err := n.Run(context.Background()); err != nil {
		t.Errorf("Run after Close: %v", err)
	}
}

func TestOptionsNameWhatIsMissing(t *testing.T) {
	_, err := Listen(Options{})
	for _, field := range []string{"Addr", "Identity", "Logger", "Membership"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("error does not name %s: %v", field, err)
		}
	}
}

func TestExportedKeysBelongToOneChannelAndLabel(t *testing.T) {
	a, b := pair(t, "raft")
	export := func(c net.Conn, label string) []byte {
		key, err := c.(*Conn).ExportKey(label)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	first, firstB := a.mustDial(t, b, "raft"), b.accept(t, "raft")
	second := a.mustDial(t, b, "raft")
	if key := export(first, "x"); len(key) != 32 || !bytes.Equal(key, export(firstB, "x")) {
		t.Error("the two ends of a channel have different keys")
	}
	if bytes.Equal(export(first, "x"), export(first, "y")) {
		t.Error("two labels give one key")
	}
	if bytes.Equal(export(first, "x"), export(second, "x")) {
		t.Error("two channels give one key")
	}
}

// wrapped hides a connection the way a library might.
type wrapped struct{ net.Conn }

func (w wrapped) NetConn() net.Conn { return w.Conn }

type alsoWrapped struct{ net.Conn }

func (w alsoWrapped) Unwrap() net.Conn { return w.Conn }

func TestPeerIDLooksInsideWrappers(t *testing.T) {
	inner := &Conn{peerID: "abc"}
	if got := PeerID(alsoWrapped{wrapped{inner}}); got != "abc" {
		t.Errorf("got %q", got)
	}
	left, right := net.Pipe()
	defer left.Close()
	defer right.Close()
	if got := PeerID(wrapped{left}); got != "" {
		t.Errorf("a pipe has peer %q", got)
	}
	if got := PeerID(nil); got != "" {
		t.Errorf("nil has peer %q", got)
	}
}

func BenchmarkDial(b *testing.B) {
	x, y := pair(b, "raft")
	for b.Loop() {
		c, err := x.Dial(b.Context(), y.id, y.Addr().String(), "raft")
		if err != nil {
			b.Fatal(err)
		}
		accepted, err := y.serves["raft"].Accept()
		if err != nil {
			b.Fatal(err)
		}
		c.Close()
		accepted.Close()
	}
}
