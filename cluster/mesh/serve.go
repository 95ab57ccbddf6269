package mesh

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"
)

// serve takes one incoming connection through handshake and hello to the listener of its protocol, or closes it.
func (m *Mesh) serve(ctx context.Context, raw net.Conn) {
	if !m.conns.begin(raw) {
		raw.Close()
		return
	}
	defer m.conns.end(raw)
	keepAlive(raw)
	raw.SetDeadline(time.Now().Add(m.limit))
	channel := tls.Server(raw, m.server)
	if err := channel.HandshakeContext(ctx); err != nil {
		m.log.DebugContext(ctx, "closed a connection without a handshake", "from", raw.RemoteAddr(), "error", err)
		raw.Close()
		return
	}
	if err := m.welcome(ctx, m.newConn(raw, channel)); err != nil {
		m.log.DebugContext(ctx, "closed a connection without a hello", "from", raw.RemoteAddr(), "error", err)
		raw.Close()
	}
}

// newConn wraps a channel whose handshake has succeeded, so that the peer has proven the key it showed.
func (m *Mesh) newConn(raw net.Conn, channel *tls.Conn) *Conn {
	id := FingerprintID(channel.ConnectionState().PeerCertificates[0])
	return &Conn{Conn: channel, tls: channel, raw: raw, set: m.conns, peerID: id}
}

// welcome reads the hello, answers it and hands the connection over. An error means that the peer is not worth a close
// by the rules.
func (m *Mesh) welcome(ctx context.Context, c *Conn) error {
	var h hello
	if err := ReadFrame(c, helloLimit, &h); err != nil {
		return err
	}
	if len(h.Protocol) > nameLimit || len(h.Cluster) > nameLimit {
		return fmt.Errorf("read hello: name of more than %d bytes", nameLimit)
	}
	c.protocol, c.peer = h.Protocol, belonging{h.Cluster, h.Epoch}
	if !m.conns.add(c) {
		return net.ErrClosed
	}
	cluster, epoch := m.options.Membership.Cluster()
	place, refused := m.decide(c, belonging{cluster, epoch}, h)
	if refused != nil {
		m.log.InfoContext(ctx, "refused a connection", "from", c.RemoteAddr(), "node", c.peerID, "protocol", h.Protocol,
			"code", refused.code, "reason", refused.text)
		err := WriteFrame(c, refused.answer(cluster, epoch))
		c.Close()
		return err
	}
	if err := WriteFrame(c, refused.answer(cluster, epoch)); err != nil {
		place.release()
		m.conns.remove(c)
		return err
	}
	c.raw.SetDeadline(time.Time{})
	if !place.push(c) {
		place.release()
		m.conns.remove(c)
		return net.ErrClosed
	}
	return nil
}

// decide returns the listener with a place reserved in it, or why not.
func (m *Mesh) decide(c *Conn, own belonging, h hello) (*queue, *refusal) {
	if refused := own.judge(h, m.isOpen(h.Protocol), m.options.Membership.IsMember(c.peerID)); refused != nil {
		return nil, refused
	}
	q := m.serving(h.Protocol)
	if q == nil {
		return nil, &refusal{codeUnknownProtocol, "nobody serves this protocol here"}
	}
	if !q.reserve() {
		return nil, &refusal{codeBusy, fmt.Sprintf("%d connections wait already", queueLength)}
	}
	return q, nil
}

// keepAlive finds a peer that vanished without a word in about half a minute. Nagle's delay is off in Go by default.
func keepAlive(raw net.Conn) {
	if tcp, ok := raw.(*net.TCPConn); ok {
		tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3})
	}
}
