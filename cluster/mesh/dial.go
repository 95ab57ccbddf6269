package mesh

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// Dial connects to a node and asks for a protocol; ctx bounds the call only, and 5 s at most are spent. It fails with
// *WrongPeerError when another key answers, with *RefusedError when the peer says no, with ErrPeerNotMember, without
// dialling, when IsMember does not know the node and the protocol is not open here, and with an error that wraps
// syscall.ECONNREFUSED when the machine is there but no mesh listens.
func (m *Mesh) Dial(ctx context.Context, nodeID, addr, protocol string) (net.Conn, error) {
	if nodeID == "" {
		return nil, errors.New("dial node: its ID is empty")
	}
	c, err := m.dial(ctx, target{id: nodeID, addr: addr, protocol: protocol})
	if err != nil {
		return nil, err // a nil *Conn must not become a non-nil net.Conn
	}
	return c, nil
}

// DialUnknown is like Dial when the ID behind addr is not known yet, as in a join. It learns PeerID and does not judge
// it: until the caller has (see Prove), the peer may be anybody.
func (m *Mesh) DialUnknown(ctx context.Context, addr, protocol string) (*Conn, error) {
	return m.dial(ctx, target{addr: addr, protocol: protocol})
}

// target is what is dialled; id is "" when it is to be learned.
type target struct {
	id, addr, protocol string
}

func (t target) String() string {
	if t.id == "" {
		return t.addr
	}
	return "node " + t.id + " at " + t.addr
}

func (m *Mesh) dial(ctx context.Context, t target) (*Conn, error) {
	if len(t.protocol) > nameLimit {
		return nil, fmt.Errorf("dial %s: protocol name of more than %d bytes", t, nameLimit)
	}
	if err := m.mayDial(t); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, m.limit)
	defer cancel()
	dialer := net.Dialer{}
	raw, err := dialer.DialContext(ctx, "tcp", t.addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", t, err)
	}
	if !m.conns.begin(raw) {
		raw.Close()
		return nil, fmt.Errorf("dial %s: %w", t, net.ErrClosed)
	}
	defer m.conns.end(raw)
	stop := context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })
	c, err := m.introduce(ctx, raw, t)
	if !stop() && err == nil {
		err = context.Cause(ctx) // the deadline in the past may strike after success
	}
	if err == nil {
		return c, nil
	}
	if c != nil {
		m.conns.remove(c)
	}
	raw.Close()
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		err = fmt.Errorf("the peer did not complete the handshake: %w", context.Cause(ctx))
	}
	return nil, sentence(t, err)
}

// sentence adds who was dialled to errors that do not say it themselves.
func sentence(t target, err error) error {
	if _, ok := errors.AsType[*WrongPeerError](err); ok {
		return err
	}
	if _, ok := errors.AsType[*RefusedError](err); ok {
		return err
	}
	return fmt.Errorf("dial %s: %w", t, err)
}

// introduce does handshake and hello on raw. The connection is returned with an error too, once it is registered.
func (m *Mesh) introduce(ctx context.Context, raw net.Conn, t target) (*Conn, error) {
	keepAlive(raw)
	channel := tls.Client(raw, m.tlsConfig(func(id string) error {
		if t.id != "" && id != t.id {
			return &WrongPeerError{Want: t.id, Got: id, Addr: t.addr}
		}
		return nil
	}))
	if err := channel.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("tls handshake: %w", err)
	}
	c := m.newConn(raw, channel)
	c.protocol = t.protocol
	if !m.conns.add(c) {
		return nil, net.ErrClosed
	}
	if err := m.mayDial(t); err != nil {
		return c, err // revoked meanwhile
	}
	return c, m.sayHello(c, t)
}

func (m *Mesh) sayHello(c *Conn, t target) error {
	cluster, epoch := m.options.Membership.Cluster()
	if err := WriteFrame(c, hello{Cluster: cluster, Epoch: epoch, Protocol: t.protocol}); err != nil {
		return err
	}
	var a answer
	if err := ReadFrame(c, helloLimit, &a); err != nil {
		return fmt.Errorf("wait for the peer's answer: %w", err)
	}
	c.peer = belonging{a.Cluster, a.Epoch}
	refused := &RefusedError{Peer: c.peerID, Addr: t.addr, Protocol: t.protocol,
		PeerCluster: a.Cluster, PeerEpoch: a.Epoch, OwnCluster: cluster, OwnEpoch: epoch}
	if !a.OK {
		refused.Err = errorOfCode(a.Code)
		return refused
	}
	// The peer judged us; judge it by the same rules. Whoever is not known yet is asked like a stranger.
	stranger := t.id == "" || m.isOpen(t.protocol)
	if r := (belonging{cluster, epoch}).judge(hello{Cluster: a.Cluster, Epoch: a.Epoch}, stranger, true); r != nil {
		refused.Err = errorOfCode(r.code)
		return refused
	}
	return nil
}

// mayDial holds this node to its own list of members: a revoked node must not be fed by us either.
func (m *Mesh) mayDial(t target) error {
	if t.id == "" || m.isOpen(t.protocol) || m.options.Membership.IsMember(t.id) {
		return nil
	}
	return fmt.Errorf("dial %s: %w", t, ErrPeerNotMember)
}
