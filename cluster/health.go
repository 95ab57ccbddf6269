package cluster

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Kinds of message that gossip carries for this package.
const (
	kindBeacon = 'b' // one node to the leader, every second: how it feels
	kindState  = 's' // one node to all, when something changed
	kindBatch  = 'm' // all a node knows, in a push/pull
)

const (
	// packetPayload is the largest payload that surely fits a packet beside memberlist's own overhead; see SendBeacon.
	packetPayload = 1100
	// broadcastPayload is less, since a broadcast that does not fit beside others is never sent, silently.
	broadcastPayload = 900
	// maxPayload bounds what a node may say of itself.
	maxPayload = 64 << 10
	// maxBatch bounds the user state of a push/pull; the nodes heard last come first.
	maxBatch = 256 << 10
)

// Health is the last thing a node said about itself, as far as this node heard.
type Health struct {
	Node string
	// Payload is what that node gave to SendBeacon or Publish. Do not change it.
	Payload []byte
	// Heard is how long ago that node was heard last, on this machine's monotonic clock.
	Heard time.Duration
	// Beacon says that the payload came straight from the node and not through others.
	Beacon bool
}

// report is one message about one node. Reports of a node are ordered by (start, seq).
type report struct {
	kind    byte
	start   uint64 // when the sender's seat was opened, in nanoseconds since 1970: a later life beats an earlier one
	seq     uint64
	applied uint64 // log index its replica has
	node    string
	payload []byte
}

const reportHeader = 1 + 8 + 8 + 8 + 1

var errShortReport = errors.New("report is cut off")

func (r report) encode() []byte {
	b := make([]byte, 0, reportHeader+len(r.node)+len(r.payload))
	b = append(b, r.kind)
	b = binary.BigEndian.AppendUint64(b, r.start)
	b = binary.BigEndian.AppendUint64(b, r.seq)
	b = binary.BigEndian.AppendUint64(b, r.applied)
	b = append(b, byte(len(r.node)))
	b = append(b, r.node...)
	return append(b, r.payload...)
}

func decodeReport(b []byte) (report, error) {
	if len(b) < reportHeader {
		return report{}, errShortReport
	}
	r := report{
		kind: b[0], start: binary.BigEndian.Uint64(b[1:]), seq: binary.BigEndian.Uint64(b[9:]), applied: binary.BigEndian.Uint64(b[17:]),
	}
	n := int(b[25])
	if len(b) < reportHeader+n {
		return report{}, errShortReport
	}
	r.node = string(b[reportHeader : reportHeader+n])
	r.payload = slices.Clone(b[reportHeader+n:])
	switch {
	case r.kind != kindBeacon && r.kind != kindState:
		return report{}, fmt.Errorf("report of kind %q is not known", r.kind)
	case r.node == "":
		return report{}, errors.New("report of no node")
	case len(r.payload) > maxPayload:
		return report{}, fmt.Errorf("report of %d bytes, at most %d", len(r.payload), maxPayload)
	}
	return r, nil
}

// heard is a report with when it was heard.
type heard struct {
	report
	at time.Time // with monotonic clock
}

func encodeBatch(all []heard, now time.Time) []byte {
	b := []byte{kindBatch}
	for _, h := range all {
		body := h.encode()
		if len(b)+8+len(body) > maxBatch {
			break
		}
		age := min(max(now.Sub(h.at).Milliseconds(), 0), 1<<31)
		b = binary.BigEndian.AppendUint32(b, uint32(age))
		b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
		b = append(b, body...)
	}
	return b
}

func decodeBatch(b []byte, now time.Time) ([]heard, error) {
	if len(b) == 0 || b[0] != kindBatch {
		return nil, errors.New("not a batch of reports")
	}
	var all []heard
	for b = b[1:]; len(b) > 0; {
		if len(b) < 8 {
			return nil, errShortReport
		}
		age, size := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
		if uint64(len(b)-8) < uint64(size) {
			return nil, errShortReport
		}
		r, err := decodeReport(b[8 : 8+size])
		if err != nil {
			return nil, err
		}
		all = append(all, heard{r, now.Add(-time.Duration(age) * time.Millisecond)})
		b = b[8+size:]
	}
	return all, nil
}

// healthTable is the newest report of every node. Safe for concurrent use.
type healthTable struct {
	mu      sync.Mutex
	nodes   map[string]*healthEntry
	changed chan struct{}
}

type healthEntry struct {
	last    heard     // newest report with a payload
	at      time.Time // when the node was heard last, with or without one
	gone    time.Time // when its process was proven to be gone; what was heard before says nothing any more
	applied uint64
}

func (e *healthEntry) touch(at time.Time) {
	if at.After(e.at) && at.After(e.gone) {
		e.at = at
	}
}

// goneSilence is how long a node whose process is proven gone counts as silent from that moment on: more than the three
// seconds in which it would be given work.
const goneSilence = 4 * time.Second

// lost notes the proof that a node's process is gone. A word that it says afterwards takes that back.
func (t *healthTable) lost(node string, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.nodes[node]
	if e == nil {
		return
	}
	e.gone = now
	if silent := now.Add(-goneSilence); e.at.After(silent) {
		e.at = silent
	}
	close(t.changed)
	t.changed = make(chan struct{})
}

func newHealthTable() *healthTable {
	return &healthTable{nodes: map[string]*healthEntry{}, changed: make(chan struct{})}
}

// hear takes a report that was heard at a moment, if it is news.
func (t *healthTable) hear(h heard) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.nodes[h.node]
	if e == nil {
		e = &healthEntry{}
		t.nodes[h.node] = e
	}
	if h.kind == kindBeacon {
		e.applied = h.applied
		e.touch(h.at)
	}
	if len(h.payload) == 0 {
		return // only to say that it lives and how far its replica is
	}
	older := h.start < e.last.start || h.start == e.last.start && h.seq <= e.last.seq
	// A beacon comes from the node itself: a smaller start then means that its clock was set back, not that it is old.
	if older && (h.kind != kindBeacon || h.start == e.last.start) {
		return
	}
	e.last = h
	e.touch(h.at)
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *healthTable) news() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed
}

func (t *healthTable) forget(keep func(node string) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for node := range t.nodes {
		if !keep(node) {
			delete(t.nodes, node)
		}
	}
}

func (t *healthTable) all(now time.Time) []Health {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []Health
	for node, e := range t.nodes {
		if e.last.payload != nil {
			all = append(all, Health{Node: node, Payload: e.last.payload, Heard: now.Sub(e.at), Beacon: e.last.kind == kindBeacon})
		}
	}
	slices.SortFunc(all, func(a, b Health) int { return strings.Compare(a.Node, b.Node) })
	return all
}

// last gives what a node said of itself last, nil if nothing.
func (t *healthTable) last(node string) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.nodes[node]; e != nil {
		return e.last.payload
	}
	return nil
}

// progress gives how far a node's replica was, and how long ago it said so.
func (t *healthTable) progress(node string, now time.Time) (applied uint64, ago time.Duration, known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.nodes[node]
	if e == nil || e.at.IsZero() {
		return 0, 0, false
	}
	return e.applied, now.Sub(e.at), true
}

// batch gives the states to hand to another node, heard last first.
func (t *healthTable) batch(now time.Time) []byte {
	t.mu.Lock()
	var all []heard
	for _, e := range t.nodes {
		if e.last.payload != nil {
			h := e.last
			h.kind, h.at = kindState, e.at
			all = append(all, h)
		}
	}
	t.mu.Unlock()
	slices.SortFunc(all, func(a, b heard) int { return cmp.Or(b.at.Compare(a.at), strings.Compare(a.node, b.node)) })
	return encodeBatch(all, now)
}
