package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
)

// advertised is the host:port others reach a bound port of this machine under: the host the user named, else the one it
// was bound to, else the one that packets to toward (a member's address, may be empty) leave from, else the first that is
// not loopback.
func (s *Seat) advertised(bound net.Addr, toward string) string {
	host, port, err := net.SplitHostPort(bound.String())
	if err != nil {
		return bound.String()
	}
	if s.o.Advertise != "" {
		return net.JoinHostPort(s.o.Advertise, port)
	}
	if ip := net.ParseIP(host); ip != nil && !ip.IsUnspecified() {
		return net.JoinHostPort(host, port)
	}
	for _, ip := range []net.IP{sourceToward(toward), firstAddress()} {
		if ip != nil && !ip.IsLoopback() {
			return net.JoinHostPort(ip.String(), port)
		}
	}
	return net.JoinHostPort("127.0.0.1", port)
}

// sourceToward asks the kernel which address packets to hostport leave from; nothing is sent.
func sourceToward(hostport string) net.IP {
	if hostport == "" {
		return nil
	}
	conn, err := net.Dial("udp", hostport)
	if err != nil {
		return nil
	}
	defer conn.Close()
	if a, ok := conn.LocalAddr().(*net.UDPAddr); ok {
		return a.IP
	}
	return nil
}

func firstAddress() net.IP {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var found net.IP
	for _, a := range all {
		n, ok := a.(*net.IPNet)
		if !ok || n.IP.IsLoopback() || n.IP.IsLinkLocalUnicast() {
			continue
		}
		if n.IP.To4() != nil {
			return n.IP
		}
		if found == nil {
			found = n.IP
		}
	}
	return found
}

func peerHost(peers []peer) string {
	if len(peers) == 0 {
		return ""
	}
	return peers[0].Mesh
}

// meshAddress finds a member's mesh: gossip knows where it is now, the registry where it was when it last said so,
// cluster.json and the log where it was when this node was up last.
func (s *Seat) meshAddress(id string) (hostport string, ok bool) {
	if id == s.id {
		return s.mesh, true
	}
	if addr := s.gossip.meshOf(id); addr != "" {
		return addr, true
	}
	if n := s.replica.state.View().Node(id); n != nil && n.Mesh != "" {
		return n.Mesh, true
	}
	for _, p := range s.file.get().Peers {
		if p.ID == id {
			return p.Mesh, true
		}
	}
	for _, server := range s.raft.servers() {
		if string(server.ID) == id {
			_, hostport, err := splitAddress(server.Address)
			return hostport, err == nil
		}
	}
	return "", false
}

// DialPeer connects to a member by its ID; the key on the other end is that ID's.
func (s *Seat) DialPeer(ctx context.Context, nodeID, protocol string) (net.Conn, error) {
	addr, ok := s.meshAddress(nodeID)
	if !ok {
		return nil, fmt.Errorf("dial node %s: no address of it is known", nodeID)
	}
	return s.o.Mesh.Dial(ctx, nodeID, addr, protocol)
}

// refused says whether a dial met a machine that answers and a port that nobody listens on.
func refused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
