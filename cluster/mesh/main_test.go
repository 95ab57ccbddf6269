package mesh

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test; a passing test never comes near it.
const patience = 10 * time.Second

// roster is a Membership that tests change while the mesh runs.
type roster struct {
	mu      sync.Mutex
	cluster string
	epoch   uint64
	members map[string]bool
	asked   func(nodeID string) // called before each answer of IsMember, may be nil
}

func (r *roster) Cluster() (string, uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cluster, r.epoch
}

func (r *roster) IsMember(nodeID string) bool {
	r.mu.Lock()
	asked := r.asked
	r.mu.Unlock()
	if asked != nil {
		asked(nodeID)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.members[nodeID]
}

func (r *roster) whenAsked(f func(nodeID string)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = f
}

func (r *roster) belong(cluster string, epoch uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cluster, r.epoch = cluster, epoch
}

func (r *roster) admit(ids ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		r.members[id] = true
	}
}

func (r *roster) remove(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.members, id)
}

// node is a mesh under test, with its roster and one listener per protocol.
type node struct {
	*Mesh
	id     string
	roster *roster
	serves map[string]net.Listener
	stop   func() error // ends Run and returns its error
}

// newNode makes a node of cluster "lab", epoch 1, that serves the given protocols and does not run yet.
func newNode(t testing.TB, protocols ...string) *node {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := newIdentity(key)
	if err != nil {
		t.Fatal(err)
	}
	r := &roster{cluster: "lab", epoch: 1, members: map[string]bool{}}
	m, err := Listen(Options{Addr: "127.0.0.1:0", Identity: identity, Logger: slog.New(slog.DiscardHandler), Membership: r})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	n := &node{Mesh: m, id: identity.ID(), roster: r, serves: map[string]net.Listener{}}
	for _, p := range protocols {
		n.serves[p] = m.Accept(p)
	}
	return n
}

func (n *node) run(t testing.TB) *node {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	var result error
	running.Go(func() { result = n.Run(ctx) })
	n.stop = func() error {
		cancel()
		running.Wait()
		return result
	}
	t.Cleanup(func() {
		if err := n.stop(); err != nil {
			t.Errorf("mesh ended with: %v", err)
		}
	})
	return n
}

// pair is two running members of one cluster.
func pair(t testing.TB, protocols ...string) (a, b *node) {
	t.Helper()
	a, b = newNode(t, protocols...), newNode(t, protocols...)
	a.roster.admit(a.id, b.id)
	b.roster.admit(a.id, b.id)
	return a.run(t), b.run(t)
}

func (n *node) dial(t testing.TB, to *node, protocol string) (net.Conn, error) {
	t.Helper()
	c, err := n.Dial(t.Context(), to.id, to.Addr().String(), protocol)
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}

func (n *node) mustDial(t testing.TB, to *node, protocol string) net.Conn {
	t.Helper()
	c, err := n.dial(t, to, protocol)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// accept takes the next connection of protocol.
func (n *node) accept(t testing.TB, protocol string) *Conn {
	t.Helper()
	listener := n.serves[protocol]
	giveUp := time.AfterFunc(patience, func() { listener.Close() })
	c, err := listener.Accept()
	giveUp.Stop()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*Conn)
}

// await polls until the condition holds.
func await(t testing.TB, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("gave up waiting: %s", what)
		}
	}
}

// ended waits until the other side has closed c, whatever way.
func ended(t testing.TB, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	_, err := io.Copy(io.Discard, c)
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		t.Fatal("the connection is still open")
	}
}

// carries sends text from one end to the other.
func carries(t testing.TB, from, to net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(from, text); err != nil {
		t.Fatalf("send %q: %v", text, err)
	}
	got := make([]byte, len(text))
	to.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(to, got); err != nil {
		t.Fatalf("receive %q: %v", text, err)
	}
	if string(got) != text {
		t.Fatalf("received %q, sent %q", got, text)
	}
}
