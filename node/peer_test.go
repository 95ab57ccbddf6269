package node

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deveronica/cvlab/cluster"
	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/node/worker"
	"github.com/deveronica/cvlab/ui/api"
)

// network is the mesh in memory: who is dialled gets one end of a pipe that knows who dialled.
type network struct {
	mu    sync.Mutex
	ports map[string]*handoff
	dials int
	cut   map[[2]string]bool // who cannot dial whom, and does not notice
}

func (n *network) listen(id string) *handoff {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ports[id] = newHandoff(&net.UnixAddr{Name: id})
	return n.ports[id]
}

// lostDial is how long a connection is tried that nobody answers.
const lostDial = 10 * time.Second

// from is how a node dials others.
func (n *network) from(self string) peerDialer {
	return func(ctx context.Context, id string) (net.Conn, error) {
		n.mu.Lock()
		n.dials++
		port, cut := n.ports[id], n.cut[[2]string{self, id}]
		n.mu.Unlock()
		if cut {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(lostDial):
				return nil, errors.New("no answer")
			}
		}
		if port == nil {
			return nil, errors.New("no such node")
		}
		near, far := net.Pipe()
		port.give(&named{far, self})
		return near, nil
	}
}

func (n *network) dialled() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials
}

type named struct {
	net.Conn
	who string
}

func whoOf(c net.Conn) string {
	if n, ok := c.(*named); ok {
		return n.who
	}
	return ""
}

// lights is what a node knows of who leads, with what the nodes said of themselves.
type lights struct {
	*facts
	id      string
	mu      sync.Mutex
	leader  string
	changed chan struct{}
	heard   []cluster.Health
}

func newLights(f *facts, id, leader string) *lights {
	return &lights{facts: f, id: id, leader: leader, changed: make(chan struct{})}
}

func (l *lights) ID() string               { return l.id }
func (l *lights) State() *fsm.State        { return l.facts.State }
func (l *lights) Health() []cluster.Health { return l.heard }

func (l *lights) Leader() (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leader, l.leader != ""
}

func (l *lights) LeaderChanged() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

func (l *lights) elect(id string) {
	l.mu.Lock()
	l.leader = id
	close(l.changed)
	l.changed = make(chan struct{})
	l.mu.Unlock()
	synctest.Wait()
}

// mesh is a network with nodes that answer, in fake time.
type meshLab struct {
	t       *testing.T
	ctx     context.Context
	net     *network
	running sync.WaitGroup
	peers   []*peers
}

func onMesh(t *testing.T, do func(t *testing.T, m *meshLab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		m := &meshLab{t: t, ctx: ctx, net: &network{ports: map[string]*handoff{}}}
		defer m.running.Wait()
		defer func() {
			for _, p := range m.peers {
				p.close()
			}
		}()
		defer cancel()
		do(t, m)
	})
}

func (m *meshLab) peer(id string) *peers {
	p := newPeers(m.net.from(id), quiet())
	m.peers = append(m.peers, p)
	return p
}

// serve lets a node answer the others.
func (m *meshLab) serve(seat *lights, path func(string) string) { m.serveWith(seat, path, nil, nil) }

// serveWith is serve with a ruler over leases and the other members.
func (m *meshLab) serveWith(seat *lights, path func(string) string, rules ruler, others func() []string) *renewals {
	p := m.peer(seat.id)
	renew := &renewals{seat: seat, peers: p, leader: rules, others: others}
	s := &peerServer{
		state: seat.State(), machines: &machines{seat: seat, peers: p, logger: quiet()},
		logs: &logs{self: seat.id, state: seat.State(), peers: p, path: path}, renewals: renew, who: whoOf, logger: quiet(),
	}
	l := m.net.listen(seat.id)
	m.running.Go(func() {
		if err := s.Run(m.ctx, l); err != nil {
			m.t.Errorf("%s ended with: %v", seat.id, err)
		}
	})
	synctest.Wait()
	return renew
}

// follow reads a node's orders.
func (m *meshLab) follow(seat *lights) <-chan worker.Order {
	orders := make(chan worker.Order, 100)
	p := m.peer(seat.id)
	m.running.Go(func() {
		if err := p.followOrders(m.ctx, seat, orders); !errors.Is(err, context.Canceled) {
			m.t.Errorf("ended with: %v", err)
		}
	})
	synctest.Wait()
	return orders
}

// got gives the orders that have come by now, as words.
func got(orders <-chan worker.Order) []string {
	synctest.Wait()
	var words []string
	for {
		select {
		case o := <-orders:
			word := string(o.Attempt.State) + " " + o.Attempt.Token.String()
			if o.Experiment.Cancelling {
				word += " cancel"
			}
			if len(o.Spec.Command) == 0 {
				word += " without a spec"
			}
			words = append(words, word)
		default:
			return words
		}
	}
}

func want(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestOrdersComeByTheStream(t *testing.T) {
	onMesh(t, func(t *testing.T, m *meshLab) {
		f := newFacts(t)
		first := f.assign(nodeB)
		m.serve(newLights(f, nodeA, nodeA), nil)
		orders := m.follow(newLights(newFacts(t), nodeB, nodeA)) // whose own replica knows nothing of it
		want(t, "what was assigned before", got(orders), "assigned "+first.Token.String())
		second := f.assign(nodeB, "GPU-b0")
		f.assign(nodeA)
		want(t, "what is assigned now", got(orders), "assigned "+second.Token.String())
		f.start(first)
		<-time.After(time.Minute)
		want(t, "a quiet minute", got(orders))
		if m.net.dialled() != 1 {
			t.Errorf("a quiet stream was opened %d times", m.net.dialled())
		}
		f.must(&fsm.Cancel{Experiments: []uint64{first.Experiment}})
		want(t, "a cancel", got(orders), "started "+first.Token.String()+" cancel")
	})
}

func TestOrdersGoOnUnderAnotherLeader(t *testing.T) {
	onMesh(t, func(t *testing.T, m *meshLab) {
		onA, onB := newFacts(t), newFacts(t)
		m.serve(newLights(onA, nodeA, nodeA), nil)
		m.serve(newLights(onB, nodeB, nodeB), nil)
		seat := newLights(newFacts(t), nodeC, "")
		orders := m.follow(seat)
		if m.net.dialled() != 0 {
			t.Error("dialled although nobody leads")
		}
		for _, f := range []*facts{onA, onB} {
			f.must(&fsm.Admit{Access: "j", Node: machine(nodeC, "c")})
		}
		seat.elect(nodeA)
		a := onA.assign(nodeC)
		want(t, "by the first leader", got(orders), "assigned "+a.Token.String())
		seat.elect(nodeB)
		onA.assign(nodeC)
		b := onB.assign(nodeC)
		want(t, "by the second leader", got(orders), "assigned "+b.Token.String())
		seat.elect(nodeC)
		dialled := m.net.dialled()
		<-time.After(time.Minute)
		if m.net.dialled() != dialled {
			t.Error("a leader asked others for its orders")
		}
	})
}

// mute accepts, answers a header if it is asked to, and then says nothing.
func (m *meshLab) mute(id string, header bool) {
	l := m.net.listen(id)
	m.running.Go(func() {
		<-m.ctx.Done()
		l.Close()
	})
	m.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			m.running.Go(func() {
				defer c.Close()
				r := bufio.NewReader(c)
				if _, err := http.ReadRequest(r); err != nil {
					return
				}
				if header {
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
				}
				_, _ = io.Copy(io.Discard, r) // until the other one gives up
			})
		}
	})
}

func TestSilentStreamIsOpenedAgain(t *testing.T) {
	for name, header := range map[string]bool{"silent after the header": true, "silent from the first": false} {
		t.Run(name, func(t *testing.T) {
			onMesh(t, func(t *testing.T, m *meshLab) {
				m.mute(nodeA, header)
				seat := newLights(newFacts(t), nodeB, nodeA)
				orders := m.follow(seat)
				<-time.After(3*orderKeepAlive - time.Millisecond)
				synctest.Wait()
				if m.net.dialled() != 1 {
					t.Errorf("dialled %d times", m.net.dialled())
				}
				<-time.After(200 * time.Millisecond)
				synctest.Wait()
				if m.net.dialled() != 2 {
					t.Errorf("dialled %d times after the silence", m.net.dialled())
				}
				f := newFacts(t)
				m.serve(newLights(f, nodeC, nodeC), nil)
				a := f.assign(nodeB)
				seat.elect(nodeC) // does not wait for the silent one
				want(t, "from the new leader", got(orders), "assigned "+a.Token.String())
			})
		})
	}
	t.Run("a leader that is gone is asked ten times a second at most", func(t *testing.T) {
		onMesh(t, func(t *testing.T, m *meshLab) {
			m.follow(newLights(newFacts(t), nodeB, nodeA))
			<-time.After(10*time.Second + time.Millisecond)
			if n := m.net.dialled(); n < 50 || n > 101 {
				t.Errorf("dialled %d times in ten seconds", n)
			}
		})
	})
}

func TestNewOrders(t *testing.T) {
	f := newFacts(t)
	sent := map[fsm.Token]bool{}
	words := func() []string {
		c := make(chan worker.Order, 10)
		for _, o := range newOrders(f.View(), nodeB, sent) {
			c <- o
		}
		close(c)
		var words []string
		for o := range c {
			word := string(o.Attempt.State)
			if o.Experiment.Cancelling {
				word += " cancel"
			}
			words = append(words, word)
		}
		return words
	}
	want(t, "nothing", words())
	a := f.assign(nodeB)
	want(t, "assigned", words(), "assigned")
	want(t, "sent once", words())
	f.start(a)
	want(t, "a start is the worker's own doing", words())
	f.must(&fsm.Cancel{Experiments: []uint64{a.Experiment}})
	want(t, "a cancel", words(), "started cancel")
	want(t, "sent once", words())
	f.must(&fsm.Finish{Token: a.Token, Node: nodeB, Class: fsm.ClassCancelled})
	want(t, "its end", words())
	if len(sent) != 0 {
		t.Errorf("remembers %v for ever", sent)
	}
	b := f.assign(nodeB)
	f.start(b)
	want(t, "started before the stream was opened", words())
	f.must(&fsm.Cancel{Experiments: []uint64{b.Experiment}})
	want(t, "and cancelled then", words(), "started cancel")
	f.assign(nodeA)
	want(t, "another node's", words())
}

func TestQuestionsGoToTheLeader(t *testing.T) {
	onMesh(t, func(t *testing.T, m *meshLab) {
		f := newFacts(t)
		id := f.must(&fsm.Submit{Spec: fsm.Spec{Project: "p", Command: []string{"x"}, Device: fsm.Device{Kind: fsm.DeviceGPU, Count: 1}}}).Experiments[0]
		payload, err := beacon{GPUs: []gpuBeacon{{Index: 0}, {Index: 1}}}.encode()
		if err != nil {
			t.Fatal(err)
		}
		leader := newLights(f, nodeA, nodeA)
		leader.heard = []cluster.Health{{Node: nodeA, Payload: payload}} // which only the leader has heard
		m.serve(leader, nil)
		seat := newLights(f, nodeB, nodeA)
		asked := &machines{seat: seat, peers: m.peer(nodeB), logger: quiet()}
		own := &machines{seat: leader, logger: quiet()}
		if devices, _ := asked.Devices(t.Context()); len(devices) != 2 || devices[0].State != "active" {
			t.Errorf("devices %+v", devices)
		}
		if got, want := asked.Reasons(t.Context(), []uint64{id}), own.localReasons([]uint64{id}); got[id] == "" || cmp.Diff(want, got) != "" {
			t.Errorf("reasons %v, the leader says %v", got, want)
		}
		if got, err := asked.Why(t.Context(), id); err != nil || cmp.Diff(own.localWhy(id), got) != "" || got.Status != fsm.Pending || len(got.Nodes) != 2 {
			t.Errorf("%v, %s", err, cmp.Diff(own.localWhy(id), got))
		}
		if asked.Reasons(t.Context(), nil) != nil {
			t.Error("asked for nothing, got something")
		}
		seat.elect("")
		if got := asked.Reasons(t.Context(), []uint64{id}); got[id] != noLeader {
			t.Errorf("without a leader: %v", got)
		}
		if got, err := asked.Why(t.Context(), id); err != nil || got.Sentence != noLeader {
			t.Errorf("without a leader: %+v, %v", got, err)
		}
		m.mute(nodeC, false)
		seat.elect(nodeC)
		began := time.Now()
		if devices, _ := asked.Devices(t.Context()); len(devices) != 2 || time.Since(began) != askLeader {
			t.Errorf("a silent leader: %d devices after %s", len(devices), time.Since(began))
		}
		for _, path := range []string{"/why?id=x", "/reasons?id=-1", "/log?token=x", "/log?token=1-1&from=x&max=1"} {
			u, q, _ := strings.Cut(path, "?")
			k, v, _ := strings.Cut(q, "=")
			if resp, err := asked.peers.get(t.Context(), nodeA, u, map[string][]string{k: {v}}); err == nil {
				resp.Body.Close()
				t.Errorf("%s was answered", path)
			}
		}
	})
}

func TestLogs(t *testing.T) {
	onMesh(t, func(t *testing.T, m *meshLab) {
		f := newFacts(t)
		dir := t.TempDir()
		path := func(token string) string { return filepath.Join(dir, token) }
		m.serve(newLights(f, nodeA, nodeA), path)
		near := &logs{self: nodeA, state: f.State, path: path}
		far := &logs{self: nodeB, state: f.State, peers: m.peer(nodeB), path: func(string) string { return "/nowhere" }}
		for name, l := range map[string]*logs{"on this machine": near, "on another one": far} {
			a := f.assign(nodeA)
			read := func(from int64, most int, wait bool) api.LogChunk {
				t.Helper()
				c, err := l.Read(t.Context(), api.LogRequest{Attempt: a, From: from, Max: most, Wait: wait})
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				return c
			}
			write := func(text string) {
				o, err := os.OpenFile(path(a.Token.String()), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
				if err == nil {
					_, err = o.WriteString(text)
				}
				if err := errors.Join(err, o.Close()); err != nil {
					t.Fatal(err)
				}
			}
			if c := read(0, 100, false); len(c.Data) > 0 || c.Ended {
				t.Errorf("%s: before it began: %+v", name, c)
			}
			began := time.Now()
			if c := read(0, 100, true); len(c.Data) > 0 || c.Ended || time.Since(began) != maxLogWait {
				t.Errorf("%s: waited %s for nothing: %+v", name, time.Since(began), c)
			}
			began = time.Now()
			time.AfterFunc(time.Second, func() { write("0123456789") })
			if c := read(0, 4, true); string(c.Data) != "0123" || c.Next != 4 || c.Size != 10 || time.Since(began) > time.Second+lookForOutput {
				t.Errorf("%s: after %s: %+v", name, time.Since(began), c)
			}
			if c := read(4, 100, false); string(c.Data) != "456789" || c.Next != 10 || c.From != 4 {
				t.Errorf("%s: the rest: %+v", name, c)
			}
			if c := read(-3, 100, false); string(c.Data) != "789" || c.From != 7 {
				t.Errorf("%s: the tail: %+v", name, c)
			}
			if c := read(-300, 100, false); string(c.Data) != "0123456789" || c.From != 0 {
				t.Errorf("%s: a tail longer than all: %+v", name, c)
			}
			if c := read(99, 100, false); len(c.Data) != 0 || c.Next != 99 {
				t.Errorf("%s: behind the end: %+v", name, c)
			}
			time.AfterFunc(time.Second, func() { f.must(&fsm.Finish{Token: a.Token, Node: nodeA, Class: fsm.ClassCompleted}) })
			began = time.Now()
			if c := read(10, 100, true); !c.Ended || time.Since(began) > time.Second+lookForOutput {
				t.Errorf("%s: its end was not told after %s: %+v", name, time.Since(began), c)
			}
			if err := os.Remove(path(a.Token.String())); err != nil {
				t.Fatal(err)
			}
			if _, err := l.Read(t.Context(), api.LogRequest{Attempt: a, From: 0, Max: 100}); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: deleted: %v", name, err)
			}
		}
		if _, err := near.peersOf(m).Read(t.Context(), api.LogRequest{Attempt: f.assign(nodeB), Max: 1}); err == nil || !strings.Contains(err.Error(), "on b, where it ran") {
			t.Errorf("a machine that is away: %v", err)
		}
	})
}

// peersOf gives the same logs with a way to other machines.
func (l *logs) peersOf(m *meshLab) *logs {
	c := *l
	c.peers = m.peer(l.self)
	return &c
}
