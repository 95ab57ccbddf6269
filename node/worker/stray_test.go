package worker

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deveronica/cvlab/executor"
	"github.com/deveronica/cvlab/fsm"
)

// back lets the facts go back to the beginning, as a restored backup does: the cluster, its machines, and experiment 1 if
// it was submitted before the backup. Everything of later is forgotten, and an epoch begins.
func (c *seat) back(submitted bool) {
	c.t.Helper()
	fresh := newSeat(c.t, c.story)
	c.mu.Lock()
	c.leader, c.own, c.log, c.applied = fresh.leader, fresh.own, fresh.log, fresh.applied
	c.mu.Unlock()
	if submitted {
		c.must(&fsm.Submit{Spec: command()})
	}
	c.must(&fsm.NewEpoch{Node: elsewhere})
}

// forgotten is a lab in which an attempt of experiment 1 runs on GPU-1 that the facts have forgotten since.
func forgotten(t *testing.T, l *lab, submitted bool) fsm.Token {
	t.Helper()
	l.start()
	token := l.seat.assign(command(), "GPU-1").Attempt.Token
	l.after(time.Second)
	l.wantLaunches(token, 1)
	l.stop()
	l.seat.back(submitted)
	l.cluster.change(func() { l.cluster.facts = true })
	return token
}

func TestForgottenAttemptIsAdopted(t *testing.T) {
	tell(t, func(t *testing.T, l *lab) {
		token := forgotten(t, l, true)
		l.start()
		a := l.seat.leader.View().Attempt(token)
		if a == nil || a.State != fsm.AttemptStarted || !a.Adopted || a.Number != 1 || !cmp.Equal(a.GPUs, []string{"GPU-1"}) || a.BootID != boot || a.StartedAt.IsZero() {
			t.Fatalf("the facts have %+v", a)
		}
		l.after(time.Minute)
		if strays := l.worker.Strays(); len(strays) != 0 {
			t.Errorf("strays %v", strays)
		}
		l.machine.exit(token.String(), exited(0))
		l.after(time.Second)
		l.wantEnd(token, fsm.ClassCompleted, "")
		l.wantLaunches(token, 1)
	})
}

// It ended while nobody looked: its result counts all the same.
func TestForgottenEndIsAdopted(t *testing.T) {
	tell(t, func(t *testing.T, l *lab) {
		token := forgotten(t, l, true)
		l.machine.exit(token.String(), exited(0))
		l.start()
		l.wantEnd(token, fsm.ClassCompleted, "")
		if e := l.seat.experiment(1); e.Status != fsm.Completed {
			t.Errorf("the experiment is %s", e.Status)
		}
	})
}

func TestStrayIsFrozenUntilAPersonDecides(t *testing.T) {
	for name, give := range map[string]func(l *lab){
		"its experiment is not known": func(*lab) {},
		"its experiment runs elsewhere": func(l *lab) {
			l.seat.must(&fsm.Submit{Spec: command()})
			l.seat.must(&fsm.Assign{Experiment: 1, Node: elsewhere})
		},
	} {
		t.Run(name, func(t *testing.T) {
			tell(t, func(t *testing.T, l *lab) {
				token := forgotten(t, l, false)
				give(l)
				l.machine.change(func() { l.machine.deaf = 1 })
				l.start()
				l.after(renewAtMost)
				strays := l.worker.Strays()
				if len(strays) != 1 || strays[0].Token != token || strays[0].Experiment != 1 || strays[0].Reason == "" {
					t.Fatalf("strays %+v", strays)
				}
				offered := l.seat.triedTimes("adopt")
				l.after(time.Hour)
				if n := l.seat.triedTimes("adopt"); n != offered {
					t.Errorf("offered %d times more", n-offered)
				}
				l.restart() // the next daemon knows it from its supervisor
				l.after(renewAtMost)
				if again := l.worker.Strays(); !cmp.Equal(again, strays) || l.seat.triedTimes("adopt") != offered {
					t.Errorf("after a restart: %+v, offered %d times", again, l.seat.triedTimes("adopt"))
				}
				if state, _ := l.machine.state(token.String()); state != executor.Running || l.machine.revokes != 0 {
					t.Fatalf("nobody decided anything, and it is %s", state)
				}
				if err := l.worker.KillStray(t.Context(), fsm.Token{Epoch: 1, Index: 999}, "ana"); !errors.Is(err, ErrNoStray) {
					t.Errorf("another token: %v", err)
				}
				if err := l.worker.KillStray(t.Context(), token, "ana"); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if state, settled := l.machine.state(token.String()); state != executor.Ended || !settled {
					t.Errorf("it is %s, settled %t", state, settled)
				}
				if strays := l.worker.Strays(); len(strays) != 0 {
					t.Errorf("still %+v", strays)
				}
				l.wantLaunches(token, 1)
			})
		})
	}
}

// A token of the facts' own epoch that they do not know: one answer may come from before its Assign, two cannot.
func TestUnknownTokenOfTheSameEpoch(t *testing.T) {
	tell(t, func(t *testing.T, l *lab) {
		l.start()
		token := l.seat.assignLeased(time.Minute).Attempt.Token
		l.after(time.Second)
		l.stop()
		fresh := newSeat(t, l.story)
		l.seat.leader, l.seat.own, l.seat.log, l.seat.applied = fresh.leader, fresh.own, fresh.log, fresh.applied
		l.cluster.change(func() { l.cluster.facts = true })
		l.start()
		if n := l.seat.triedTimes("adopt"); n != 0 || len(l.worker.Strays()) != 0 {
			t.Fatalf("after one answer it was offered %d times, strays %v", n, l.worker.Strays())
		}
		l.after(6 * time.Second)
		if strays := l.worker.Strays(); len(strays) != 1 || strays[0].Token != token {
			t.Errorf("after two answers: %+v", strays)
		}
	})
}

// What nobody can describe is not offered: the facts would take it for a job without a GPU.
func TestDamagedRecordIsNotAdopted(t *testing.T) {
	tell(t, func(t *testing.T, l *lab) {
		token := forgotten(t, l, true)
		l.machine.change(func() {
			r := l.machine.records[token.String()]
			r.job.GPUs, r.created = nil, time.Time{}
		})
		l.start()
		if strays := l.worker.Strays(); len(strays) != 1 || l.seat.triedTimes("adopt") != 0 {
			t.Errorf("strays %+v, offered %d times", strays, l.seat.triedTimes("adopt"))
		}
	})
}

// The facts are slow or away: nothing is decided meanwhile.
func TestAdoptionThatIsNotAnswered(t *testing.T) {
	tell(t, func(t *testing.T, l *lab) {
		token := forgotten(t, l, true)
		l.seat.setAway(true)
		l.start()
		l.after(time.Minute)
		if strays := l.worker.Strays(); len(strays) != 0 {
			t.Fatalf("strays %+v", strays)
		}
		l.seat.setAway(false)
		l.seat.loseAnswers(1)
		l.after(2 * renewAtMost)
		if a := l.seat.leader.View().Attempt(token); a == nil || !a.Open() || len(l.worker.Strays()) != 0 {
			t.Errorf("the facts have %+v", a)
		}
	})
}
