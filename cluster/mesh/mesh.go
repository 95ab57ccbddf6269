package mesh

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	alpn = "cvlab/1"
	// handshakeLimit is how long connect, TLS and hello may take together.
	handshakeLimit = 5 * time.Second
	// maxHandshakes is how many incoming handshakes run at once.
	maxHandshakes = 64
	// handshakePatience is how long an unfinished handshake may keep others waiting; see gate.
	handshakePatience = 500 * time.Millisecond
)

// Membership is what the mesh asks at every handshake. Both methods are called from many goroutines, must not block, and
// must say yes to the machines that admitted this node before this node's own replica has learned of them.
type Membership interface {
	// Cluster returns the cluster this node belongs to and its epoch; "" before it is in one.
	Cluster() (id string, epoch uint64)
	// IsMember reports whether the node with this ID may speak to this node now.
	IsMember(nodeID string) bool
}

// Options say what a mesh needs; all fields are required.
type Options struct {
	// Addr is the TCP address to listen on, such as ":8001"; port 0 takes a free one, see Mesh.Addr.
	Addr string
	// Identity is the key of this node.
	Identity *Identity
	// Logger receives refusals and overflows; junk on the port is logged at debug level only.
	Logger *slog.Logger
	// Membership decides who is let in.
	Membership Membership
}

func (o Options) validate() error {
	var errs []error
	if o.Addr == "" {
		errs = append(errs, errors.New("mesh options: Addr is empty"))
	}
	if o.Identity == nil {
		errs = append(errs, errors.New("mesh options: Identity is nil"))
	}
	if o.Logger == nil {
		errs = append(errs, errors.New("mesh options: Logger is nil"))
	}
	if o.Membership == nil {
		errs = append(errs, errors.New("mesh options: Membership is nil"))
	}
	return errors.Join(errs...)
}

// Mesh is one port and every connection that was made through it, in both directions. Make it with Listen, then register
// protocols with Accept and Open, then Run it. All methods are safe for concurrent use.
type Mesh struct {
	options  Options
	log      *slog.Logger
	listener net.Listener
	gate     *gate
	conns    *connSet
	server   *tls.Config   // one for all, or each connection would pay for its making
	limit    time.Duration // of a whole handshake; handshakeLimit outside tests

	mu     sync.Mutex
	queues map[string]*queue
	open   map[string]bool
	closed bool

	closing  sync.Once
	closeErr error
}

// Listen binds the port. Nobody is answered until Run.
func Listen(o Options) (*Mesh, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", o.Addr)
	if err != nil {
		return nil, fmt.Errorf("listen for other machines on %s: %w", o.Addr, err)
	}
	m := &Mesh{
		options:  o,
		log:      o.Logger.With("component", "mesh"),
		listener: listener,
		gate:     newGate(maxHandshakes, handshakePatience),
		conns:    newConnSet(),
		limit:    handshakeLimit,
		queues:   map[string]*queue{},
		open:     map[string]bool{},
	}
	m.server = m.tlsConfig(func(string) error { return nil }) // who it is decides what may follow, see welcome
	return m, nil
}

// Addr returns the address that was bound.
func (m *Mesh) Addr() net.Addr { return m.listener.Addr() }

// Accept returns the listener of one protocol; its connections are *Conn. Register before Run, since a protocol that
// nobody serves is refused. Asked again, it returns the same listener, or a new one if that was closed. Up to 64
// connections wait for a slow acceptor; more are told ErrBusy, and other protocols do not notice.
func (m *Mesh) Accept(protocol string) net.Listener {
	m.mu.Lock()
	defer m.mu.Unlock()
	q := m.queues[protocol]
	if q == nil || q.isClosed() && !m.closed {
		q = newQueue(m.listener.Addr())
		m.queues[protocol] = q
	}
	if m.closed {
		q.Close()
	}
	return q
}

// Open lets anybody speak protocol who proves any key at all. Its handler must take the peer for a stranger: check what
// it needs by itself, bound what it reads, set deadlines.
func (m *Mesh) Open(protocol string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open[protocol] = true
}

func (m *Mesh) isOpen(protocol string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.open[protocol]
}

// serving returns the live listener of protocol, or nil.
func (m *Mesh) serving(protocol string) *queue {
	m.mu.Lock()
	defer m.mu.Unlock()
	if q := m.queues[protocol]; q != nil && !q.isClosed() {
		return q
	}
	return nil
}

// Run answers the port until ctx ends or Close is called, then closes every connection, waits for every handshake and
// returns nil. An error means that the port broke.
func (m *Mesh) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		stop := context.AfterFunc(ctx, func() { m.Close() })
		defer stop()
		return m.acceptLoop(ctx, group)
	})
	err := group.Wait()
	return errors.Join(err, m.Close())
}

// acceptLoop never stops for a shortage of file descriptors: it waits a little longer each time.
func (m *Mesh) acceptLoop(ctx context.Context, group *errgroup.Group) error {
	const shortest, longest = 5 * time.Millisecond, time.Second
	pause := shortest
	for {
		raw, err := m.listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			m.log.WarnContext(ctx, "cannot take connections", "error", err, "retry_in", pause)
			select {
			case <-time.After(pause):
				pause = min(2*pause, longest)
				continue
			case <-ctx.Done():
				return nil
			}
		}
		pause = shortest
		if err := m.gate.enter(ctx, raw); err != nil {
			raw.Close()
			return nil
		}
		group.Go(func() error {
			defer m.gate.leave(raw)
			m.serve(ctx, raw)
			return nil
		})
	}
}

// Close stops listening and cuts every connection, for an owner that never came to Run; the end of Run does the same.
// It returns when all is cut; later calls return the same.
func (m *Mesh) Close() error {
	m.closing.Do(func() {
		m.mu.Lock()
		m.closed = true
		for _, q := range m.queues {
			q.Close()
		}
		m.mu.Unlock()
		if err := m.listener.Close(); err != nil {
			m.closeErr = fmt.Errorf("close mesh port: %w", err)
		}
		m.conns.cutAll()
	})
	return m.closeErr
}

// CloseMember cuts all open connections to and from a node. Revoke with IsMember first and call this second: then no
// connection slips through between the two.
func (m *Mesh) CloseMember(nodeID string) {
	if n := m.conns.cutMember(nodeID); n > 0 {
		m.log.Info("cut connections of node", "node", nodeID, "count", n)
	}
}

// tlsConfig is shared by both directions. Trust is in the key, so chains, names and dates are not looked at; verify sees
// the ID of the key before anything is sent to the peer.
func (m *Mesh) tlsConfig(verify func(id string) error) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{m.options.Identity.Certificate()},
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true,
		NextProtos:             []string{alpn},
		SessionTicketsDisabled: true, // a resumed session would skip the proof of the key
		VerifyConnection: func(state tls.ConnectionState) error {
			if state.NegotiatedProtocol != alpn {
				return errors.New("peer does not speak " + alpn)
			}
			if len(state.PeerCertificates) == 0 {
				return errors.New("peer shows no certificate")
			}
			return verify(FingerprintID(state.PeerCertificates[0]))
		},
	}
}
