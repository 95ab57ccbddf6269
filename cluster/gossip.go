package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// maxMeta is well under memberlist's 512 bytes, beyond which it panics.
const maxMeta = 300

// meta is what every node gossips about itself all the time.
type meta struct {
	Mesh    string `json:"m"`
	Version string `json:"v,omitempty"`
	Epoch   uint64 `json:"e"`
}

// gossip is this node's memberlist with what goes in and out of it.
type gossip struct {
	log       *slog.Logger
	bound     net.Addr
	addr      string // host:port others reach it under
	transport *memberlist.NetTransport
	list      *memberlist.Memberlist
	queue     *memberlist.TransmitLimitedQueue
	health    *healthTable
	in        chan []byte
	twins     *twins

	mu      sync.Mutex
	members map[string]gossipMember
	changed chan struct{}
	meta    []byte
	removed func(node string) bool
	dropped int
}

// gossipMember is what gossip said last about one node.
type gossipMember struct {
	node  memberlist.Node
	meta  meta
	alive bool
	since time.Time
}

// bindGossip takes the port, TCP and UDP, before anything else is known, so that the node can say where it is.
func bindGossip(o Options, log *slog.Logger) (*gossip, error) {
	host, portText, err := net.SplitHostPort(o.GossipAddr)
	if err != nil {
		return nil, fmt.Errorf("gossip address %q: %w", o.GossipAddr, err)
	}
	ip, err := resolveIP(host)
	if err != nil {
		return nil, fmt.Errorf("gossip address %q: %w", o.GossipAddr, err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return nil, fmt.Errorf("gossip address %q: %w", o.GossipAddr, err)
	}
	log = log.With("part", "gossip")
	config := &memberlist.NetTransportConfig{BindAddrs: []string{ip.String()}, BindPort: port, Logger: newGossipLog(log)}
	var transport *memberlist.NetTransport
	// A port that is free for TCP may be taken for UDP; with port 0 another try gets another port.
	for try := 0; ; try++ {
		if transport, err = memberlist.NewNetTransport(config); err == nil {
			break
		}
		if port != 0 || try == 9 {
			return nil, fmt.Errorf("listen for gossip on %s: %w", o.GossipAddr, err)
		}
	}
	return &gossip{
		log: log, transport: transport, bound: &net.TCPAddr{IP: ip, Port: transport.GetAutoBindPort()},
		twins: newTwins(), health: newHealthTable(), in: make(chan []byte, 1024), members: map[string]gossipMember{}, changed: make(chan struct{}),
	}, nil
}

func resolveIP(host string) (net.IP, error) {
	if host == "" {
		return net.IPv4zero, nil
	}
	a, err := net.ResolveIPAddr("ip", host)
	if err != nil {
		return nil, err
	}
	return a.IP, nil
}

// openGossip makes the memberlist. Its goroutines run from here on.
func (s *Seat) openGossip() error {
	g, f := s.gossip, s.file.get()
	var err error
	g.removed = func(id string) bool {
		n := s.replica.state.View().Node(id)
		return n != nil && n.Removed
	}
	if g.meta, err = json.Marshal(meta{Mesh: s.mesh, Version: s.o.Self().Version, Epoch: f.Epoch}); err != nil {
		return fmt.Errorf("open gossip: %w", err)
	}
	if len(g.meta) > maxMeta {
		return fmt.Errorf("open gossip: this node's description has %d bytes, at most %d: shorten its version or address", len(g.meta), maxMeta)
	}
	host, portText, err := net.SplitHostPort(g.addr)
	if err != nil {
		return fmt.Errorf("open gossip: %w", err)
	}
	ip, err := resolveIP(host)
	if err != nil {
		return fmt.Errorf("open gossip: advertised address: %w", err)
	}
	config := gossipConfig(s.o.Tuning.Gossip, f)
	config.Name = s.id // never the host name: cloned images collide
	config.AdvertiseAddr = ip.String()
	if config.AdvertisePort, err = strconv.Atoi(portText); err != nil {
		return fmt.Errorf("open gossip: %w", err)
	}
	if config.Keyring, err = memberlist.NewKeyring(f.GossipKeys, f.GossipKeys[0]); err != nil {
		return fmt.Errorf("open gossip: %w", err)
	}
	config.Transport, config.Logger = g.transport, newGossipLog(g.log)
	config.Delegate, config.Events, config.Conflict, config.Alive = g, g, g, g
	g.queue = &memberlist.TransmitLimitedQueue{NumNodes: g.count, RetransmitMult: config.RetransmitMult}
	if g.list, err = memberlist.Create(config); err != nil {
		return fmt.Errorf("open gossip: %w", err)
	}
	return nil
}

func gossipConfig(t GossipTuning, f clusterFile) *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.Label = f.ID // an address that another cluster took over does not merge the two
	c.GossipVerifyIncoming, c.GossipVerifyOutgoing = true, true
	c.RequireNodeNames = true
	// The default refuses a node that comes back under a new address until it is forgotten. 2 s after its death is enough: a
	// name here is the hash of a key, so only a copied data directory could claim another's, and the mesh asks for the key.
	c.DeadNodeReclaimTime = 2 * time.Second
	c.GossipToTheDeadTime = t.ForgetDead
	c.ProbeInterval, c.GossipInterval, c.PushPullInterval = t.Probe, t.Interval, t.PushPull
	c.ProbeTimeout = min(c.ProbeTimeout, t.Probe/2)
	c.TCPTimeout = 5 * time.Second
	c.UDPBufferSize = 1200 // fits a WireGuard or VPN path without fragments
	c.EnableCompression = false
	c.HandoffQueueDepth = 4096
	return c
}

// run works on what memberlist handed over; memberlist's own goroutines must never wait for us.
func (g *gossip) run(ctx context.Context) error {
	for {
		select {
		case b := <-g.in:
			if err := g.take(b, time.Now()); err != nil {
				g.log.Debug("gossip message", "error", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (g *gossip) take(b []byte, now time.Time) error {
	if len(b) > 0 && b[0] == kindBatch {
		all, err := decodeBatch(b, now)
		for _, h := range all {
			g.health.hear(h)
		}
		return err
	}
	r, err := decodeReport(b)
	if err != nil {
		return err
	}
	g.health.hear(heard{r, now})
	return nil
}

// meshOf gives the address of a node's mesh, "" if gossip never heard of it.
func (g *gossip) meshOf(node string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.members[node].meta.Mesh
}

func (g *gossip) member(node string) (gossipMember, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m, ok := g.members[node]
	return m, ok
}

func (g *gossip) news() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changed
}

// close says good-bye, so that the others need not suspect first, and stops. It changes no membership of the cluster.
func (g *gossip) close() error {
	if g.list == nil {
		return g.closeUnused()
	}
	if err := g.list.Leave(500 * time.Millisecond); err != nil {
		g.log.Debug("say good-bye", "error", err)
	}
	if err := g.list.Shutdown(); err != nil {
		return fmt.Errorf("close gossip: %w", err)
	}
	return nil
}

// closeUnused closes the transport where there is no memberlist, as after a join that was refused. The transport waits for
// its listeners, and those for somebody who takes what they have heard: others may still speak to this address, for it
// was the one of this machine before it was wiped.
func (g *gossip) closeUnused() error {
	closed := make(chan struct{})
	var drain sync.WaitGroup
	drain.Go(func() {
		for {
			select {
			case <-g.transport.PacketCh():
			case conn := <-g.transport.StreamCh():
				conn.Close()
			case <-closed:
				return
			}
		}
	})
	err := g.transport.Shutdown()
	close(closed)
	drain.Wait()
	if err != nil {
		return fmt.Errorf("close gossip: %w", err)
	}
	return nil
}

// join exchanges everything with the node at an address.
func (g *gossip) join(p peer) error {
	_, err := g.list.Join([]string{p.ID + "/" + p.Gossip})
	return err
}

var errTooLarge = errors.New("health payload is too large")
