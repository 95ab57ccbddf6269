package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/deveronica/cvlab/cluster/mesh"
	"github.com/deveronica/cvlab/fsm"
)

func TestMain(m *testing.M) {
	// Who has met damage never returns to raft, which would panic; see sealedStore.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/deveronica/cvlab/cluster.(*sealedStore).guard.func1"))
}

// quick are timers that let a story of minutes pass in seconds, and are still calm beside a busy test machine.
func quick() Tuning {
	return Tuning{
		Heartbeat: 400 * time.Millisecond, Lease: 300 * time.Millisecond, Commit: 20 * time.Millisecond, RPC: time.Second,
		Balance: 50 * time.Millisecond, VoterSteady: 200 * time.Millisecond, VoterAway: 30 * time.Second, Rejoin: 300 * time.Millisecond,
		Gossip: GossipTuning{
			Probe: 200 * time.Millisecond, Interval: 20 * time.Millisecond, PushPull: 500 * time.Millisecond, ForgetDead: 30 * time.Second,
		},
	}
}

// machine is one test machine: a data directory, and a mesh and a seat while it is switched on.
type machine struct {
	t      *testing.T
	name   string
	dir    string
	disk   *faultyStore // of the present or last seat
	tuning Tuning
	addr   string // mesh
	gossip string

	id    *mesh.Identity
	mesh  *mesh.Mesh
	seat  *Seat
	off   context.CancelFunc
	group *sync.WaitGroup
	watch sync.WaitGroup
	err   error // of Run, after group.Wait
}

func newMachine(t *testing.T, name string) *machine {
	m := &machine{t: t, name: name, dir: t.TempDir(), tuning: quick(), addr: "127.0.0.1:0", gossip: "127.0.0.1:0"}
	t.Cleanup(func() { m.stop(); m.watch.Wait() })
	return m
}

func (m *machine) options() Options {
	return Options{
		Dir: m.dir, Identity: m.id, Mesh: m.mesh, GossipAddr: m.gossip,
		Self:   func() fsm.Node { return fsm.Node{Name: m.name, Version: "test"} },
		Logger: testLog(m.t, m.name), Tuning: m.tuning, Disk: DiskLimits{Reserve: 1 << 20, Floor: 1 << 20},
		DiskOf: func(payload []byte) DiskState { return DiskState(payload) },
		Health: func() []byte { return []byte(m.seat.Disk()) },
		store:  func(inner logStore) logStore { m.disk = newFaultyStore(inner); return m.disk },
	}
}

func testLog(t *testing.T, name string) *slog.Logger {
	level := slog.LevelInfo
	if os.Getenv("CVLAB_TEST_DEBUG") != "" {
		level = slog.LevelDebug
	}
	w := &testWriter{out: t.Output()}
	t.Cleanup(w.end)
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})).With("machine", name)
}

// testWriter falls silent with its test: memberlist's last probe may end after its Shutdown has returned.
type testWriter struct {
	mu  sync.Mutex
	out io.Writer
}

func (w *testWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.out == nil {
		return len(b), nil
	}
	return w.out.Write(b)
}

func (w *testWriter) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out = nil
}

// start switches the machine on and fails the test if the seat does not open.
func (m *machine) start(set func(*Options)) *Seat {
	m.t.Helper()
	if err := m.tryStart(set); err != nil {
		m.t.Fatalf("start %s: %v", m.name, err)
	}
	return m.seat
}

func (m *machine) tryStart(set func(*Options)) error {
	if err := m.open(set); err != nil {
		return err
	}
	m.run()
	return nil
}

func (m *machine) open(set func(*Options)) error {
	var err error
	if m.id, _, err = mesh.LoadOrCreateIdentity(filepath.Join(m.dir, "identity.pem")); err != nil {
		return err
	}
	roster := NewRoster()
	m.mesh, err = mesh.Listen(mesh.Options{Addr: m.addr, Identity: m.id, Logger: testLog(m.t, m.name), Membership: roster})
	if err != nil {
		return err
	}
	m.addr = m.mesh.Addr().String()
	o := m.options()
	o.Roster = roster
	set(&o)
	ctx, cancel := context.WithTimeout(m.t.Context(), 20*time.Second)
	defer cancel()
	if m.seat, err = Open(ctx, o); err != nil {
		return errors.Join(err, m.mesh.Close())
	}
	m.gossip = m.seat.gossip.addr
	return nil
}

func (m *machine) run() {
	ctx, cancel := context.WithCancel(context.Background())
	meshCtx, meshCancel := context.WithCancel(context.Background())
	m.off, m.group = cancel, &sync.WaitGroup{}
	seat, wire := m.seat, m.mesh
	m.group.Go(func() {
		defer meshCancel()
		m.err = seat.Run(ctx)
	})
	m.group.Go(func() {
		if err := wire.Run(meshCtx); err != nil {
			m.t.Errorf("mesh of %s: %v", m.name, err)
		}
	})
}

// stop is SIGTERM; it returns what Run returned.
func (m *machine) stop() error {
	if m.group == nil {
		return nil
	}
	m.off()
	m.group.Wait()
	m.group = nil
	return m.err
}

// kill is as near to kill -9 as one process allows: port and connections are gone at once, and nothing is handed over.
func (m *machine) kill() {
	m.t.Helper()
	m.mesh.Close()
	_ = m.seat.raft.Shutdown() // so that the dying leader does not go on in its own world
	m.stop()
}

func found(name string) func(*Options) {
	return func(o *Options) { o.Found = &Founding{Name: name} }
}

func joining(peer string, token mesh.JoinToken) func(*Options) {
	return func(o *Options) { o.Join = &Joining{Peer: peer, Token: token} }
}

func again(*Options) {}

// lab starts n machines; the first founds.
func lab(t *testing.T, n int) []*machine {
	t.Helper()
	return tunedLab(t, n, func(*Tuning) {})
}

func tunedLab(t *testing.T, n int, tune func(*Tuning)) []*machine {
	t.Helper()
	var all []*machine
	for i := range n {
		m := newMachine(t, fmt.Sprintf("m%d", i))
		tune(&m.tuning)
		all = append(all, m)
	}
	all[0].start(found("lab"))
	token := newToken(t, all[0], n)
	for _, m := range all[1:] {
		m.start(joining(all[0].addr, token))
	}
	return all
}

func newToken(t *testing.T, m *machine, uses int) mesh.JoinToken {
	t.Helper()
	token, _, err := m.seat.CreateJoinToken(t.Context(), "ana", uses, time.Hour)
	if err != nil {
		t.Fatalf("create join token: %v", err)
	}
	return token
}

// eventually waits for a condition, woken by nothing but its own impatience.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func waitVoters(t *testing.T, m *machine, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("there are %d voters", n), func() bool { return len(voters(m.seat.raft.servers())) == n })
}

func leaderOf(t *testing.T, all []*machine) (leader *machine, others []*machine) {
	t.Helper()
	eventually(t, "one leads", func() bool {
		leader, others = nil, nil
		for _, m := range all {
			if m.seat.IsLeader() {
				leader = m
			} else {
				others = append(others, m)
			}
		}
		return leader != nil && len(others) == len(all)-1
	})
	return leader, others
}

// submit proposes one experiment under a key and gives its number.
func submit(t *testing.T, m *machine, key string) uint64 {
	t.Helper()
	r, err := m.seat.Propose(t.Context(), submission(key))
	if err != nil {
		t.Fatalf("propose on %s: %v", m.name, err)
	}
	if r.Refused() || len(r.Experiments) != 1 {
		t.Fatalf("propose on %s: %+v", m.name, r)
	}
	return r.Experiments[0]
}

func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
