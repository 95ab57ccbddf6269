// Package mesh is the one authenticated TCP port between the machines of a cluster.
//
// A machine is a key: its node ID is the hash of its public key, so "is this really that machine" is answered by the TLS
// handshake itself and there is no certificate authority, no expiry and no name to trust. Many protocols share the port;
// the dialler names one, the listening side hands the connection to whoever registered it:
//
//	identity, created, err := mesh.LoadOrCreateIdentity("/var/lib/cvlab/identity.pem")
//	m, err := mesh.Listen(mesh.Options{Addr: ":7070", Identity: identity, Logger: logger, Membership: members})
//	raftListener := m.Accept("raft")            // a net.Listener; register before Run
//	m.Accept("join"); m.Open("join")            // non-members may speak this one
//	group.Go(func() error { return m.Run(ctx) }) // an errgroup of the caller
//	conn, err := m.Dial(ctx, nodeID, addr, "raft")
//
// What a connection that comes out of Accept or Dial has proven: TLS 1.3, the key of PeerID on the other end, the same
// cluster and epoch, and membership on both sides. A protocol marked Open proves only the key; see Mesh.Open.
//
// Membership is asked at every handshake and never remembered: revoking a node is "make IsMember say no, then call
// CloseMember". The package knows nothing of consensus, gossip or the replicated state.
package mesh
