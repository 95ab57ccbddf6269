package node

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/deveronica/cvlab/cluster"
	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/node/worker"
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
	keepers map[string]keeper // of the nodes that are served, by ID
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
		state: seat.State(), machines: &machines{seat: seat, peers: p, keeper: m.keepers[seat.id], logger: quiet()},
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
