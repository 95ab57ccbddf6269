package mesh

import (
	"errors"
	"fmt"
)

// helloLimit bounds both messages of the hello exchange, in bytes.
const helloLimit = 4 << 10

// nameLimit bounds a protocol name and a cluster ID, in bytes, so that an answer always fits into helloLimit.
const nameLimit = 256

// hello is the first thing a dialler says on a connection.
type hello struct {
	Cluster  string `json:"cluster"`
	Epoch    uint64 `json:"epoch"`
	Protocol string `json:"protocol"`
}

// answer is the reply to a hello. Code is what programs read, Error is for a person with a packet trace; the dialler makes
// its own sentence from the code and never shows the text of an unproven peer.
type answer struct {
	OK      bool   `json:"ok"`
	Code    string `json:"code,omitempty"`
	Error   string `json:"error,omitempty"`
	Cluster string `json:"cluster"`
	Epoch   uint64 `json:"epoch"`
}

// Reasons why a connection is not made. Test with errors.Is; the error that wraps them says who, where and what to do.
var (
	// ErrWrongPeer: another key answers at the address.
	ErrWrongPeer = errors.New("another node answers")
	// ErrOtherCluster: the peer belongs to another cluster, or one of the two belongs to none.
	ErrOtherCluster = errors.New("other cluster")
	// ErrOtherEpoch: one of the two missed a recovery of the cluster.
	ErrOtherEpoch = errors.New("other cluster epoch")
	// ErrNotMember: the peer does not know this node as a member. One peer may merely be behind: ask a majority before
	// believing it.
	ErrNotMember = errors.New("not a member")
	// ErrPeerNotMember: this node does not know the peer as a member, so it does not talk to it.
	ErrPeerNotMember = errors.New("peer is not a member")
	// ErrUnknownProtocol: nobody serves the protocol at the peer, or not yet.
	ErrUnknownProtocol = errors.New("unknown protocol")
	// ErrBusy: too many connections of the protocol wait to be served at the peer; try again later.
	ErrBusy = errors.New("too many waiting connections")
)

// Codes on the wire. Never change one: older machines read them.
const (
	codeOtherCluster    = "other-cluster"
	codeOtherEpoch      = "other-epoch"
	codeNotMember       = "not-member"
	codeUnknownProtocol = "unknown-protocol"
	codeBusy            = "busy"
)

func errorOfCode(code string) error {
	switch code {
	case codeOtherCluster:
		return ErrOtherCluster
	case codeOtherEpoch:
		return ErrOtherEpoch
	case codeNotMember:
		return ErrNotMember
	case codeUnknownProtocol:
		return ErrUnknownProtocol
	case codeBusy:
		return ErrBusy
	}
	return fmt.Errorf("a reason this version does not know, %q", code)
}

// RefusedError says why a peer that proved its key would not talk, in one sentence. It unwraps to one of the Err values.
type RefusedError struct {
	// Err is the reason, one of the Err values unless the peer runs a newer version.
	Err error
	// Peer and Addr are the node that refused and where it was dialled.
	Peer, Addr string
	// Protocol is what was asked for.
	Protocol string
	// PeerCluster and PeerEpoch are what the peer belongs to; "" is no cluster.
	PeerCluster string
	PeerEpoch   uint64
	// OwnCluster and OwnEpoch are what this node said it belongs to.
	OwnCluster string
	OwnEpoch   uint64
}

// Unwrap returns the reason.
func (e *RefusedError) Unwrap() error { return e.Err }

// Error returns the sentence.
func (e *RefusedError) Error() string {
	peer := fmt.Sprintf("node %s at %s", e.Peer, e.Addr)
	switch {
	case errors.Is(e.Err, ErrOtherCluster):
		return fmt.Sprintf("%s %s, this node %s", peer, belongs(e.PeerCluster), belongs(e.OwnCluster))
	case errors.Is(e.Err, ErrOtherEpoch):
		return e.epochSentence(peer)
	case errors.Is(e.Err, ErrNotMember):
		return fmt.Sprintf("%s does not know this node as a member of cluster %q: it was removed, or must join first", peer, e.PeerCluster)
	case errors.Is(e.Err, ErrUnknownProtocol):
		return fmt.Sprintf("%s does not serve protocol %q: it is starting, or runs another version", peer, e.Protocol)
	case errors.Is(e.Err, ErrBusy):
		return fmt.Sprintf("%s has too many connections waiting for protocol %q: try again in a second", peer, e.Protocol)
	}
	return fmt.Sprintf("%s refused protocol %q: %s", peer, e.Protocol, e.Err)
}

func (e *RefusedError) epochSentence(peer string) string {
	if e.PeerEpoch > e.OwnEpoch {
		return fmt.Sprintf("%s is at cluster epoch %d and this node at %d: the cluster was recovered without this node, which must join again",
			peer, e.PeerEpoch, e.OwnEpoch)
	}
	return fmt.Sprintf("%s is at cluster epoch %d and this node at %d: the cluster was recovered without that node, which must join again",
		peer, e.PeerEpoch, e.OwnEpoch)
}

func belongs(cluster string) string {
	if cluster == "" {
		return "is in no cluster yet"
	}
	return fmt.Sprintf("belongs to cluster %q", cluster)
}

// WrongPeerError says that the dialled address is held by another key: a re-imaged machine, a re-used address, or an
// impostor. It unwraps to ErrWrongPeer.
type WrongPeerError struct {
	// Want is the node that was dialled, Got the one whose certificate was shown; Got has not proven its key.
	Want, Got string
	// Addr is the address that was dialled.
	Addr string
}

// Unwrap returns ErrWrongPeer.
func (e *WrongPeerError) Unwrap() error { return ErrWrongPeer }

// Error returns one sentence.
func (e *WrongPeerError) Error() string {
	return fmt.Sprintf("node %s was dialled at %s, but node %s answers there: the machine was set up anew or its address was given to another", e.Want, e.Addr, e.Got)
}

// refusal is the accepting side's decision; nil is "welcome".
type refusal struct {
	code, text string
}

func (r *refusal) answer(cluster string, epoch uint64) answer {
	if r == nil {
		return answer{OK: true, Cluster: cluster, Epoch: epoch}
	}
	return answer{Code: r.code, Error: r.text, Cluster: cluster, Epoch: epoch}
}

// belonging is what one side knows of itself when it judges a hello.
type belonging struct {
	cluster string
	epoch   uint64
}

// judge decides over a hello by cluster, epoch and membership. To an open protocol only a different cluster is an
// obstacle: whoever is in none yet, was removed or missed a recovery must still be able to ask.
func (b belonging) judge(h hello, open, member bool) *refusal {
	other := h.Cluster != b.cluster
	if open {
		other = other && h.Cluster != "" && b.cluster != ""
	}
	switch {
	case other:
		return &refusal{codeOtherCluster, fmt.Sprintf("this node %s, you to %q", belongs(b.cluster), h.Cluster)}
	case open:
		return nil
	case h.Epoch != b.epoch:
		return &refusal{codeOtherEpoch, fmt.Sprintf("this node is at epoch %d, you at %d", b.epoch, h.Epoch)}
	case !member:
		return &refusal{codeNotMember, "you are not a member"}
	}
	return nil
}
