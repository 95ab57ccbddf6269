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
	// ErrNoRoom: too few voters have disk space for new experiments. It is an ErrNotApplied and comes as a *TroubleError.
	ErrNoRoom = fmt.Errorf("too few voters have disk space: %w", ErrNotApplied)
	// ErrStalled: there is a leader, but nothing is committed. It is an ErrNotApplied and comes as a *TroubleError.
	ErrStalled = fmt.Errorf("the leader commits nothing: %w", ErrNotApplied)
)

// Why Run ends a node that cannot rely on its disk: it would hold up the others, or say what it did not write.
var (
	// ErrDisk is each of the following. The caller must end the process soon, and must not wait for what uses the disk.
	ErrDisk = errors.New("this node stops, and running experiments go on")
	// ErrDiskHangs: an operation does not end.
	ErrDiskHangs = fmt.Errorf("the disk does not answer: %w", ErrDisk)
	// ErrDiskFull: a write found no room, and the reserve is used up.
	ErrDiskFull = fmt.Errorf("the disk is full; free some space: %w", ErrDisk)
	// ErrDiskFailed: a write failed for another reason.
	ErrDiskFailed = fmt.Errorf("the disk took no write: %w", ErrDisk)
)

// TroubleError is an error for people: its sentence names the machines that are the reason. Kind is what it comes to:
// ErrNoRoom, ErrStalled, ErrNoLeader or ErrUnknown.
type TroubleError struct {
	Kind     error
	Sentence string
}

// Error gives the sentence.
func (e *TroubleError) Error() string { return e.Sentence }

// Unwrap gives the kind.
func (e *TroubleError) Unwrap() error { return e.Kind }
