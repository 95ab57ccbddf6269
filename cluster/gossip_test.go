package cluster

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

func healthOf(m *machine, node string) (Health, bool) {
	for _, h := range m.seat.Health() {
		if h.Node == node {
			return h, true
		}
	}
	return Health{}, false
}

func hears(m *machine, from *machine, payload string) func() bool {
	return func() bool {
		h, ok := healthOf(m, from.seat.ID())
		return ok && string(h.Payload) == payload
	}
}

func allAlive(m *machine, n int) func() bool {
	return func() bool {
		alive := 0
		for _, member := range m.seat.Members() {
			if member.Alive == Alive {
				alive++
			}
		}
		return alive == n
	}
}

func TestBeaconsReachTheLeaderAndChangesReachAll(t *testing.T) {
	all := lab(t, 3)
	for _, m := range all {
		eventually(t, "all are alive", allAlive(m, 3))
	}
	leader, followers := leaderOf(t, all)

	followers[0].seat.SendBeacon([]byte("gpu 0: 41 degrees"))
	eventually(t, "the leader hears the beacon", hears(leader, followers[0], "gpu 0: 41 degrees"))
	first, _ := healthOf(leader, followers[0].seat.ID())
	if !first.Beacon || first.Heard < 0 || first.Heard > 5*time.Second {
		t.Errorf("beacon %+v", first)
	}
	leader.seat.SendBeacon([]byte("mine"))
	if !hears(leader, leader, "mine")() {
		t.Error("the leader does not hear itself")
	}
	if hears(followers[1], followers[0], "gpu 0: 41 degrees")() {
		t.Error("a beacon went to a follower at once")
	}

	followers[0].seat.Publish([]byte("gpu 0 fell off the bus"))
	for _, m := range all {
		eventually(t, "all hear the change", hears(m, followers[0], "gpu 0 fell off the bus"))
	}
	large := strings.Repeat("x", 20_000) // beyond any packet
	followers[1].seat.Publish([]byte(large))
	for _, m := range all {
		eventually(t, "all hear the large change", hears(m, followers[1], large))
	}
	followers[1].seat.SendBeacon(bytes.Repeat([]byte("y"), 5000))
	eventually(t, "the leader hears the large beacon", hears(leader, followers[1], strings.Repeat("y", 5000)))
	followers[1].seat.SendBeacon(make([]byte, maxPayload+1))
	if h, _ := healthOf(followers[1], followers[1].seat.ID()); len(h.Payload) > maxPayload {
		t.Error("a payload beyond the limit was taken")
	}
}

func TestALateComerLearnsTheStateOfAll(t *testing.T) {
	all := lab(t, 2)
	all[1].seat.Publish([]byte("busy"))
	eventually(t, "the first hears it", hears(all[0], all[1], "busy"))
	late := newMachine(t, "late")
	late.start(joining(all[0].addr, newToken(t, all[0], 1)))
	eventually(t, "the late comer hears it", hears(late, all[1], "busy"))
}

func TestAMemberForgottenByGossipIsFoundAgain(t *testing.T) {
	all := []*machine{newMachine(t, "m0"), newMachine(t, "m1")}
	for _, m := range all {
		m.tuning.Gossip.ForgetDead = 300 * time.Millisecond
	}
	all[0].start(found("lab"))
	all[1].start(joining(all[0].addr, newToken(t, all[0], 1)))
	for _, m := range all {
		eventually(t, "both are alive", allAlive(m, 2))
	}
	all[1].kill()
	eventually(t, "it is missed", func() bool { return len(all[0].seat.missing()) == 1 })
	eventually(t, "it is dead for long enough to be forgotten", func() bool {
		m, _ := all[0].seat.gossip.member(all[1].seat.ID())
		return !m.alive && time.Since(m.since) > 3*all[0].tuning.Gossip.ForgetDead
	})
	// It comes back deaf: it knows nobody, so only the others can find it.
	if err := all[1].open(again); err != nil {
		t.Fatal(err)
	}
	if err := all[1].seat.file.update(func(f *clusterFile) { f.Peers = nil }); err != nil {
		t.Fatal(err)
	}
	all[1].run()
	for _, m := range all {
		eventually(t, "both are alive again", allAlive(m, 2))
	}
}

func TestOnlyNewsIsHeard(t *testing.T) {
	table, now := newHealthTable(), time.Now()
	say := func(kind byte, start, seq uint64, payload string, at time.Time) {
		table.hear(heard{report{kind: kind, start: start, seq: seq, node: "n", payload: []byte(payload)}, at})
	}
	want := func(payload string, ago time.Duration) {
		t.Helper()
		all := table.all(now)
		if len(all) != 1 || string(all[0].Payload) != payload || all[0].Heard != ago {
			t.Errorf("have %+v, want %q heard %v ago", all, payload, ago)
		}
	}
	say(kindBeacon, 5, 10, "ten", now.Add(-4*time.Second))
	want("ten", 4*time.Second)
	say(kindState, 5, 9, "nine, late", now)
	want("ten", 4*time.Second)
	say(kindState, 5, 11, "eleven, by others, old", now.Add(-9*time.Second))
	want("eleven, by others, old", 4*time.Second) // heard-age never grows by hearsay
	say(kindBeacon, 5, 12, "", now.Add(-time.Second))
	want("eleven, by others, old", time.Second) // it lives; what it said stands
	say(kindState, 4, 99, "from an earlier life", now)
	want("eleven, by others, old", time.Second)
	say(kindBeacon, 4, 1, "its clock was set back", now)
	want("its clock was set back", 0)
	if _, ago, known := table.progress("n", now); !known || ago != 0 {
		t.Error("progress of n is not known")
	}
	table.forget(func(string) bool { return false })
	if len(table.all(now)) != 0 {
		t.Error("a forgotten node is still there")
	}
}

func TestMetaAndReportsFitTheirPackets(t *testing.T) {
	m := newMachine(t, "solo")
	seat := m.start(found("lab"))
	if n := len(seat.gossip.meta); n > 200 {
		t.Errorf("node meta has %d bytes", n)
	}
	// memberlist silently never sends a broadcast that does not fit: packet, label, encryption, compound header.
	size := len(seat.report(kindState, make([]byte, broadcastPayload)).encode())
	if room := 1200 - 2 - (2 + len(seat.ClusterID())) - 45 - 2 - 1; size > room {
		t.Errorf("the largest broadcast has %d bytes, a packet has room for %d", size, room)
	}
}

func FuzzDecodeReport(f *testing.F) {
	f.Add(report{kind: kindBeacon, start: 1, seq: 2, applied: 3, node: "n", payload: []byte("p")}.encode())
	f.Add(encodeBatch([]heard{{report{kind: kindState, node: "n", payload: []byte("p")}, time.Now()}}, time.Now()))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeReport(b); err == nil {
			back, err := decodeReport(r.encode())
			if err != nil || back.node != r.node || !bytes.Equal(back.payload, r.payload) || back.seq != r.seq {
				t.Fatalf("%+v came back as %+v, %v", r, back, err)
			}
		}
		all, err := decodeBatch(b, time.Now())
		if err == nil && len(b) == 0 {
			t.Fatal("nothing is a batch")
		}
		if err != nil && errors.Is(err, errShortReport) && len(all) != 0 {
			t.Fatal("half a batch was handed out")
		}
	})
}
