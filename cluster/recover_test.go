package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

func (m *machine) plan() *Recovery {
	m.t.Helper()
	r, err := PlanRecovery(m.t.Context(), RecoverOptions{Dir: m.dir, Identity: m.id, Name: m.name, Logger: testLog(m.t, m.name)})
	if err != nil {
		m.t.Fatalf("plan recovery of %s: %v", m.name, err)
	}
	return r
}

func (m *machine) recover() *Recovery {
	m.t.Helper()
	r := m.plan()
	if _, err := r.Carry(time.Now()); err != nil {
		m.t.Fatalf("recover %s: %v", m.name, err)
	}
	return r
}

func TestOneOfThreeGoesOnWhenTheOthersAreLost(t *testing.T) {
	all := lab(t, 3)
	for _, m := range all {
		waitVoters(t, m, 3)
	}
	for i := range 5 {
		submit(t, all[i%3], fmt.Sprint(i))
	}
	survivor, lost := all[2], all[:2]
	eventually(t, "the survivor knows it all", func() bool { return survivor.seat.State().View().Experiment(5) != nil })
	for _, m := range lost {
		m.kill()
	}
	survivor.stop()
	r := survivor.recover()
	if len(r.Against) != 0 || len(r.Lost) != 0 || len(r.Peers) != 2 || r.Epoch != 2 || r.Time.IsZero() {
		t.Fatalf("the recovery was %+v", r)
	}
	survivor.start(again)
	if got := submit(t, survivor, "after"); got != 6 {
		t.Errorf("the next experiment has number %d, want 6", got)
	}
	if got := submit(t, survivor, "3"); got != 4 {
		t.Errorf("a repeat of an old request gave %d, want 4: the keys were lost", got)
	}
	if v := voters(survivor.seat.raft.servers()); len(v) != 1 {
		t.Errorf("%d voters after a recovery, want 1", len(v))
	}
	if _, _, epoch := survivor.seat.State().View().Cluster(); epoch != 2 {
		t.Errorf("the facts are of epoch %d, want 2", epoch)
	}
	// A peer of the old epoch comes back, finds that its cluster went on without it, and stops.
	old := lost[0]
	old.start(again)
	old.group.Wait()
	old.group = nil
	if !errors.Is(old.err, ErrOutdated) || !strings.Contains(old.err.Error(), "--as-new") {
		t.Fatalf("the old peer's run ended with %v, want ErrOutdated", old.err)
	}
	// As a new node it is welcome.
	reborn := newMachine(t, "reborn")
	reborn.start(joining(survivor.addr, newToken(t, survivor, 1)))
	submit(t, reborn, "through the new node")
}

func TestRecoveryIsRefusedWhileAnotherHasMore(t *testing.T) {
	all := lab(t, 3)
	for _, m := range all {
		waitVoters(t, m, 3)
	}
	submit(t, all[0], "a")
	behind, ahead, third := all[0], all[1], all[2]
	behind.stop()
	submit(t, ahead, "b")
	// The others work: there is nothing to recover.
	r := behind.plan()
	if len(r.Against) == 0 || !strings.Contains(r.Against[0], "cvlab up") {
		t.Fatalf("nothing stands against a recovery beside a leader: %+v", r.Peers)
	}
	third.kill()
	eventually(t, "the one that is left has no leader", func() bool { _, known := ahead.seat.Leader(); return !known })
	r = behind.plan()
	if len(r.Against) == 0 || !strings.Contains(r.Against[0], "has more") {
		t.Fatalf("nothing stands against a recovery with less: %+v %+v", r, r.Peers)
	}
	if _, err := r.Carry(time.Now()); !errors.Is(err, ErrRecoveryRefused) {
		t.Fatalf("it was carried out: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(behind.dir, "*damaged*")); err != nil || len(left) > 0 {
		t.Errorf("a refused recovery left %v", left)
	}
}

func TestALonelyNodeIsRecoveredFromWhatIsWhole(t *testing.T) {
	m := worn(t)
	last := m.seat.raft.LastIndex()
	bulk(t, m, "lost", 3000)
	m.stop()
	before := m.seat.State().View()
	// The newest entry is damaged below the seals, and with it the newest snapshots.
	store, err := openStore(filepath.Join(m.seat.raftDir(), "raft.db"))
	if err != nil {
		t.Fatal(err)
	}
	tail, err := store.LastIndex()
	if err == nil {
		err = errors.Join(store.DeleteRange(tail, tail), store.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	names, err := snapshotNames(m.seat.raftDir())
	if err != nil || len(names) == 0 {
		t.Fatalf("snapshots %v, %v", names, err)
	}
	if err := os.Truncate(filepath.Join(m.seat.raftDir(), snapshotDir, names[len(names)-1], snapshotData), 10); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(m.dir, "cluster.json"), 50); err != nil {
		t.Fatal(err)
	}
	if err := m.tryStart(again); !errors.Is(err, ErrDamaged) {
		t.Fatalf("start gave %v, want ErrDamaged", err)
	}
	r := m.recover()
	said := strings.Join(r.Lost, "\n")
	for _, want := range []string{"cluster.json", names[len(names)-1], fmt.Sprintf("entries %d to %d", tail, tail)} {
		if !strings.Contains(said, want) {
			t.Errorf("the plan does not say that %s is lost:\n%s", want, said)
		}
	}
	m.start(again)
	if id, name, _ := m.seat.State().View().Cluster(); id == "" || name != "lab" || m.seat.ClusterID() != id {
		t.Errorf("it came back as cluster %q, %q", id, name)
	}
	if before.Experiment(41) == nil || m.seat.State().View().Experiment(41) == nil {
		t.Errorf("an experiment below entry %d was lost", last)
	}
	submit(t, m, "after")
}

func TestARecoveryThatIsCutShortIsFinished(t *testing.T) {
	m := newMachine(t, "solo")
	m.start(found("lab"))
	submit(t, m, "a")
	m.stop()
	r := m.plan()
	if err := r.build(); err != nil {
		t.Fatal(err)
	}
	if err := keep(m.dir, filepath.Join(m.dir, "damaged-now"), "raft"); err != nil {
		t.Fatal(err)
	}
	// Power cut: the old log is away and the new one is not in its place.
	if err := m.tryStart(again); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "cvlab recover") {
		t.Fatalf("start gave %v", err)
	}
	r = m.recover()
	if r.Epoch != 2 {
		t.Errorf("the second try opens epoch %d, want 2", r.Epoch)
	}
	m.start(again)
	if _, _, epoch := m.seat.State().View().Cluster(); epoch != 2 || m.seat.file.get().Epoch != 2 {
		t.Errorf("epoch %d in the facts, %d in the file", epoch, m.seat.file.get().Epoch)
	}
	if got := submit(t, m, "a"); got != 1 {
		t.Errorf("the request before the recovery gives %d now", got)
	}
	m.stop()
	// The same cut, and nobody runs recover again: the node takes the epoch from the facts.
	if err := m.seat.file.update(func(f *clusterFile) { f.Epoch = 1 }); err != nil {
		t.Fatal(err)
	}
	m.start(again)
	if e := m.seat.file.get().Epoch; e != 2 {
		t.Errorf("the file says epoch %d after a start, want 2", e)
	}
}

func TestAKeyThatWasLostIsReplacedByRecovery(t *testing.T) {
	m := newMachine(t, "solo")
	m.start(found("lab"))
	submit(t, m, "a")
	m.stop()
	former := m.id.ID()
	if err := os.Remove(filepath.Join(m.dir, "identity.pem")); err != nil {
		t.Fatal(err)
	}
	if err := m.tryStart(again); !errors.Is(err, ErrDamaged) { // it made a new key, and that is another node
		t.Fatalf("start gave %v, want ErrDamaged", err)
	}
	m.recover()
	m.start(again)
	if m.seat.ID() == former || !m.seat.o.Roster.IsMember(m.seat.ID()) {
		t.Fatalf("it is %s, a member: %v", m.seat.ID(), m.seat.o.Roster.IsMember(m.seat.ID()))
	}
	r, err := m.seat.Propose(t.Context(), fsm.Entry{By: m.seat.ID(), Command: &fsm.Remove{Node: former, Off: true}})
	if err != nil || r.Refused() {
		t.Fatalf("forget the former self: %+v, %v", r, err)
	}
}
