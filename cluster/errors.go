package cluster

import (
	"errors"
	"fmt"
)

// How a proposal can fail without an answer of the facts. A refusal is no error: it is an fsm.Result with a code.
var (
	// ErrNotApplied: it is certain that nothing was changed.
	ErrNotApplied = errors.New("the cluster did not take the change, nothing was changed; try again")
	// ErrUnknown: the change may have been made. A repeat with the same key finds out and does no harm.
	ErrUnknown = errors.New("the outcome is unknown, the change may have been made; repeat it with the same key")
	// ErrNoLeader: no leader was found in time. It is an ErrNotApplied.
	ErrNoLeader = fmt.Errorf("no leader: a majority of the voters must be reachable (see: cvlab cluster): %w", ErrNotApplied)
	// ErrBusy: this node or the leader has too many changes in flight. It is an ErrNotApplied.
	ErrBusy = fmt.Errorf("too many changes are in flight: %w", ErrNotApplied)
	// ErrNotUnderstood: the leader runs a version that does not know this kind of change. Nothing was changed, and trying
	// again does not help.
	ErrNotUnderstood = errors.New("the leader does not understand this change; bring all machines to the same version of cvlab")
	// ErrRemoved ends Run on a node that was removed from the cluster.
	ErrRemoved = errors.New("this node was removed from its cluster; to join as a new node: cvlab join PEER --as-new")
	// ErrOutdated ends Run on a node whose cluster was recovered without it.
	ErrOutdated = errors.New("the cluster was recovered without this node, whose part of it ended there; to join as a new node: cvlab join PEER --as-new")
	// ErrNoCluster: the directory holds no cluster, and neither founding nor joining was asked for.
	ErrNoCluster = errors.New("this node is in no cluster yet; found one with: cvlab up, or join one with: cvlab join PEER")
	// ErrNotAdmitted: the peer did not let this node in. The text says why and what to do.
	ErrNotAdmitted = errors.New("join refused")
	// ErrOtherMember: the node has a cluster already, and was told to join another one.
	ErrOtherMember = errors.New("this node is in another cluster")
	// ErrStopped: the seat is closing. It is an ErrNotApplied.
	ErrStopped = fmt.Errorf("this node is stopping: %w", ErrNotApplied)
)
