package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/deveronica/cvlab/fsm"
)

// opDepart asks the leader to let a node go; it is repeated until the answer is that the node has no vote.
const opDepart = "depart"

const (
	// departLimit bounds how long a removal waits for the node's vote to be taken over.
	departLimit = 8 * time.Second
	// departOff is the same for a machine that is said to be off: it has not much to hand over.
	departOff = 3 * time.Second
	// departAgain is how often the leader is asked. Each time it remembers the wish for departRemembered: a wish that nobody
	// has any more, or that a new leader has not heard of, is no wish.
	departAgain      = 100 * time.Millisecond
	departRemembered = 3 * time.Second
)

// ErrVoteNeeded: a node cannot go yet, since its vote or its leadership cannot be taken over. It is an ErrNotApplied.
var ErrVoteNeeded = fmt.Errorf("this machine's part in the decisions of the cluster cannot be taken over yet: %w", ErrNotApplied)

// departures are the nodes that want to go, as this node, if it leads, heard of them.
type departures struct {
	mu    sync.Mutex
	until map[string]time.Time
	wake  chan struct{}
}

func newDepartures() *departures {
	return &departures{until: map[string]time.Time{}, wake: make(chan struct{}, 1)}
}

func (d *departures) note(id string, now time.Time) {
	d.mu.Lock()
	_, known := d.until[id]
	d.until[id] = now.Add(departRemembered)
	d.mu.Unlock()
	if known {
		return
	}
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *departures) wanted(id string, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	until, known := d.until[id]
	if known && now.After(until) {
		delete(d.until, id)
		return false
	}
	return known
}

// retire makes the cluster ready to do without a node before its removal is proposed: afterwards no member talks to it any
// more, so whatever vote it then had would be missing. It gives a refusal where the node must stay.
func (s *Seat) retire(ctx context.Context, c *fsm.Remove) (fsm.Result, error) {
	v := s.replica.state.View()
	if v.Node(c.Node) == nil { // this replica may be behind
		if err := s.Barrier(ctx); err != nil {
			return fsm.Result{Code: fsm.OK}, err
		}
		v = s.replica.state.View()
	}
	n := v.Node(c.Node)
	if n == nil || n.Removed {
		return fsm.Result{Code: fsm.OK}, nil // the facts answer that
	}
	others := 0
	for m := range v.Nodes() {
		if m.ID != n.ID {
			others++
		}
	}
	if others == 0 {
		return fsm.Result{Code: fsm.Conflict, Message: fmt.Sprintf("%s is the only machine of its cluster: the queue and all experiments would be lost with it", n.Name)}, nil
	}
	if !c.Off && mayRun(v, n.ID) {
		return fsm.Result{Code: fsm.OK}, nil // refused by the facts; it keeps its vote
	}
	limit := departLimit
	if c.Off {
		limit = departOff
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := s.untilRetired(ctx, n.ID)
	if leader, _ := s.Leader(); c.Off && leader != n.ID && !errors.Is(err, ErrStopped) {
		return fsm.Result{Code: fsm.OK}, nil // it is off: its vote is missing already
	}
	return fsm.Result{Code: fsm.OK}, err
}

func (s *Seat) untilRetired(ctx context.Context, id string) error {
	for {
		news := s.leader.changed()
		ready, err := s.mayGo(ctx, id, 0)
		if ready && err == nil || errors.Is(err, ErrStopped) || errors.Is(err, ErrNotUnderstood) {
			return err
		}
		if err == nil {
			err = ErrVoteNeeded
		}
		select {
		case <-ctx.Done():
			return err
		case <-s.stopping:
			return ErrStopped
		case <-news:
		case <-time.After(departAgain):
		}
	}
}

// mayGo asks the leader whether a node has no part in the decisions any more, and tells it to see to that.
func (s *Seat) mayGo(ctx context.Context, id string, hops int) (bool, error) {
	if ctx.Err() != nil {
		return false, ErrVoteNeeded
	}
	if s.raft.State() == raft.Leader {
		s.departures.note(id, time.Now())
		config := s.raft.GetConfiguration()
		if err := config.Error(); err != nil {
			return false, fmt.Errorf("%w: read configuration: %w", ErrNotApplied, err)
		}
		for _, v := range voters(config.Configuration().Servers) {
			if v == id {
				return false, nil
			}
		}
		return config.Index() <= s.raft.CommitIndex(), nil
	}
	leader, known := s.Leader()
	if !known || leader == s.id || hops >= maxHops {
		return false, ErrNoLeader
	}
	a, err := s.forward.call(ctx, leader, forwardRequest{Op: opDepart, Node: id, Hops: hops + 1})
	return a.Ready, err
}
