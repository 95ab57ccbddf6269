package worker

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

// A machine that comes back begins nothing new before the cluster has answered; what it was doing goes on (R9).
func TestNewWorkWaitsForTheCluster(t *testing.T) {
	tell(t, func(t *testing.T, l *lab) {
		l.start()
		old := l.seat.assignLeased(5 * time.Minute).Attempt.Token
		l.after(time.Second)
		l.stop()
		l.cluster.change(func() { l.cluster.away = true })
		l.start()
		one := l.seat.assign(command())
		two := l.seat.assign(command(), "GPU-0")
		synctest.Wait()
		l.orders <- two // earlier than the own replica, and no more allowed
		l.after(time.Minute)
		l.wantLaunches(one.Attempt.Token, 0)
		l.wantLaunches(two.Attempt.Token, 0)
		if state, _ := l.machine.state(one.Attempt.Token.String()); state != -1 {
			t.Errorf("a record of it was made: %s", state)
		}
		l.machine.exit(old.String(), exited(0))
		synctest.Wait()
		l.wantEnd(old, fsm.ClassCompleted, "") // an end is reported all the same
		l.cluster.change(func() { l.cluster.away = false })
		l.after(renewAtMost)
		l.wantLaunches(one.Attempt.Token, 1)
		l.wantLaunches(two.Attempt.Token, 1)
	})
}

// The first question is about everything that was found, so that its answer says what may not run any more before anything
// new does.
func TestFirstQuestionIsAboutAllThatWasFound(t *testing.T) {
	tell(t, func(t *testing.T, l *lab) {
		l.start()
		held := l.seat.assign(command()).Attempt.Token
		leased := l.seat.assignLeased(time.Minute).Attempt.Token
		l.after(time.Second)
		l.stop()
		l.cluster.change(func() { l.cluster.about = nil })
		l.start()
		l.cluster.mu.Lock()
		defer l.cluster.mu.Unlock()
		if len(l.cluster.about) == 0 || len(l.cluster.about[0]) != 2 {
			t.Errorf("asked about %v, want %s and %s", l.cluster.about, held, leased)
		}
	})
}

// Without an answer the first question is repeated at once and then less often; an answer lets new work begin at once.
func TestFirstQuestionIsRepeated(t *testing.T) {
	tell(t, func(t *testing.T, l *lab) {
		l.cluster.change(func() { l.cluster.away = true })
		token := l.seat.assign(command()).Attempt.Token
		l.start()
		l.after(100 * time.Millisecond)
		if gaps := l.cluster.questions(); len(gaps) == 0 || gaps[0] != firstAsk {
			t.Errorf("repeated after %v", gaps)
		}
		l.after(time.Hour)
		gaps := l.cluster.questions()
		if last := gaps[len(gaps)-1]; last != renewAtMost/renewTries {
			t.Errorf("after an hour it is asked every %s", last)
		}
		l.cluster.change(func() { l.cluster.away = false })
		l.after(renewAtMost / renewTries)
		l.wantLaunches(token, 1)
	})
}

// Where facts have gone back, a leader must hear from a machine that runs nothing, too.
func TestIdleMachineSpeaksUpInALaterEpoch(t *testing.T) {
	tell(t, func(t *testing.T, l *lab) {
		l.start()
		l.seat.must(&fsm.Submit{Spec: command()})
		l.after(time.Minute)
		l.cluster.questions()
		l.seat.must(&fsm.NewEpoch{Node: elsewhere})
		l.after(time.Minute)
		if gaps := l.cluster.questions(); len(gaps) < 5 || gaps[0] != renewAtMost {
			t.Errorf("asked every %v, want %s", gaps, renewAtMost)
		}
	})
}

func TestNoLeasesNoWait(t *testing.T) {
	w := New(Options{})
	if !w.mayBegin() {
		t.Error("without renewals nothing would ever begin")
	}
}
