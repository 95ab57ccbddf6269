package leader

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deveronica/cvlab/fsm"
)

// standardWait is W of a lease of five minutes: 300 s, 2 % of it, 20 s and 5 s.
const standardWait = 331 * time.Second

// started lets an experiment run on a machine of a cluster with three voters, and gives its attempt.
func (l *lab) started(s fsm.Spec) *fsm.Attempt {
	l.t.Helper()
	l.beacon(gpu1, gpu2)
	id := l.submit(s)
	a := l.attempt(id)
	if a == nil {
		l.t.Fatal("not assigned")
	}
	l.must(&fsm.Start{Token: a.Token, Node: a.Node, BootID: "boot"})
	synctest.Wait()
	return l.attempt(id)
}

// renewing lets time pass while an attempt is renewed every ten seconds.
func (l *lab) renewing(d time.Duration, a *fsm.Attempt) {
	l.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		v, err := l.leader.Renew(l.t.Context(), a.Node, []fsm.Token{a.Token})
		if err != nil || !cmp.Equal(v, Verdict{Valid: []fsm.Token{a.Token}}) {
			l.t.Fatalf("renewal gave %+v, %v", v, err)
		}
		<-time.After(min(10*time.Second, time.Until(end)))
	}
	synctest.Wait()
}

func (l *lab) open(a *fsm.Attempt) bool { return l.state.View().Attempt(a.Token).Open() }

func TestSilentNodeLosesItsExperiment(t *testing.T) {
	lead(t, func(t *testing.T, l *lab) {
		l.voters = 3
		l.win(1)
		a := l.started(gpuSpec())
		l.renewing(20*time.Minute, a)
		last := time.Now().Add(-10 * time.Second) // of the last renewal
		l.beacons(time.Until(last.Add(standardWait-time.Millisecond)), gpu1, gpu2)
		if !l.open(a) {
			t.Fatal("expired before the wait was over")
		}
		l.beacons(leaseTick, gpu1, gpu2)
		now := l.state.View().Attempt(a.Token)
		if now.Open() || now.Class != fsm.ClassNodeLost || !strings.HasSuffix(now.Message, "was not heard for 5m31s") && !strings.HasSuffix(now.Message, "was not heard for 5m32s") {
			t.Fatalf("%s, %q, %q after the wait", now.State, now.Class, now.Message)
		}
		l.beacons(15*time.Second, gpu1, gpu2)
		if next := l.attempt(a.Experiment); next.Number != 2 || next.Node == a.Node {
			t.Errorf("then attempt %d on %s", next.Number, next.Node)
		}
		v, err := l.leader.Renew(t.Context(), a.Node, []fsm.Token{a.Token})
		if err != nil || !cmp.Equal(v, Verdict{Revoked: []fsm.Token{a.Token}}) {
			t.Errorf("the node that is back hears %+v, %v", v, err)
		}
	})
}

// A new leader has heard nobody, which is no reason to believe that all are dead (R10).
func TestNewLeaderGivesFullGrace(t *testing.T) {
	lead(t, func(t *testing.T, l *lab) {
		l.voters = 3
		lose := l.win(1)
		a := l.started(gpuSpec())
		for term := range uint64(5) {
			<-time.After(standardWait - time.Second)
			if err := lose(); err != nil {
				t.Error(err)
			}
			<-time.After(time.Minute)
			lose = l.win(term + 2)
		}
		if !l.open(a) {
			t.Fatal("expired by a leader that had not led for the whole wait")
		}
		<-time.After(standardWait + leaseTick)
		synctest.Wait()
		if l.open(a) {
			t.Error("not expired by one that had")
		}
	})
}

// Somebody else's reign, of which this leader has not heard: it waits anew.
func TestOverruledReign(t *testing.T) {
	lead(t, func(t *testing.T, l *lab) {
		l.voters = 3
		l.win(1)
		a := l.started(gpuSpec())
		<-time.After(standardWait - 10*time.Second)
		l.must(&fsm.Reign{Node: gpu2})
		if v, err := l.leader.Renew(t.Context(), a.Node, []fsm.Token{a.Token}); len(v.Valid) != 0 {
			t.Errorf("an overruled leader confirms %+v, %v", v, err)
		}
		<-time.After(5 * time.Minute)
		if !l.open(a) {
			t.Error("it expired what it knew from before")
		}
	})
}

func TestRenewalNeedsACommit(t *testing.T) {
	lead(t, func(t *testing.T, l *lab) {
		l.voters = 3
		if _, err := l.leader.Renew(t.Context(), gpu1, nil); !errors.Is(err, ErrNotLeading) {
			t.Errorf("before a term: %v", err)
		}
		lose := l.win(1)
		a := l.started(gpuSpec())
		noMajority := errors.New("no majority")
		l.change(func() { l.fail = noMajority })
		if v, err := l.leader.Renew(t.Context(), a.Node, []fsm.Token{a.Token, {Epoch: 9, Index: 9}}); !errors.Is(err, noMajority) || !cmp.Equal(v, Verdict{}) {
			t.Errorf("without a majority: %+v, %v", v, err)
		}
		l.change(func() { l.fail = nil })
		other := gpu1
		if a.Node == gpu1 {
			other = gpu2
		}
		unknown := fsm.Token{Epoch: 9, Index: 9}
		if v, err := l.leader.Renew(t.Context(), other, []fsm.Token{a.Token, unknown}); err != nil || !cmp.Equal(v, Verdict{Unknown: []fsm.Token{unknown}}) {
			t.Errorf("another node's and an unknown token: %+v, %v", v, err)
		}
		if v, err := l.leader.Renew(t.Context(), other, nil); err != nil || !cmp.Equal(v, Verdict{}) {
			t.Errorf("a node that runs nothing: %+v, %v", v, err)
		}
		if err := lose(); err != nil {
			t.Error(err)
		}
		if _, err := l.leader.Renew(t.Context(), a.Node, []fsm.Token{a.Token}); !errors.Is(err, ErrNotLeading) {
			t.Errorf("after the term: %v", err)
		}
	})
}

func TestWhichLease(t *testing.T) {
	for _, c := range []struct {
		name          string
		voters        int
		lease, policy string
		want          time.Duration
	}{
		{"three voters", 3, "", "freeze", 5 * time.Minute},
		{"one voter", 1, "", "freeze", 0},
		{"own", 3, "10m0s", "kill", 10 * time.Minute},
		{"own with one voter", 1, "10m0s", "", 10 * time.Minute},
		{"hold", 5, fsm.LeaseHold, "", 0},
		{"keep", 5, "", "keep", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			lead(t, func(t *testing.T, l *lab) {
				l.voters = c.voters
				l.win(1)
				s := gpuSpec()
				s.Lease, s.OnContactLoss = c.lease, c.policy
				a := l.started(s)
				if got := time.Duration(a.Lease); got != c.want {
					t.Errorf("lease %s, want %s", got, c.want)
				}
				<-time.After(time.Hour)
				synctest.Wait()
				if l.open(a) != (c.want == 0) {
					t.Errorf("open %t after an hour of silence", l.open(a))
				}
			})
		})
	}
}

// What was decided about an attempt stays decided, whatever the node says now.
func TestMarks(t *testing.T) {
	at := func(d time.Duration) time.Time { return time.Unix(0, 0).Add(d) }
	attempt := func(state fsm.AttemptState) *fsm.Attempt {
		return &fsm.Attempt{Token: fsm.Token{Epoch: 1, Index: 7}, Node: gpu1, State: state, Lease: fsm.Duration(5 * time.Minute)}
	}
	valid := func(r *reign, a *fsm.Attempt) bool {
		return len(r.answer(gpu1, []fsm.Token{a.Token}, 3, func(fsm.Token) *fsm.Attempt { return a }).Valid) == 1
	}
	r := newReign(3, LeaseTimes{}.withDefaults(), at(0))
	a := attempt(fsm.AttemptStarted)
	if due := r.overdue([]*fsm.Attempt{a}, at(time.Hour)); len(due) != 0 || !valid(r, a) {
		t.Fatalf("an attempt that was just seen is due: %v", due)
	}
	if due := r.overdue([]*fsm.Attempt{a}, at(time.Hour+standardWait)); len(due) != 1 || valid(r, a) {
		t.Fatalf("due %v, and confirmed: %t", due, valid(r, a))
	}
	r.heard(gpu1, at(time.Hour+standardWait+1))
	if due := r.overdue([]*fsm.Attempt{a}, at(time.Hour+standardWait+2)); len(due) != 1 || valid(r, a) {
		t.Errorf("a decision was forgotten: %v", due)
	}
	if r.overdue(nil, at(2*time.Hour)); valid(r, a) {
		t.Error("an answer about facts of before confirms what is closed now")
	}

	// Nothing of an attempt that is not started executes; its wait begins with the start.
	r = newReign(3, LeaseTimes{}.withDefaults(), at(0))
	assigned := attempt(fsm.AttemptAssigned)
	r.overdue([]*fsm.Attempt{assigned}, at(0))
	if due := r.overdue([]*fsm.Attempt{assigned}, at(time.Hour)); len(due) != 0 {
		t.Fatalf("due %+v", due)
	}
	if due := r.overdue([]*fsm.Attempt{a}, at(time.Hour)); len(due) != 0 || !valid(r, a) {
		t.Errorf("one that has just started is due: %v", due)
	}
	if due := r.overdue([]*fsm.Attempt{a}, at(time.Hour+standardWait-1)); len(due) != 0 {
		t.Errorf("due %+v before its own wait was over", due)
	}
	if due := r.overdue([]*fsm.Attempt{a}, at(time.Hour+standardWait)); len(due) != 1 || time.Duration(due[0].Silent) != standardWait {
		t.Errorf("due %+v after its own wait", due)
	}
}
