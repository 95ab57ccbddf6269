package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/deveronica/cvlab/cluster/mesh"
	"github.com/deveronica/cvlab/fsm"
)

// protocolJoin is open to strangers: it admits machines, and tells members who else is one.
const protocolJoin = "join"

const (
	joinLimit   = 15 * time.Second // a whole join, the commit of the Admit included
	maxJoin     = 256 << 10        // a stranger's frame: a node with its GPUs and labels
	maxAdmitted = maxFile
	joinLabel   = "join" // of the TLS exporter
)

const (
	opJoin    = "join"
	opRefresh = "refresh"
)

type joinRequest struct {
	Op string `json:"op"`
	// Token is the ID of the token that Proof proves, for this TLS channel only.
	Token string   `json:"token,omitempty"`
	Proof []byte   `json:"proof,omitempty"`
	Node  fsm.Node `json:"node,omitzero"`
	// Twin tells, with opWho, where another process answered with the asked node's key.
	Twin string `json:"twin,omitempty"`
}

// What a joiner or asking member is told.
const (
	joinOK      = "ok"
	joinRefused = "refused"
	joinRemoved = "removed"
	// joinOutdated: the asker missed a recovery of the cluster.
	joinOutdated = "outdated"
)

type joinAnswer struct {
	Status string `json:"status"`
	Error  string `json:"error,omitempty"`
	// Proof shows that the answer comes from a member of the cluster that made the token.
	Proof      []byte   `json:"proof,omitempty"`
	ID         string   `json:"id,omitempty"`
	Name       string   `json:"name,omitempty"`
	Epoch      uint64   `json:"epoch,omitempty"`
	GossipKeys [][]byte `json:"gossip_keys,omitempty"`
	Peers      []peer   `json:"peers,omitempty"`
	// Log answers opStatus, Instance opWho.
	Log      *logState `json:"log,omitempty"`
	Instance string    `json:"instance,omitempty"`
}

const badToken = "the join token is not accepted: it is mistyped, was revoked, or belongs to another cluster; " +
	"make one on a machine of this cluster with: cvlab token create --join"

// join asks the peer for membership and writes down what it gives. The token is proved without being sent, and the peer
// proves that it knows it too, so neither a relay nor an impostor gains anything.
func (s *Seat) join(ctx context.Context, j Joining) error {
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	s.mesh, s.gossip.addr = s.advertised(s.o.Mesh.Addr(), j.Peer), s.advertised(s.gossip.bound, j.Peer)
	conn, err := s.o.Mesh.DialUnknown(ctx, j.Peer, protocolJoin)
	if err != nil {
		return dialAdvice(j.Peer, err)
	}
	defer conn.Close()
	channel, err := conn.ExportKey(joinLabel)
	if err != nil {
		return fmt.Errorf("join %s: %w", j.Peer, err)
	}
	a, err := ask(ctx, conn, joinRequest{
		Op: opJoin, Token: j.Token.ID, Node: s.self(),
		Proof: mesh.Prove(j.Token.VerifyKey(), channel, mesh.RoleJoiner),
	})
	if err != nil {
		return fmt.Errorf("join %s: %w", j.Peer, err)
	}
	if a.Status != joinOK {
		return fmt.Errorf("%w by %s: %s", ErrNotAdmitted, j.Peer, a.Error)
	}
	if !mesh.CheckProof(j.Token.VerifyKey(), channel, a.Proof, mesh.RoleCluster) {
		return fmt.Errorf("%w: %s does not know the token it pretends to accept; it is no member of the cluster that made it",
			ErrNotAdmitted, j.Peer)
	}
	err = s.file.update(func(f *clusterFile) {
		f.Phase, f.ID, f.Name, f.Epoch, f.GossipKeys = phaseJoined, a.ID, a.Name, a.Epoch, a.GossipKeys
		f.Peers = without(a.Peers, s.id)
	})
	if err != nil {
		return fmt.Errorf("join %s: %w", j.Peer, err)
	}
	return nil
}

func dialAdvice(addr string, err error) error {
	refusal, isRefusal := errors.AsType[*mesh.RefusedError](err)
	switch {
	case refused(err):
		return fmt.Errorf("join %s: nothing listens there; is cvlab up on that machine, and is this its mesh port (8001 unless set)? %w", addr, err)
	case isRefusal && refusal.PeerCluster == "":
		return fmt.Errorf("join %s: that machine is in no cluster itself; found one there with: cvlab up: %w", addr, err)
	}
	return fmt.Errorf("join %s: %w", addr, err)
}

// checkPeer is for a node that has a cluster and is told to join: if the peer's is another one, that must not be passed
// over in silence. A peer that does not answer proves nothing.
func (s *Seat) checkPeer(ctx context.Context, j Joining, f clusterFile) error {
	ctx, cancel := context.WithTimeout(ctx, s.o.Tuning.RPC)
	defer cancel()
	conn, err := s.o.Mesh.DialUnknown(ctx, j.Peer, protocolJoin)
	if errors.Is(err, mesh.ErrOtherCluster) {
		return fmt.Errorf("%w: %w: it is a member of %q, and %s of another one", ErrNotAdmitted, ErrOtherMember, f.Name, j.Peer)
	}
	if err != nil {
		s.log.Debug("peer to join does not answer; this node is a member already", "peer", j.Peer, "error", err)
		return nil
	}
	defer conn.Close()
	if other, _ := conn.PeerCluster(); other != f.ID {
		return fmt.Errorf("%w: %w: it is a member of %q, and %s of another one", ErrNotAdmitted, ErrOtherMember, f.Name, j.Peer)
	}
	return nil
}

func ask(ctx context.Context, conn net.Conn, r joinRequest) (joinAnswer, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	var a joinAnswer
	if err := mesh.WriteFrame(conn, r); err != nil {
		return a, err
	}
	err := mesh.ReadFrame(conn, maxAdmitted, &a)
	return a, err
}

// serveJoin answers one stranger's or member's question.
func (s *Seat) serveJoin(ctx context.Context, conn net.Conn) {
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	caller, ok := conn.(*mesh.Conn)
	if !ok {
		return
	}
	var r joinRequest
	if err := mesh.ReadFrame(conn, maxJoin, &r); err != nil {
		return // a dial that only looked who is here ends like this
	}
	a := s.answerJoin(ctx, caller, r)
	if a.Status != joinOK {
		s.log.Info("join refused", "peer", caller.PeerID(), "addr", conn.RemoteAddr(), "reason", a.Error)
	}
	if err := mesh.WriteFrame(conn, a); err != nil {
		s.log.Debug("answer join", "peer", caller.PeerID(), "error", err)
	}
}

func (s *Seat) answerJoin(ctx context.Context, caller *mesh.Conn, r joinRequest) joinAnswer {
	if r.Op == opWho {
		return s.who(caller.PeerID(), r.Twin)
	}
	if n := s.replica.state.View().Node(caller.PeerID()); n != nil && n.Removed {
		return joinAnswer{Status: joinRemoved, Error: fmt.Sprintf(
			"node %s was removed from this cluster; to come back as a new node, run there: cvlab join PEER --as-new", n.Name)}
	}
	_, epoch := caller.PeerCluster()
	if own := s.file.get().Epoch; r.Op != opJoin && epoch != 0 && epoch < own {
		return joinAnswer{Status: joinOutdated, Epoch: own, Error: fmt.Sprintf("the cluster was recovered without this node (epoch %d)", own)}
	}
	switch r.Op {
	case opJoin:
		return s.admit(ctx, caller, r)
	case opRefresh:
		if !s.o.Roster.IsMember(caller.PeerID()) {
			return joinAnswer{Status: joinRefused, Error: "not a member"}
		}
		return s.admitted(nil)
	case opStatus:
		if !s.o.Roster.IsMember(caller.PeerID()) {
			return joinAnswer{Status: joinRefused, Error: "not a member"}
		}
		return joinAnswer{Status: joinOK, Epoch: s.file.get().Epoch, Log: s.logState()}
	}
	return joinAnswer{Status: joinRefused, Error: "the machines run versions that do not fit; bring both to the same version of cvlab"}
}

// admit checks the proof and has the leader commit the membership. An unknown token and a false proof are answered alike.
func (s *Seat) admit(ctx context.Context, caller *mesh.Conn, r joinRequest) joinAnswer {
	refuse := func(why string) joinAnswer { return joinAnswer{Status: joinRefused, Error: why} }
	channel, err := caller.ExportKey(joinLabel)
	if err != nil || r.Node.ID != caller.PeerID() {
		return refuse(badToken)
	}
	// The token may have been made on another machine a moment ago.
	if err := s.Barrier(ctx); err != nil {
		return refuse(err.Error())
	}
	var secret []byte
	if access := s.replica.state.View().AccessByID(r.Token); access != nil && access.Kind == fsm.AccessJoin {
		secret = access.Secret
	}
	if !mesh.CheckProof(secret, channel, r.Proof, mesh.RoleJoiner) {
		return refuse(badToken)
	}
	result, err := s.Propose(ctx, fsm.Entry{By: s.id, Command: &fsm.Admit{Node: r.Node, Access: r.Token}})
	switch {
	case err != nil:
		return refuse(err.Error())
	case result.Refused():
		return refuse(result.Message)
	}
	s.log.Info("node joined", "node", r.Node.ID, "name", result.Node, "addr", r.Node.Mesh)
	return s.admitted(mesh.Prove(secret, channel, mesh.RoleCluster))
}

// admitted is what a member must know to find the others.
func (s *Seat) admitted(proof []byte) joinAnswer {
	f := s.file.get()
	return joinAnswer{Status: joinOK, Proof: proof, ID: f.ID, Name: f.Name, Epoch: f.Epoch, GossipKeys: f.GossipKeys, Peers: s.registered()}
}

// registered lists the members' addresses, from the registry.
func (s *Seat) registered() []peer {
	var all []peer
	for n := range s.replica.state.View().Nodes() {
		all = append(all, peer{ID: n.ID, Mesh: n.Mesh, Gossip: n.Gossip})
	}
	return all
}

func without(peers []peer, id string) []peer {
	return slices.DeleteFunc(slices.Clone(peers), func(p peer) bool { return p.ID == id })
}

// CreateJoinToken makes a token that admits uses machines within ttl. Show it once; what the cluster keeps cannot give
// it back. by is who asked.
func (s *Seat) CreateJoinToken(ctx context.Context, by string, uses int, ttl time.Duration) (mesh.JoinToken, *fsm.Access, error) {
	token, err := mesh.NewJoinToken()
	if err != nil {
		return mesh.JoinToken{}, nil, fmt.Errorf("create join token: %w", err)
	}
	now := time.Now().UTC()
	access := &fsm.Access{ID: token.ID, Kind: fsm.AccessJoin, Secret: token.VerifyKey(), Uses: uses, By: by, CreatedAt: now, ExpiresAt: now.Add(ttl)}
	result, err := s.Propose(ctx, fsm.Entry{By: by, At: now, Key: "join-token-" + token.ID, Command: &fsm.Grant{Access: *access}})
	if err != nil {
		return mesh.JoinToken{}, nil, fmt.Errorf("create join token: %w", err)
	}
	if result.Refused() {
		return mesh.JoinToken{}, nil, fmt.Errorf("create join token: %s", result.Message)
	}
	if stored := s.replica.state.View().AccessByID(token.ID); stored != nil {
		access = stored
	}
	return token, access, nil
}
