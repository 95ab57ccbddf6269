package cluster

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

// calm makes elections by timers take longer than these tests wait for anything quick.
func calm(tuning *Tuning) {
	tuning.Heartbeat, tuning.Lease, tuning.RPC = 5*time.Second, 2*time.Second, 5*time.Second
	tuning.LeaderHang, tuning.FollowerHang = time.Second, time.Second
}

// ended waits for Run to end by itself and gives its error.
func (m *machine) ended() error {
	m.t.Helper()
	ended := make(chan struct{})
	m.watch.Go(func() { m.group.Wait(); close(ended) })
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		m.t.Fatalf("%s did not end", m.name)
	}
	m.group = nil
	return m.err
}

func votingLab(t *testing.T, tune func(*Tuning)) (leader *machine, followers []*machine) {
	t.Helper()
	all := tunedLab(t, 3, tune)
	for _, m := range all {
		waitVoters(t, m, 3)
	}
	for _, m := range all {
		submit(t, m, m.name)
	}
	leader, followers = leaderOf(t, all)
	eventually(t, "all logs are equal", func() bool {
		last := leader.seat.raft.LastIndex()
		return followers[0].seat.raft.LastIndex() == last && followers[1].seat.raft.LastIndex() == last
	})
	return leader, followers
}

func TestALeaderWhoseDiskHangsIsReplaced(t *testing.T) {
	leader, followers := votingLab(t, calm)
	release := leader.disk.hang()
	defer release()
	start := time.Now()
	// This write lies in the leader's hung log; its key lets it be asked again from the next leader.
	n := submit(t, followers[0], "while the disk hangs")
	took := time.Since(start)
	t.Logf("next answer after %v", took)
	if took > leader.tuning.Heartbeat {
		t.Errorf("the next answer took %v, no faster than the election timer", took)
	}
	if again := submit(t, followers[1], "while the disk hangs"); again != n {
		t.Errorf("one key made experiments %d and %d", n, again)
	}
	if err := leader.ended(); !errors.Is(err, ErrDiskHangs) || !strings.Contains(err.Error(), "raft.db") {
		t.Errorf("run ended with %v, want ErrDiskHangs and the file", err)
	}
	release()
	leader.start(again)
	submit(t, leader, "back")
}

func TestASuccessorIsNamedPastTheLoopThatHangs(t *testing.T) {
	// Nothing closes here, so that no other way to a new leader is quicker than the timers.
	leader, followers := votingLab(t, func(tuning *Tuning) { calm(tuning); tuning.LeaderHang = time.Hour })
	defer leader.disk.hang()()
	leader.seat.passOn(t.Context())
	start := time.Now()
	submit(t, followers[0], "to the successor")
	if took := time.Since(start); took > leader.tuning.Heartbeat {
		t.Errorf("the next answer took %v, no faster than the election timer", took)
	}
	if id, known := followers[1].seat.Leader(); !known || id == leader.seat.ID() {
		t.Error("the old leader is still taken for the leader")
	}
}

func TestAFollowerWhoseDiskHangsStopsAnswering(t *testing.T) {
	leader, followers := votingLab(t, calm)
	sick := followers[0]
	term := leader.seat.Stats().Term
	release := sick.disk.hang()
	defer release()
	submit(t, leader, "one of three is enough to miss")
	if err := sick.ended(); !errors.Is(err, ErrDiskHangs) {
		t.Errorf("run ended with %v, want ErrDiskHangs", err)
	}
	submit(t, followers[1], "without it")
	release()
	sick.start(again)
	submit(t, sick, "with it")
	if now := leader.seat.Stats(); !now.Leads || now.Term != term {
		t.Errorf("the leader was touched: %+v, its term was %d", now, term)
	}
}

func TestALeaderOnAFullDiskUsesItsReserveThenStops(t *testing.T) {
	leader, followers := votingLab(t, func(*Tuning) {})
	leader.disk.fail(syscall.ENOSPC)
	submit(t, leader, "from the reserve")
	if leader.seat.Disk() != DiskFull && leader.seat.space.reserve.held() {
		t.Error("the reserve was not given up")
	}
	leader.disk.failAll(syscall.ENOSPC)
	submit(t, followers[0], "when it is used up")
	if err := leader.ended(); !errors.Is(err, ErrDiskFull) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("run ended with %v, want ErrDiskFull", err)
	}
	for _, f := range followers {
		eventually(t, "the others know that its disk is full", func() bool { return f.seat.diskOf(leader.seat.ID()) == DiskFull })
		if note := f.seat.DiskNote(); note != leader.name+" is out of disk space; free some there" {
			t.Errorf("note %q", note)
		}
	}

	leader.start(again)
	submit(t, leader, "back")
	eventually(t, "its disk has room again", func() bool { return followers[0].seat.DiskNote() == "" || publish(leader) })
}

// publish is what the node does with every change.
func publish(m *machine) bool {
	m.seat.Publish([]byte(m.seat.Disk()))
	return false
}

func TestAFollowerThatCannotWriteItsTermEndsInOrder(t *testing.T) {
	leader, followers := votingLab(t, func(*Tuning) {})
	followers[0].disk.failAll(syscall.EIO)
	if err := leader.stop(); err != nil { // hands over: the next term must be written by both
		t.Fatal(err)
	}
	if err := followers[0].ended(); !errors.Is(err, ErrDiskFailed) || !errors.Is(err, syscall.EIO) {
		t.Errorf("run ended with %v, want ErrDiskFailed", err)
	}
	leader.start(again)
	submit(t, leader, "two of three")
}

func TestALeaderThatCommitsNothingSaysSoAndNamesWho(t *testing.T) {
	leader, followers := votingLab(t, func(tuning *Tuning) { calm(tuning); tuning.FollowerHang = time.Hour })
	var releases []func()
	for _, f := range followers {
		releases = append(releases, f.disk.hang())
	}
	defer func() {
		for _, release := range releases {
			release()
		}
	}()
	start := time.Now()
	_, err := leader.seat.Propose(t.Context(), submission("first"))
	trouble, ok := errors.AsType[*TroubleError](err)
	if !ok || !errors.Is(err, ErrUnknown) || errors.Is(err, ErrNotApplied) {
		t.Fatalf("the first write gave %v, want ErrUnknown", err)
	}
	for _, f := range followers {
		if !strings.Contains(trouble.Sentence, f.name) {
			t.Errorf("%q does not name %s", trouble.Sentence, f.name)
		}
	}
	t.Logf("after %v: %v", time.Since(start), err)
	if !leader.seat.IsLeader() {
		t.Error("the leader stepped down; then this test shows nothing")
	}
	before := leader.seat.Stats().Last
	if _, err = leader.seat.Propose(t.Context(), submission("second")); !errors.Is(err, ErrStalled) || !errors.Is(err, ErrNotApplied) {
		t.Errorf("the second write gave %v, want ErrStalled", err)
	}
	if _, err = followers[0].seat.Propose(t.Context(), submission("third")); !errors.Is(err, ErrStalled) {
		t.Errorf("a write through a follower gave %v, want ErrStalled", err)
	}
	if err = leader.seat.Barrier(t.Context()); !errors.Is(err, ErrStalled) {
		t.Errorf("a confirmed read gave %v, want ErrStalled", err)
	}
	if after := leader.seat.Stats().Last; after != before {
		t.Errorf("refused writes were appended: the log grew from %d to %d", before, after)
	}
	if leader.seat.Trouble() == "" {
		t.Error("the leader knows no trouble")
	}
	for _, release := range releases {
		release()
	}
	eventually(t, "changes are committed again", func() bool { return leader.seat.Trouble() == "" })
	submit(t, followers[1], "first")
}

func TestNoExperimentsAreTakenWhileAMajorityHasNoRoom(t *testing.T) {
	leader, followers := votingLab(t, func(*Tuning) {})
	first := submit(t, leader, "a repeat gets its answer")
	want := followers[0].name + " and " + followers[1].name + " are out of disk space; free some there"
	if followers[0].name > followers[1].name {
		want = followers[1].name + " and " + followers[0].name + " are out of disk space; free some there"
	}
	followers[0].seat.Publish([]byte(DiskFull))
	submit(t, leader, "one may be full")
	followers[1].seat.Publish([]byte(DiskFull))
	// The follower itself believes that it has room; the leader has heard both.
	for _, m := range []*machine{leader, followers[0]} {
		eventually(t, "a submission is refused", func() bool {
			_, err := m.seat.Propose(t.Context(), submission(""))
			if err != nil && (!errors.Is(err, ErrNoRoom) || !errors.Is(err, ErrNotApplied) || err.Error() != want) {
				t.Fatalf("%s refused with %v, want %q", m.name, err, want)
			}
			return err != nil
		})
	}
	if again := submit(t, leader, "a repeat gets its answer"); again != first {
		t.Errorf("the repeat gave %d, the first %d", again, first)
	}
	if r, err := leader.seat.Propose(t.Context(), fsm.Entry{By: "ana", Command: &fsm.Cancel{Experiments: []uint64{first}}}); err != nil || r.Refused() {
		t.Errorf("a cancel gave %+v, %v", r, err)
	}
	// They stop for it; who is left still says why.
	for _, f := range followers {
		f.kill()
	}
	eventually(t, "the leader steps down", func() bool { return !leader.seat.IsLeader() })
	eventually(t, "nobody is known to lead", func() bool { _, known := leader.seat.Leader(); return !known })
	ctx, cancel := context.WithTimeout(t.Context(), 9*time.Second)
	defer cancel()
	_, err := leader.seat.Propose(ctx, submission(""))
	if !errors.Is(err, ErrNoLeader) || !strings.Contains(err.Error(), want) || ctx.Err() != nil {
		t.Errorf("without a leader: %v, want ErrNoLeader and %q", err, want)
	}
	// Anything else waits for an election first, and says the same.
	_, err = leader.seat.Propose(ctx, fsm.Entry{By: "ana", Command: &fsm.Cancel{Experiments: []uint64{first}}})
	if !errors.Is(err, ErrNoLeader) || !strings.Contains(err.Error(), want) || ctx.Err() != nil {
		t.Errorf("a cancel without a leader: %v, want ErrNoLeader and %q", err, want)
	}
}

func TestALeaderOnALowDiskHandsOver(t *testing.T) {
	all := []*machine{newMachine(t, "low"), newMachine(t, "m1"), newMachine(t, "m2")}
	all[0].start(func(o *Options) { found("lab")(o); o.Disk.Floor = 1 << 60 })
	token := newToken(t, all[0], 2)
	for _, m := range all[1:] {
		m.start(joining(all[0].addr, token))
	}
	for _, m := range all {
		waitVoters(t, m, 3)
	}
	if all[0].seat.Disk() != DiskLow {
		t.Fatalf("its disk is %q", all[0].seat.Disk())
	}
	eventually(t, "another leads", func() bool {
		id, known := all[1].seat.Leader()
		return known && id != all[0].seat.ID()
	})
	submit(t, all[1], "a")
}

func TestProgressIsToldFromStandstill(t *testing.T) {
	const step = 500 * time.Millisecond
	run := func(p *progress, n int, look func(i int) seen) (stalled bool, stuck []string) {
		for i := range n {
			stalled, stuck = p.step(step, look(i))
		}
		return stalled, stuck
	}
	p := &progress{}
	if stalled, stuck := run(p, 1000, func(int) seen { return seen{commit: 7, applied: map[string]uint64{"b": 7, "c": 7}} }); stalled || stuck != nil {
		t.Errorf("an idle cluster: stalled %v, stuck %v", stalled, stuck)
	}
	waits := func(int) seen { return seen{commit: 7, waits: true, applied: map[string]uint64{"b": 7, "c": 7}} }
	if stalled, _ := run(p, 7, waits); stalled {
		t.Error("stalled after 3.5 s")
	}
	if stalled, _ := run(p, 1, waits); !stalled {
		t.Error("not stalled after 4 s")
	}
	if stalled, _ := run(p, 1, func(int) seen { return seen{commit: 8, waits: true} }); stalled {
		t.Error("stalled although something was committed")
	}
	p = &progress{}
	lag := func(i int) seen {
		return seen{commit: uint64(10 + i), waits: true, applied: map[string]uint64{"b": uint64(9 + i), "c": 5}}
	}
	if _, stuck := run(p, 20, lag); stuck != nil {
		t.Errorf("stuck after 9.5 s: %v", stuck)
	}
	if stalled, stuck := p.step(step, lag(20)); stalled || len(stuck) != 1 || stuck[0] != "c" {
		t.Errorf("after 10 s: stalled %v, stuck %v", stalled, stuck)
	}
	if _, stuck := p.step(step, seen{commit: 31, applied: map[string]uint64{"b": 30, "c": 6}}); stuck != nil {
		t.Errorf("stuck although it moves: %v", stuck)
	}
}
