package worker

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

func (c *seat) publish(token fsm.Token, seq uint64) {
	c.t.Helper()
	c.must(&fsm.Publish{Token: token, Node: here, Seq: seq, Path: "checkpoints/x", Files: 1, Size: 1, Digest: strings.Repeat("ab", 32)})
}

func TestDrainNow(t *testing.T) {
	const drained = "node here was drained by ana; "
	for _, c := range []struct {
		name    string
		listens int
		publish time.Duration // after the drain; 0: never
		takes   time.Duration // until the stop
		says    string
	}{
		{"a checkpoint is written", 1, 20 * time.Second, 20 * time.Second, drained + "a checkpoint was written"},
		{"none is written", 1, 0, preemptWait, drained + "no checkpoint was written within 1m0s"},
		{"it knows no checkpoints", 0, 0, 0, drained + "it has no handler for SIGUSR1, so no checkpoint was asked for"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tell(t, func(t *testing.T, l *lab) {
				l.machine.listens = c.listens
				l.start()
				token := l.seat.assign(command()).Attempt.Token
				l.after(time.Second)
				l.seat.publish(token, 1) // of before; it does not count
				began := time.Now()
				l.seat.must(&fsm.Drain{Node: here, On: true, Now: true})
				synctest.Wait()
				if c.publish > 0 {
					l.after(c.publish - time.Millisecond)
					if a := l.seat.order(token).Attempt; !a.Open() {
						t.Fatalf("ended before its checkpoint: %s", a.Message)
					}
					l.after(time.Millisecond)
					l.seat.publish(token, 2)
				}
				for l.seat.leader.View().Attempt(token).Open() && time.Since(began) < 2*preemptWait {
					l.after(100 * time.Millisecond)
				}
				if took := time.Since(began).Round(time.Second); took != c.takes {
					t.Errorf("it took %s, want %s", took, c.takes)
				}
				l.wantEnd(token, fsm.ClassPreempted, c.says)
				if e := l.seat.experiment(1); e.Status != fsm.Pending || e.Losses != 0 || e.Failures != 0 {
					t.Errorf("the experiment is %s after %d losses and %d failures", e.Status, e.Losses, e.Failures)
				}
				if l.machine.signals != 1 || l.machine.stops != 1 {
					t.Errorf("signalled %d times, stopped %d times", l.machine.signals, l.machine.stops)
				}
			})
		})
	}
}

// The daemon is restarted while it waits for the checkpoint: the next one asks again.
func TestDrainNowOverARestart(t *testing.T) {
	tell(t, func(t *testing.T, l *lab) {
		l.machine.listens = 1
		l.start()
		token := l.seat.assign(command()).Attempt.Token
		l.after(time.Second)
		l.seat.must(&fsm.Drain{Node: here, On: true, Now: true})
		l.after(10 * time.Second)
		l.restart()
		l.after(10 * time.Second)
		l.seat.publish(token, 1)
		synctest.Wait()
		l.wantEnd(token, fsm.ClassPreempted, "a checkpoint was written")
	})
}

func TestDrainNowOfWhatEndsByItself(t *testing.T) {
	tell(t, func(t *testing.T, l *lab) {
		l.machine.listens = 1
		l.start()
		token := l.seat.assign(command()).Attempt.Token
		l.after(time.Second)
		l.seat.must(&fsm.Drain{Node: here, On: true, Now: true})
		l.after(10 * time.Second)
		l.machine.exit(token.String(), exited(0))
		synctest.Wait()
		l.wantEnd(token, fsm.ClassCompleted, "")
		if l.machine.stops != 0 {
			t.Error("it was stopped")
		}
	})
}

// A cancel waits for no checkpoint, and a supervisor that does not hear is asked again.
func TestCancelWhileACheckpointIsAwaited(t *testing.T) {
	tell(t, func(t *testing.T, l *lab) {
		l.machine.listens = 1
		l.machine.deaf = 2
		l.start()
		token := l.seat.assign(command()).Attempt.Token
		l.after(time.Second)
		l.seat.must(&fsm.Drain{Node: here, On: true, Now: true})
		l.after(10 * time.Second)
		if l.machine.signals != 3 {
			t.Errorf("signalled %d times, want until it was heard", l.machine.signals)
		}
		l.seat.must(&fsm.Cancel{Experiments: []uint64{1}})
		synctest.Wait()
		l.wantEnd(token, fsm.ClassCancelled, "cancelled")
	})
}
