package cluster

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/deveronica/cvlab/fsm"
)

func submission(key string) fsm.Entry {
	return fsm.Entry{By: "ana", Key: key, Command: &fsm.Submit{Spec: fsm.Spec{
		Project: "p", Priority: fsm.Normal, Command: []string{"true"}, Device: fsm.Device{Kind: fsm.DeviceCPU},
	}}}
}

func TestAFoundedClusterKeepsWhatItAcknowledged(t *testing.T) {
	m := newMachine(t, "solo")
	seat := m.start(found("lab"))
	if got := submit(t, m, "a"); got != 1 {
		t.Fatalf("first experiment has number %d, want 1", got)
	}
	id, name := seat.ClusterID(), seat.Name()
	if id == "" || name != "lab" {
		t.Fatalf("cluster %q named %q", id, name)
	}
	if err := m.stop(); err != nil {
		t.Fatalf("run ended with %v", err)
	}
	seat = m.start(found("another name, which must be ignored"))
	if got := submit(t, m, "b"); got != 2 {
		t.Fatalf("after a restart the next experiment has number %d, want 2", got)
	}
	if got := submit(t, m, "a"); got != 1 {
		t.Fatalf("a repeated key gave experiment %d, want the first one's 1", got)
	}
	if seat.ClusterID() != id || seat.Name() != "lab" {
		t.Fatalf("after a restart the cluster is %q named %q", seat.ClusterID(), seat.Name())
	}
}

func TestAloneItLeadsAtOnce(t *testing.T) {
	m := newMachine(t, "solo")
	m.tuning.Heartbeat, m.tuning.Lease = 5*time.Second, time.Second
	start := time.Now()
	m.start(found("lab"))
	submit(t, m, "a")
	if took := time.Since(start); took > 3*time.Second {
		t.Fatalf("the only voter took %v for its first answer; it waited for its election timer", took)
	}
}

func TestADirectoryWithoutClusterIsRefused(t *testing.T) {
	m := newMachine(t, "lost")
	if err := m.tryStart(again); !errors.Is(err, ErrNoCluster) {
		t.Fatalf("open gave %v, want ErrNoCluster", err)
	}
}

func TestALostLogIsNotBootstrappedAgain(t *testing.T) {
	m := newMachine(t, "solo")
	m.start(found("lab"))
	submit(t, m, "a")
	m.stop()
	if err := os.RemoveAll(m.seat.raftDir()); err != nil {
		t.Fatal(err)
	}
	err := m.tryStart(found("lab"))
	if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "cvlab recover") {
		t.Fatalf("open gave %v, want ErrDamaged with advice", err)
	}
}

func TestADamagedClusterFileIsRefusedWithAdvice(t *testing.T) {
	m := newMachine(t, "solo")
	m.start(found("lab"))
	m.stop()
	if err := os.WriteFile(m.seat.file.path, []byte(`{"format":1,"phase":"mem`), 0o600); err != nil {
		t.Fatal(err)
	}
	err := m.tryStart(found("lab"))
	if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "--as-new") {
		t.Fatalf("open gave %v, want ErrDamaged with advice", err)
	}
}

func TestThreeMachinesBecomeThreeVotersAndAnyTakesWrites(t *testing.T) {
	all := lab(t, 3)
	started := time.Now()
	for _, m := range all {
		waitVoters(t, m, 3)
	}
	t.Logf("three voters after %v", time.Since(started))
	_, followers := leaderOf(t, all)
	for i, m := range followers {
		n := submit(t, m, m.name)
		// Read your own write: the follower's own replica has it already.
		if e := m.seat.State().View().Experiment(n); e == nil {
			t.Fatalf("follower %d answered experiment %d before its own replica had it", i, n)
		}
	}
	for _, m := range all {
		eventually(t, "all replicas agree", func() bool {
			return m.seat.State().View().Digest() == all[0].seat.State().View().Digest()
		})
	}
	for _, member := range all[1].seat.Members() {
		if member.Role != RoleVoter || !member.Registered || member.Name == "" {
			t.Errorf("member %+v", member)
		}
	}
}

func TestWritesOnAFollowerDoNotWaitForTheCommitTimer(t *testing.T) {
	// Followers hear of a commit with the next entry, or after this timer.
	all := tunedLab(t, 3, func(tuning *Tuning) { tuning.Commit = 20 * time.Second })
	waitVoters(t, all[0], 3)
	_, followers := leaderOf(t, all)
	second := followers[0]
	submit(t, second, "warm up")
	start := time.Now()
	for range 20 {
		submit(t, second, "")
	}
	took := time.Since(start)
	t.Logf("20 writes through a follower: %v", took)
	if took > 5*time.Second {
		t.Errorf("20 writes through a follower took %v", took)
	}
}

func TestAConfirmedReadSeesEveryEarlierAnswer(t *testing.T) {
	all := lab(t, 3)
	waitVoters(t, all[0], 3)
	leader, followers := leaderOf(t, all)
	for i := range 20 {
		n := submit(t, leader, "")
		f := followers[i%2]
		if err := f.seat.Barrier(t.Context()); err != nil {
			t.Fatalf("barrier: %v", err)
		}
		if f.seat.State().View().Experiment(n) == nil {
			t.Fatalf("read %d after a barrier does not show experiment %d", i, n)
		}
	}
}

func TestAKilledLeaderIsReplacedByProof(t *testing.T) {
	// So calm that only proof can be quick, also on a machine that stalls for a second.
	all := tunedLab(t, 3, func(tuning *Tuning) {
		tuning.Heartbeat, tuning.Lease, tuning.RPC = 5*time.Second, 2*time.Second, 5*time.Second
	})
	for _, m := range all {
		waitVoters(t, m, 3)
	}
	leader, followers := leaderOf(t, all)
	for _, f := range followers {
		submit(t, f, f.name) // connections are warm, as in a cluster that works
	}
	hearsOf := func(m *machine) time.Duration {
		for _, h := range m.seat.Health() {
			if h.Node == leader.seat.ID() {
				return h.Heard
			}
		}
		return time.Hour
	}
	leader.seat.Publish([]byte("well"))
	eventually(t, "all have heard how the leader feels", func() bool {
		return hearsOf(followers[0]) < time.Second && hearsOf(followers[1]) < time.Second
	})
	leader.kill()
	start := time.Now()
	submit(t, followers[0], "after the kill")
	took := time.Since(start)
	t.Logf("next answer after %v", took)
	if took > leader.tuning.Heartbeat/2 {
		t.Errorf("the next answer took %v, no faster than the election timer", took)
	}
	submit(t, followers[1], "after the kill")
	next, _ := leaderOf(t, followers)
	if heard := hearsOf(next); heard < 3*time.Second {
		t.Errorf("the next leader takes the dead one for alive, heard %v ago: it would give it work", heard)
	}
}

func TestAStoppingLeaderHandsOver(t *testing.T) {
	all := lab(t, 3)
	for _, m := range all {
		waitVoters(t, m, 3)
	}
	leader, followers := leaderOf(t, all)
	if err := leader.stop(); err != nil {
		t.Fatalf("run ended with %v", err)
	}
	if id, known := followers[0].seat.Leader(); known && id == leader.seat.ID() {
		t.Error("a stopped leader is still taken for the leader")
	}
	submit(t, followers[0], "next")
	leader.start(again)
	n := submit(t, leader, "back")
	if leader.seat.State().View().Experiment(n) == nil {
		t.Error("the returned machine does not show its own write")
	}
	waitVoters(t, leader, 3) // SIGTERM changed no membership
}

func TestAnUnknownCommandStopsTheNode(t *testing.T) {
	m := newMachine(t, "solo")
	seat := m.start(found("lab"))
	submit(t, m, "a")
	// As a leader of a newer version would commit it.
	unknown := seat.raft.Apply([]byte(`{"kind":"from the future","at":"2026-01-01T00:00:00Z","body":{}}`), time.Second)
	_ = unknown.Error()
	<-seat.replica.broken
	// Facts of before: what the node itself had put into the log in front of the entry is among them.
	before := seat.State().View().Digest()
	if at := seat.State().Index(); at >= unknown.Index() {
		t.Errorf("the facts are at %d, the entry that was not understood is %d", at, unknown.Index())
	}
	good, err := fsm.Encode(submission("c"))
	if err != nil {
		t.Fatal(err)
	}
	if a, _ := seat.replica.Apply(&raft.Log{Index: unknown.Index() + 1, Data: good}).(applied); !errors.Is(a.err, fsm.ErrUnknownCommand) {
		t.Errorf("a stopped replica answered the next entry with %+v", a)
	}
	_, err = seat.Commit(t.Context(), submission("b"))
	if !errors.Is(err, ErrNotApplied) {
		t.Errorf("a stopped replica answered a proposal with %v", err)
	}
	m.group.Wait()
	m.group = nil
	if !errors.Is(m.err, fsm.ErrUnknownCommand) || !strings.Contains(m.err.Error(), "upgrade") {
		t.Fatalf("run ended with %v, want the sentence of ErrUnknownCommand", m.err)
	}
	if seat.State().View().Digest() != before {
		t.Error("facts changed after the entry that was not understood")
	}
	if _, err := seat.replica.Snapshot(); err == nil {
		t.Error("a stopped replica gives a snapshot")
	}
	// And it stays so: the log holds the entry.
	if err := m.tryStart(again); err != nil {
		t.Fatalf("open: %v", err)
	}
	m.group.Wait()
	m.group = nil
	if !errors.Is(m.err, fsm.ErrUnknownCommand) {
		t.Fatalf("second run ended with %v", m.err)
	}
}

func TestTheLeaderRefusesWhatItDoesNotUnderstand(t *testing.T) {
	m := newMachine(t, "solo")
	seat := m.start(found("lab"))
	submit(t, m, "a")
	a := seat.answerForward(t.Context(), "somebody", forwardRequest{
		Op: opPropose, Hops: 1, Limit: 1000, Entry: []byte(`{"kind":"from the future","at":"2026-01-01T00:00:00Z","body":{}}`),
	})
	if !errors.Is(a.err(), ErrNotUnderstood) {
		t.Fatalf("answer %+v, want ErrNotUnderstood", a)
	}
	submit(t, m, "b")
}

func TestWithoutAMajorityNothingIsClaimed(t *testing.T) {
	all := lab(t, 3)
	for _, m := range all {
		waitVoters(t, m, 3)
	}
	leader, followers := leaderOf(t, all)
	followers[0].kill()
	followers[1].kill()
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	_, err := leader.seat.Propose(ctx, submission("alone"))
	if !errors.Is(err, ErrUnknown) {
		t.Errorf("the first write without a majority gave %v, want ErrUnknown: it lies in the leader's log", err)
	}
	eventually(t, "the leader has stepped down", func() bool { return !leader.seat.IsLeader() })
	ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err = leader.seat.Propose(ctx, submission("nobody leads")); !errors.Is(err, ErrNotApplied) {
		t.Errorf("a write without a leader gave %v, want ErrNotApplied", err)
	}
	// The majority returns; the repeat with the same key finds out what became of the first.
	followers[0].start(again)
	n := submit(t, followers[0], "alone")
	if again := submit(t, followers[0], "alone"); again != n {
		t.Errorf("one key made experiments %d and %d", n, again)
	}
}

func TestAVoterThatStaysAwayIsReplaced(t *testing.T) {
	all := tunedLab(t, 4, func(tuning *Tuning) { tuning.VoterAway = time.Second })
	for _, m := range all {
		waitVoters(t, m, 3)
	}
	leader, followers := leaderOf(t, all)
	var gone, standby *machine
	for _, m := range followers {
		if m.seat.raft.isVoter() {
			gone = m
		} else {
			standby = m
		}
	}
	gone.kill()
	eventually(t, "the stand-by votes for the absent", func() bool {
		v := voters(leader.seat.raft.servers())
		return len(v) == 3 && slices.Contains(v, standby.seat.ID())
	})
	submit(t, standby, "a")
	gone.start(again)
	submit(t, gone, "back, without a vote")
	if gone.seat.raft.isVoter() {
		t.Error("the returned machine kept its vote")
	}
}

func TestAllKilledAndStartedAgainLoseNothing(t *testing.T) {
	all := lab(t, 3)
	for _, m := range all {
		waitVoters(t, m, 3)
	}
	n := submit(t, all[1], "acknowledged")
	for _, m := range all {
		m.kill()
	}
	for _, m := range all {
		m.start(again) // each starts with an empty replica, and must let the others in all the same
	}
	if got := submit(t, all[2], "acknowledged"); got != n {
		t.Errorf("the acknowledged experiment %d is now %d", n, got)
	}
}
