package mesh

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
)

// exportedKeyLength is the length of Conn.ExportKey, in bytes.
const exportedKeyLength = 32

// Conn is a connection to a peer that has proven its key. It is a stream like any net.Conn, with TLS's habit that a write
// which met its deadline has broken the connection for further writes.
type Conn struct {
	net.Conn // the TLS connection

	tls      *tls.Conn
	raw      net.Conn
	set      *connSet
	peerID   string
	peer     belonging
	protocol string
	once     sync.Once
}

// PeerID returns the node ID of the key on the other end.
func (c *Conn) PeerID() string { return c.peerID }

// Protocol returns the name that the dialler asked for.
func (c *Conn) Protocol() string { return c.protocol }

// PeerCluster returns the cluster and epoch the peer said it belongs to; "" is none. It is checked against this node's
// unless the protocol is open.
func (c *Conn) PeerCluster() (id string, epoch uint64) { return c.peer.cluster, c.peer.epoch }

// ExportKey returns 32 bytes that only the two ends of this very TLS channel can compute, the same on both for the same
// label. A machine in the middle has two channels and two different keys.
func (c *Conn) ExportKey(label string) ([]byte, error) {
	state := c.tls.ConnectionState()
	key, err := state.ExportKeyingMaterial("EXPORTER-cvlab-"+label, nil, exportedKeyLength)
	if err != nil {
		return nil, fmt.Errorf("export key of connection: %w", err)
	}
	return key, nil
}

// Close tells the peer that the stream has ended properly and closes the connection. Later calls do nothing.
func (c *Conn) Close() error {
	var err error
	c.once.Do(func() {
		c.set.remove(c)
		err = c.tls.Close()
	})
	if errors.Is(err, net.ErrClosed) {
		return nil // cut by CloseMember or the end of the mesh
	}
	return err
}

// PeerID returns the node ID on the other end of c, also when c wraps a mesh connection and has a NetConn or Unwrap
// method that says so. It returns "" when there is no mesh connection inside.
func PeerID(c net.Conn) string {
	for c != nil {
		switch inner := c.(type) {
		case *Conn:
			return inner.peerID
		case interface{ NetConn() net.Conn }:
			c = inner.NetConn()
		case interface{ Unwrap() net.Conn }:
			c = inner.Unwrap()
		default:
			return ""
		}
	}
	return ""
}

// connSet knows every open connection, so that the mesh can end them all and a member can be cut off.
type connSet struct {
	mu      sync.Mutex
	closed  bool
	young   map[net.Conn]struct{}         // handshake under way
	members map[string]map[*Conn]struct{} // by peer
}

func newConnSet() *connSet {
	return &connSet{young: map[net.Conn]struct{}{}, members: map[string]map[*Conn]struct{}{}}
}

// begin registers a connection whose handshake starts; false means that the mesh is closed.
func (s *connSet) begin(raw net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.young[raw] = struct{}{}
	}
	return !s.closed
}

// end forgets what begin registered; calling it again does no harm.
func (s *connSet) end(raw net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.young, raw)
}

// add registers c under its peer. Membership must be asked after add, never only before: a revocation between the two
// would miss c.
func (s *connSet) add(c *Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if s.members[c.peerID] == nil {
		s.members[c.peerID] = map[*Conn]struct{}{}
	}
	s.members[c.peerID][c] = struct{}{}
	return true
}

func (s *connSet) remove(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.members[c.peerID], c)
	if len(s.members[c.peerID]) == 0 {
		delete(s.members, c.peerID)
	}
}

// cutMember closes the connections of one peer below TLS: a goodbye could block on a peer that does not read.
func (s *connSet) cutMember(id string) (count int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.members[id] {
		c.raw.Close()
		count++
	}
	delete(s.members, id)
	return count
}

func (s *connSet) cutAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for raw := range s.young {
		raw.Close()
	}
	for _, conns := range s.members {
		for c := range conns {
			c.raw.Close()
		}
	}
	clear(s.young)
	clear(s.members)
}

func (s *connSet) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.young)
	for _, conns := range s.members {
		n += len(conns)
	}
	return n
}
