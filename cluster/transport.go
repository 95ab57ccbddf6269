package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/deveronica/cvlab/cluster/mesh"
)

// protocolRaft is the mesh protocol of the replicas among themselves.
const protocolRaft = "raft"

// address is where raft finds a server: "<id>@host:port". Raft's messages do not say whom they are for, so whoever sits
// at an address would answer for the server that sat there before; with the ID in the address, the dial checks the key.
// It also makes two servers at one host:port, an old one and its re-imaged self, two addresses.
func address(id, hostport string) raft.ServerAddress { return raft.ServerAddress(id + "@" + hostport) }

func splitAddress(a raft.ServerAddress) (id, hostport string, err error) {
	id, hostport, ok := strings.Cut(string(a), "@")
	if !ok || id == "" || hostport == "" {
		return "", "", fmt.Errorf("address %q is not ID@HOST:PORT", a)
	}
	return id, hostport, nil
}

// wire is raft's stream layer: it dials members by ID over the mesh and accepts only members.
type wire struct {
	mesh *mesh.Mesh
	ln   net.Listener
	self raft.ServerAddress

	mu    sync.Mutex
	conns map[*wireConn]bool
	shut  bool
}

// wireConn is counted, so that closing the wire frees whoever waits for an answer on it.
type wireConn struct {
	net.Conn
	wire *wire
}

func newWire(m *mesh.Mesh, self raft.ServerAddress) *wire {
	return &wire{mesh: m, ln: m.Accept(protocolRaft), self: self, conns: map[*wireConn]bool{}}
}

// Dial implements raft.StreamLayer.
func (w *wire) Dial(a raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	id, hostport, err := splitAddress(a)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := w.mesh.Dial(ctx, id, hostport, protocolRaft)
	if err != nil {
		return nil, err
	}
	return w.keep(conn)
}

// Accept implements net.Listener.
func (w *wire) Accept() (net.Conn, error) {
	conn, err := w.ln.Accept()
	if err != nil {
		return nil, err
	}
	return w.keep(conn)
}

func (w *wire) keep(conn net.Conn) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.shut {
		return nil, errors.Join(net.ErrClosed, conn.Close())
	}
	c := &wireConn{Conn: conn, wire: w}
	w.conns[c] = true
	return c, nil
}

// Close implements net.Listener; it also ends every connection.
func (w *wire) Close() error {
	w.mu.Lock()
	conns := w.conns
	w.conns, w.shut = map[*wireConn]bool{}, true
	w.mu.Unlock()
	err := w.ln.Close()
	for c := range conns {
		err = errors.Join(err, c.Conn.Close())
	}
	return err
}

// Close implements net.Conn.
func (c *wireConn) Close() error {
	c.wire.mu.Lock()
	delete(c.wire.conns, c)
	c.wire.mu.Unlock()
	return c.Conn.Close()
}

// Addr implements net.Listener: the address raft knows this server by.
func (w *wire) Addr() net.Addr { return wireAddr(w.self) }

type wireAddr raft.ServerAddress

func (wireAddr) Network() string  { return "mesh" }
func (a wireAddr) String() string { return string(a) }

// transport is raft's network transport with a second source of messages: what this node tells itself.
type transport struct {
	*raft.NetworkTransport
	out chan raft.RPC
	own chan raft.RPC
}

// book resolves server IDs; raft asks it before every dial, so an address that changed since it was written to the log
// does no harm.
type book func(id string) (hostport string, ok bool)

// ServerAddr implements raft.ServerAddressProvider.
func (b book) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	hostport, ok := b(string(id))
	if !ok {
		return "", fmt.Errorf("no address of node %s is known", id)
	}
	return address(string(id), hostport), nil
}

func newTransport(w *wire, addresses book, timeout time.Duration, log *slog.Logger) *transport {
	t := &transport{
		NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			ServerAddressProvider: addresses,
			Logger:                newRaftLog(log),
			Stream:                w,
			MaxPool:               3,
			// 1 skips the pipeline, which can stop replicating to a follower for good while heartbeats go on.
			MaxRPCsInFlight: 1,
			Timeout:         timeout,
		}),
		out: make(chan raft.RPC),
		own: make(chan raft.RPC),
	}
	// A snapshot's answer comes only after the follower restored it: allow Timeout for each 64 KiB.
	t.TimeoutScale = 64 << 10
	return t
}

// Consumer implements raft.Transport.
func (t *transport) Consumer() <-chan raft.RPC { return t.out }

// run hands on messages from the network and from this node until ctx ends.
func (t *transport) run(ctx context.Context) error {
	for {
		var rpc raft.RPC
		select {
		case rpc = <-t.NetworkTransport.Consumer():
		case rpc = <-t.own:
		case <-ctx.Done():
			return nil
		}
		select {
		case t.out <- rpc:
		case <-ctx.Done():
			return nil
		}
	}
}

// header says who sends a message of raft's that this package makes.
func (t *transport) header(id string) raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: []byte(t.LocalAddr())}
}

// stand makes this server stand for election at once, by the message that a leader sends to its chosen successor. It
// touches only liveness: terms and votes decide as always.
func (t *transport) stand(ctx context.Context, id string) error {
	answer := make(chan raft.RPCResponse, 1)
	request := &raft.TimeoutNowRequest{RPCHeader: t.header(id)}
	select {
	case t.own <- raft.RPC{Command: request, RespChan: answer}:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case a := <-answer:
		return a.Error
	case <-ctx.Done():
		return ctx.Err()
	}
}
