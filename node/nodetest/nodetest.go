// Package nodetest runs whole nodes inside a test: real ports on loopback, real consensus and gossip, real job processes,
// pretended GPUs.
//
// Supervisors are processes, so the test binary must be able to be one:
//
//	func TestMain(m *testing.M) {
//		if nodetest.Supervise(os.Args[1:]) {
//			return
//		}
//		goleak.VerifyTestMain(m)
//	}
//
//	lab := nodetest.Start(t, 3)
//	id := lab.Nodes[2].Run("echo hello")      // submitted on the third machine
//	lab.Leader().Stop()                       // gracefully, as on SIGTERM
//	lab.Nodes[0].WaitStatus(id, fsm.Completed)
//
// A method that cannot do its work ends the test. Only tests import this package. Jobs outlive their node, as they should;
// a test that starts long ones must cancel them.
package nodetest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/deveronica/cvlab/executor/supervisor"
	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/node"
	"github.com/deveronica/cvlab/ui/api"
)

// Supervise is the test binary as a supervisor. It does that and returns true if the arguments ask for it.
func Supervise(args []string) bool {
	if len(args) == 0 || args[0] != "supervise" {
		return false
	}
	supervisor.Command(args[1:], os.Stderr)
	return true
}

// Patience is how long anything may take that should happen soon. A test machine may have little time for us.
const Patience = 60 * time.Second

// Lab is a cluster of nodes in this process.
type Lab struct {
	Nodes []*Node
	t     testing.TB
}

// Node is one machine of a Lab. It keeps its data directory when it is stopped and started again; its ports change.
type Node struct {
	t    testing.TB
	o    node.Options
	node *node.Node
	id   string

	end     context.CancelFunc // nil while it does not run
	running sync.WaitGroup
	err     error
}

// Start founds a cluster with n nodes, n at least 1, each with one pretended GPU and two CPU slots unless change says
// otherwise, and waits until as many vote as should. Everything is ended with the test.
func Start(t testing.TB, n int, change ...func(i int, o *node.Options)) *Lab {
	t.Helper()
	l := &Lab{t: t}
	for i := range n {
		o := node.Options{
			DataDir: filepath.Join(t.TempDir(), "data"), Name: fmt.Sprintf("m%d", i+1), ClusterName: "lab", Advertise: "127.0.0.1",
			HTTP: "127.0.0.1:0", Mesh: "127.0.0.1:0", Gossip: "127.0.0.1:0", SimulatedGPUs: 1, CPUSlots: 2,
			Supervisor: []string{"/proc/self/exe", "supervise"}, Version: "test",
			Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})).With("machine", i+1),
		}
		for _, c := range change {
			c(i, &o)
		}
		if i > 0 {
			w := l.Nodes[0].welcome()
			o.Join, o.JoinToken = w.Mesh, w.JoinToken
		}
		m := &Node{t: t, o: o}
		l.Nodes = append(l.Nodes, m)
		t.Cleanup(m.cleanup)
		m.Start()
	}
	l.waitVoters(min(5, n-(n+1)%2))
	return l
}

func (l *Lab) waitVoters(want int) {
	l.t.Helper()
	wait(l.t, fmt.Sprintf("%d voters", want), func(ctx context.Context) (string, bool) {
		s, err := l.Nodes[0].Client().Cluster(ctx)
		return fmt.Sprintf("%d, %v", s.Voters, err), err == nil && s.Voters == want && s.Leader != nil && len(s.Nodes) == len(l.Nodes)
	})
}

// Leader gives the node that leads, as a running node knows it, waiting until there is one.
func (l *Lab) Leader() *Node {
	l.t.Helper()
	var leader *Node
	wait(l.t, "a leader", func(ctx context.Context) (string, bool) {
		for _, asked := range l.Nodes {
			if asked.end == nil {
				continue
			}
			s, err := asked.Client().Cluster(ctx)
			if err != nil || s.Leader == nil {
				return fmt.Sprint(err), false
			}
			for _, m := range l.Nodes {
				if m.id == s.Leader.ID && m.end != nil {
					leader = m
				}
			}
			return s.Leader.Name, leader != nil
		}
		return "no node runs", false
	})
	return leader
}

// Other gives a node that runs and is not m.
func (l *Lab) Other(m *Node) *Node {
	l.t.Helper()
	for _, o := range l.Nodes {
		if o != m && o.end != nil {
			return o
		}
	}
	l.t.Fatal("no other node runs")
	return nil
}

// Start starts a node that does not run and waits until it knows a leader.
func (m *Node) Start() {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	n, err := node.New(ctx, m.o)
	if err != nil {
		m.t.Fatalf("start %s: %v", m.o.Name, err)
	}
	running, end := context.WithCancel(context.Background())
	m.node, m.end, m.err = n, end, nil
	m.running.Go(func() { m.err = n.Run(running) })
	r, err := node.ReadRunning(m.o.DataDir)
	if err != nil {
		m.t.Fatalf("start %s: %v", m.o.Name, err)
	}
	if m.id != "" && m.id != r.Node {
		m.t.Fatalf("%s came back as another node: %s, before %s", m.o.Name, r.Node, m.id)
	}
	m.id = r.Node
	m.welcome()
}

// Stop ends the node as SIGTERM would; its jobs go on.
func (m *Node) Stop() {
	m.t.Helper()
	if m.end == nil {
		m.t.Fatalf("%s does not run", m.o.Name)
	}
	m.cleanup()
}

func (m *Node) cleanup() {
	if m.end == nil {
		return
	}
	m.end()
	m.running.Wait()
	m.end = nil
	if m.err != nil {
		m.t.Errorf("%s ended with: %v", m.o.Name, m.err)
	}
}

func (m *Node) welcome() node.Welcome {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	w, err := m.node.Welcome(ctx)
	if err != nil {
		m.t.Fatalf("wait for a leader of %s: %v", m.o.Name, err)
	}
	return w
}

// ID is the node's identity.
func (m *Node) ID() string { return m.id }

// Name is the node's label.
func (m *Node) Name() string { return m.o.Name }

// DataDir is where the node keeps everything.
func (m *Node) DataDir() string { return m.o.DataDir }

// Client speaks to this node as a program of its own machine does.
func (m *Node) Client() *api.Client {
	m.t.Helper()
	token, err := node.ReadToken(m.o.DataDir)
	if err != nil {
		m.t.Fatal(err)
	}
	c, err := api.NewClient(api.ClientOptions{URL: m.node.URL(), Token: token, RetryFor: Patience})
	if err != nil {
		m.t.Fatal(err)
	}
	return c
}

// Run submits a shell command that wants one GPU, on this node, and gives the experiment's number.
func (m *Node) Run(script string) uint64 {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	one := 1
	added, err := m.Client().Add(ctx, api.AddRequest{Command: []string{"sh", "-c", script}, GPUs: &one})
	if err != nil || len(added.Experiments) != 1 {
		m.t.Fatalf("submit on %s: %d experiments, %v", m.o.Name, len(added.Experiments), err)
	}
	return added.Experiments[0].ID
}

// WaitStatus waits until this node knows an experiment in a status, and gives it.
func (m *Node) WaitStatus(id uint64, want fsm.Status) api.Detail {
	m.t.Helper()
	var d api.Detail
	wait(m.t, fmt.Sprintf("experiment %d to be %s", id, want), func(ctx context.Context) (string, bool) {
		var err error
		d, err = m.Client().Get(ctx, id)
		return fmt.Sprintf("%s on %q, %s%s, %v", d.Status, d.Node, d.Reason, d.Message, err), err == nil && d.Status == want
	})
	return d
}

// Output reads what an experiment has printed so far, through this node.
func (m *Node) Output(id uint64) string {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	r, err := m.Client().Logs(ctx, id, api.LogOptions{})
	if err != nil {
		m.t.Fatalf("read the output of %d on %s: %v", id, m.o.Name, err)
	}
	defer r.Close()
	var b strings.Builder
	if _, err := io.Copy(&b, r); err != nil {
		m.t.Fatalf("read the output of %d on %s: %v", id, m.o.Name, err)
	}
	return b.String()
}

// wait looks again and again until ok, and says what was there last when it was in vain.
func wait(t testing.TB, what string, look func(ctx context.Context) (now string, ok bool)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	for {
		now, ok := look(ctx)
		if ok {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waited %s in vain for %s; there is: %s", Patience, what, now)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
