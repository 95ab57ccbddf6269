package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/deveronica/cvlab/cluster/mesh"
	"github.com/deveronica/cvlab/fsm"
)

// protocolForward carries changes and read requests from any member to the leader.
const protocolForward = "forward"

const (
	// maxHops: the second is for a leader that lost its term while the message was on its way.
	maxHops = 2
	// maxForward bounds a request: the largest entry and room around it.
	maxForward = fsm.MaxEntry + 4096
	// maxAnswer bounds an answer: a sweep of 10,000 experiments answers with as many numbers.
	maxAnswer = 1 << 20
	// maxCalls bounds the connections to the leader. More callers wait; raft batches what arrives together anyway.
	maxCalls = 64
	// maxIdle connections are kept between calls.
	maxIdle = 16
)

const (
	opPropose = "propose"
	opBarrier = "barrier"
)

type forwardRequest struct {
	Op     string          `json:"op"`
	Hops   int             `json:"hops"`
	Entry  json.RawMessage `json:"entry,omitempty"`
	Follow bool            `json:"follow,omitempty"` // the sender's replica waits for the entry
	Node   string          `json:"node,omitempty"`   // that departs
	// Limit is how long the sender will wait, in milliseconds.
	Limit int64 `json:"limit"`
}

// What a forwarded request came to; every error of ours has its name on the wire.
const (
	statusOK            = "ok"
	statusNotApplied    = "not applied"
	statusNoLeader      = "no leader"
	statusBusy          = "busy"
	statusUnknown       = "unknown"
	statusNotUnderstood = "not understood"
	statusStalled       = "stalled"
	statusNoRoom        = "no room"
)

type forwardAnswer struct {
	Status string     `json:"status"`
	Error  string     `json:"error,omitempty"`
	Result fsm.Result `json:"result,omitzero"`
	Index  uint64     `json:"index,omitempty"` // of a barrier
	Ready  bool       `json:"ready,omitempty"` // the node that departs has no vote any more
}

func statusOf(err error) string {
	switch {
	case err == nil:
		return statusOK
	case errors.Is(err, ErrNotUnderstood):
		return statusNotUnderstood
	case errors.Is(err, ErrUnknown):
		return statusUnknown
	case errors.Is(err, ErrStalled):
		return statusStalled
	case errors.Is(err, ErrNoRoom):
		return statusNoRoom
	case errors.Is(err, ErrBusy):
		return statusBusy
	case errors.Is(err, ErrNoLeader):
		return statusNoLeader
	}
	return statusNotApplied
}

// err gives back the error that statusOf named.
func (a forwardAnswer) err() error {
	known := map[string]error{
		statusNotApplied: ErrNotApplied, statusNoLeader: ErrNoLeader, statusBusy: ErrBusy, statusNotUnderstood: ErrNotUnderstood,
	}
	switch a.Status {
	case statusOK:
		return nil
	case statusStalled:
		return &TroubleError{Kind: ErrStalled, Sentence: a.Error}
	case statusNoRoom:
		return &TroubleError{Kind: ErrNoRoom, Sentence: a.Error}
	}
	if err := known[a.Status]; err != nil {
		return fmt.Errorf("%w (leader: %s)", err, a.Error)
	}
	return fmt.Errorf("%w (leader: %s)", ErrUnknown, a.Error)
}

// forwarder keeps connections to the leader open between calls. One connection carries one call at a time.
type forwarder struct {
	dial  func(ctx context.Context, node, protocol string) (net.Conn, error)
	calls chan struct{}

	mu    sync.Mutex
	idle  map[string][]net.Conn
	busy  map[net.Conn]string
	dials map[*dialling]struct{}
	// leader is the node that keepOnly named last; "" before, and once the seat stops.
	leader string
}

// dialling is a dial under way: it must end, too, when another node leads.
type dialling struct {
	node string
	stop context.CancelFunc
}

func newForwarder(dial func(ctx context.Context, node, protocol string) (net.Conn, error)) *forwarder {
	return &forwarder{dial: dial, calls: make(chan struct{}, maxCalls), idle: map[string][]net.Conn{}, busy: map[net.Conn]string{}, dials: map[*dialling]struct{}{}}
}

// call asks a node. Before the request was written nothing can have happened; afterwards only an answer tells.
func (f *forwarder) call(ctx context.Context, node string, r forwardRequest) (forwardAnswer, error) {
	select {
	case f.calls <- struct{}{}:
		defer func() { <-f.calls }()
	case <-ctx.Done():
		return forwardAnswer{}, ErrNoLeader
	}
	conn, err := f.take(ctx, node)
	if err != nil {
		return forwardAnswer{}, fmt.Errorf("%w: forward to leader: %w", ErrNoLeader, err)
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(proposeLimit)
	}
	r.Limit = time.Until(deadline).Milliseconds()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	var a forwardAnswer
	if err = mesh.WriteFrame(conn, r); err == nil {
		err = mesh.ReadFrame(conn, maxAnswer, &a)
	}
	if !stop() && err == nil {
		f.drop(conn) // the answer came just before ctx closed the connection
		return a, a.err()
	}
	if err != nil {
		f.drop(conn)
		return forwardAnswer{}, fmt.Errorf("%w: forward to leader: %w", ErrUnknown, err)
	}
	f.give(node, conn)
	return a, a.err()
}

func (f *forwarder) take(ctx context.Context, node string) (net.Conn, error) {
	f.mu.Lock()
	if idle := f.idle[node]; len(idle) > 0 {
		conn := idle[len(idle)-1]
		f.idle[node] = idle[:len(idle)-1]
		f.busy[conn] = node
		f.mu.Unlock()
		return conn, nil
	}
	if f.leader != "" && node != f.leader { // this call waited for its turn while the leader changed
		f.mu.Unlock()
		return nil, fmt.Errorf("node %s leads no more", node)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	d := &dialling{node, stop}
	f.dials[d] = struct{}{}
	f.mu.Unlock()
	conn, err := f.dial(ctx, node, protocolForward)
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.dials, d)
	if err != nil {
		return nil, err
	}
	f.busy[conn] = node
	return conn, nil
}

func (f *forwarder) give(node string, conn net.Conn) {
	f.mu.Lock()
	_, ours := f.busy[conn]
	delete(f.busy, conn)
	if ours && len(f.idle[node]) < maxIdle {
		f.idle[node] = append(f.idle[node], conn)
		f.mu.Unlock()
		return
	}
	f.mu.Unlock()
	conn.Close()
}

func (f *forwarder) drop(conn net.Conn) {
	f.mu.Lock()
	delete(f.busy, conn)
	f.mu.Unlock()
	conn.Close()
}

// keepOnly closes the connections to everybody but the leader. Calls under way to a former leader end at once, instead
// of waiting for a machine that may never answer again.
func (f *forwarder) keepOnly(leader string) {
	f.mu.Lock()
	f.leader = leader
	for d := range f.dials {
		if d.node != leader {
			d.stop()
		}
	}
	var old []net.Conn
	for node, conns := range f.idle {
		if node != leader {
			old = append(old, conns...)
			delete(f.idle, node)
		}
	}
	for conn, node := range f.busy {
		if node != leader {
			old = append(old, conn)
			delete(f.busy, conn)
		}
	}
	f.mu.Unlock()
	for _, conn := range old {
		conn.Close()
	}
}

// serveForward answers one member's connection, request by request.
func (s *Seat) serveForward(ctx context.Context, conn net.Conn) {
	from := mesh.PeerID(conn)
	for {
		var r forwardRequest
		if err := mesh.ReadFrame(conn, maxForward, &r); err != nil {
			return
		}
		a := s.answerForward(ctx, from, r)
		conn.SetWriteDeadline(time.Now().Add(proposeLimit))
		if err := mesh.WriteFrame(conn, a); err != nil {
			return
		}
	}
}

func (s *Seat) answerForward(ctx context.Context, from string, r forwardRequest) forwardAnswer {
	limit := min(time.Duration(max(r.Limit, 0))*time.Millisecond, proposeLimit)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var a forwardAnswer
	var err error
	switch r.Op {
	case opPropose:
		a.Result, err = s.proposeForwarded(ctx, from, r)
	case opBarrier:
		a.Index, err = s.readIndex(ctx, r.Hops)
	case opDepart:
		a.Ready, err = s.mayGo(ctx, r.Node, r.Hops)
	default:
		err = fmt.Errorf("%w: request %q", ErrNotUnderstood, r.Op)
	}
	a.Status = statusOf(err)
	if err != nil {
		a.Error = err.Error()
	}
	return a
}

func (s *Seat) proposeForwarded(ctx context.Context, from string, r forwardRequest) (fsm.Result, error) {
	// Once committed, an entry that is not understood stops every node; here it stops nobody.
	e, err := fsm.Decode(r.Entry)
	if err != nil {
		return fsm.Result{}, fmt.Errorf("%w: %w", ErrNotUnderstood, err)
	}
	if err := s.refusesForRoom(e); err != nil {
		return fsm.Result{}, err
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		return fsm.Result{}, ErrBusy
	}
	result, err := s.offerReport(ctx, from, r, e)
	if err == nil && r.Follow && result.Index > 0 {
		s.nudge(result.Index)
	}
	return result, err
}

// nudge tells followers at once that an entry is committed. They learn of a commit only with the next entry, or after
// one to two Tuning.Commit; so if no newer entry is on its way already, an empty one is sent.
func (s *Seat) nudge(index uint64) {
	if s.raft.State() == raft.Leader && s.raft.LastIndex() <= index {
		s.barriers.join()
	}
}
