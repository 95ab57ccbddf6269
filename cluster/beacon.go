package cluster

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// outbox holds what is to be said, newest only: a beacon that could not be sent in time is replaced by the next.
type outbox struct {
	mu     sync.Mutex
	start  uint64
	seq    uint64
	beacon []byte // last payload, sent again to a new leader
	state  []byte // published, too large for a broadcast, not sent yet
	wake   chan struct{}
}

func newOutbox() *outbox {
	return &outbox{start: uint64(time.Now().UnixNano()), wake: make(chan struct{}, 1)}
}

func (o *outbox) put(set func(*outbox)) {
	o.mu.Lock()
	set(o)
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// report numbers a message of this node.
func (s *Seat) report(kind byte, payload []byte) report {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	s.out.seq++
	return report{kind: kind, start: s.out.start, seq: s.out.seq, applied: s.raft.AppliedIndex(), node: s.id, payload: payload}
}

// SendBeacon tells the leader how this node feels; call it once a second. It returns at once. Up to 1,100 bytes go in
// one packet that may be lost, more over a connection. The payload also stands in this node's own Health, and goes to a
// new leader as soon as there is one. Over 64 KiB it is dropped.
func (s *Seat) SendBeacon(payload []byte) {
	if err := s.say(kindBeacon, payload); err != nil {
		s.log.Warn("beacon", "error", err)
		return
	}
	s.out.put(func(o *outbox) { o.beacon = payload })
}

// Publish tells all nodes that something changed here. It returns at once; news replaces older news that is still on its
// way. Nodes that miss it learn it with their next full exchange. Over 64 KiB it is dropped.
func (s *Seat) Publish(payload []byte) {
	if err := s.say(kindState, payload); err != nil {
		s.log.Warn("publish health", "error", err)
		return
	}
	if len(payload) <= broadcastPayload {
		s.gossip.queue.QueueBroadcast(newsOf{s.id, s.report(kindState, payload).encode()})
		return
	}
	s.out.put(func(o *outbox) { o.state = payload })
}

// say puts a payload into the own table.
func (s *Seat) say(kind byte, payload []byte) error {
	if len(payload) > maxPayload {
		return fmt.Errorf("%w: %d bytes, at most %d", errTooLarge, len(payload), maxPayload)
	}
	s.gossip.health.hear(heard{s.report(kind, payload), time.Now()})
	return nil
}

// Health gives what is known of every node that ever spoke, in the order of their IDs. On the leader it is at most a
// beacon old; on other nodes as old as the last change.
func (s *Seat) Health() []Health { return s.gossip.health.all(time.Now()) }

// HealthChanged gives a channel that is closed when a node was heard. Take it before Health.
func (s *Seat) HealthChanged() <-chan struct{} { return s.gossip.health.news() }

// beacons sends what waits in the outbox, the last beacon to each new leader, and how far the own replica is.
func (s *Seat) beacons(ctx context.Context) error {
	tick := time.NewTicker(s.o.Tuning.Balance)
	defer tick.Stop()
	last := ""
	for {
		news := s.leader.changed()
		leader, _ := s.Leader()
		if leader != last {
			last = leader
			s.sendBeacon(leader)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.out.wake:
			s.sendBeacon(leader)
			s.sendState()
		case <-tick.C:
			s.send(leader, s.report(kindBeacon, nil))
		case <-news:
		}
	}
}

func (s *Seat) sendBeacon(leader string) {
	s.out.mu.Lock()
	payload := s.out.beacon
	s.out.mu.Unlock()
	if payload != nil {
		s.send(leader, s.report(kindBeacon, payload))
	}
}

// sendState carries news that is too large for a broadcast to each node by itself.
func (s *Seat) sendState() {
	s.out.mu.Lock()
	payload := s.out.state
	s.out.state = nil
	s.out.mu.Unlock()
	if payload == nil {
		return
	}
	r := s.report(kindState, payload)
	for n := range s.replica.state.View().Nodes() {
		s.send(n.ID, r)
	}
}

// send gives one report to one node that gossip believes alive.
func (s *Seat) send(node string, r report) {
	m, ok := s.gossip.member(node)
	if node == s.id || !ok || !m.alive {
		return
	}
	var send func(*memberlist.Node, []byte) error = s.gossip.list.SendBestEffort
	if len(r.payload) > packetPayload {
		send = s.gossip.list.SendReliable
	}
	if err := send(&m.node, r.encode()); err != nil {
		s.log.Debug("send report", "to", node, "error", err)
	}
}
