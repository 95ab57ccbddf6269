package api

import (
	"context"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

// Cluster is what the server needs of this node's seat in the cluster.
type Cluster interface {
	// State is this node's replica of the facts.
	State() *fsm.State
	// Propose commits an entry through the leader and returns when this replica has applied it. Errors are those of
	// package cluster: ErrNotApplied, ErrUnknown, ErrNoLeader, ErrBusy. A refusal is a Result, not an error.
	Propose(ctx context.Context, e fsm.Entry) (fsm.Result, error)
	// Barrier returns when this replica has everything the leader had committed at the call.
	Barrier(ctx context.Context) error
	// Age is how long ago this replica last heard from the leader; 0 on the leader itself.
	Age() time.Duration
	// Status is the answer of GET /api/cluster.
	Status(ctx context.Context) ClusterStatus
}

// Machines knows how the machines feel and why experiments wait; a node that does not lead asks the leader.
type Machines interface {
	// Devices gives what is known of every node's health, and how old that is.
	Devices(ctx context.Context) ([]Device, time.Duration)
	// Reasons gives for each of these waiting experiments why it waits, in one sentence; unknown ones are left out.
	Reasons(ctx context.Context, ids []uint64) map[uint64]string
	// Why explains one waiting experiment at length.
	Why(ctx context.Context, id uint64) (Explanation, error)
	// KillStray ends a stray attempt of a node in somebody's name. One that is not there gives an error that wraps
	// fs.ErrNotExist.
	KillStray(ctx context.Context, node string, token fsm.Token, by string) error
}

// Logs reads the output of attempts, wherever it lies.
type Logs interface {
	// Read gives output from an offset on. Output that is not there (any more) gives an error that wraps fs.ErrNotExist.
	Read(ctx context.Context, q LogRequest) (LogChunk, error)
}

// LogRequest asks for a piece of an attempt's output.
type LogRequest struct {
	Attempt *fsm.Attempt
	From    int64 // bytes from the start; negative counts from the end
	Max     int   // bytes to give at most
	// Wait asks to block until there is something at From, the attempt has ended, or about 10 s have passed.
	Wait bool
}

// LogChunk is a piece of an attempt's output.
type LogChunk struct {
	Data []byte
	From int64 // offset of the first byte of Data
	Next int64 // offset after the last byte of Data
	Size int64 // size of the output now
	// Ended says that nothing more will be written: Size is final.
	Ended bool
}

// Joins lets machines in, and this machine into another cluster.
type Joins interface {
	// CreateJoinToken makes and commits a token. Its text is returned this once and stored nowhere.
	CreateJoinToken(ctx context.Context, by string, uses int, ttl time.Duration) (token string, access *fsm.Access, err error)
	// JoinOther makes this node leave its own cluster for the one of a peer. It refuses when somebody would miss the own
	// one, and returns before the node has changed over.
	JoinOther(ctx context.Context, peer, token string) error
	// Leave gets this node out of its cluster, for a person, and returns before the node has ended. An error that wraps
	// ErrConflict says why it stays; those of package cluster mean that a repeat may succeed.
	Leave(ctx context.Context, by string) error
}
