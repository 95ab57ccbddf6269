package worker

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deveronica/cvlab/executor"
	"github.com/deveronica/cvlab/executor/supervisor"
	"github.com/deveronica/cvlab/fsm"
)

// lab is one machine's worker over a pretended seat and pretended processes. The daemon may be started again; what is on
// disk and in the cluster stays.
type lab struct {
	t       *testing.T
	story   *story
	seat    *seat
	machine *machine
	orders  chan Order
	runs    string
	kit     Kit
	cluster *cluster

	worker  *Worker
	end     context.CancelFunc
	running sync.WaitGroup
	err     error
}

func newLab(t *testing.T) *lab {
	s := &story{}
	dir := t.TempDir()
	return &lab{t: t, story: s, seat: newSeat(t, s), machine: newMachine(s, dir), cluster: &cluster{story: s}, orders: make(chan Order), runs: dir + "/runs"}
}

// tell runs a story in fake time, and ends the worker afterwards.
func tell(t *testing.T, do func(t *testing.T, l *lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		defer l.stop()
		do(t, l)
	})
}

// start begins a daemon, and lets it do what it can do now.
func (l *lab) start() {
	l.worker = New(Options{
		Cluster: l.seat, Processes: l.machine, Records: l.machine, Found: l.machine.recover(), Orders: l.orders, BootID: boot,
		RunsDir: l.runs, NodeName: "here", Kit: l.kit, Renewals: l.cluster, Fences: l.machine, Boottime: l.story.boottime, Logger: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	l.end = cancel
	l.running.Go(func() { l.err = l.worker.Run(ctx) })
	synctest.Wait()
}

// stop ends the daemon; jobs go on.
func (l *lab) stop() {
	l.t.Helper()
	if l.end == nil {
		return
	}
	l.end()
	l.running.Wait()
	l.end = nil
	if l.err != nil {
		l.t.Errorf("the worker ended with: %v", l.err)
	}
}

func (l *lab) restart() {
	l.t.Helper()
	l.stop()
	l.start()
}

func (l *lab) after(d time.Duration) {
	<-time.After(d) // in fake time
	synctest.Wait()
}

func (l *lab) wantStory(want ...string) {
	l.t.Helper()
	if diff := cmp.Diff(want, l.story.told()); diff != "" {
		l.t.Errorf("story (-want +got):\n%s", diff)
	}
}

func (l *lab) wantLaunches(token fsm.Token, want int) {
	l.t.Helper()
	if got := l.machine.launched(token.String()); got != want {
		l.t.Errorf("launched %d times, want %d", got, want)
	}
}

func (l *lab) wantEnd(token fsm.Token, class fsm.Class, text string) {
	l.t.Helper()
	a := l.seat.order(token).Attempt
	if a.Open() || a.Class != class || !strings.Contains(a.Message, text) {
		l.t.Errorf("attempt is %s, class %q, %q; want ended, %q, %q", a.State, a.Class, a.Message, class, text)
	}
}

func exited(code int) executor.Exit {
	return executor.Exit{Reason: supervisor.ReasonExited, Code: code}
}

func TestLifeOfAnAttempt(t *testing.T) {
	tell(t, func(t *testing.T, l *lab) {
		l.start()
		release := l.seat.hold()
		o := l.seat.assign(command())
		l.after(time.Minute)
		l.wantStory("prepared") // and nothing is launched, however long the commit takes
		release()
		synctest.Wait()
		l.wantStory("prepared", "start committed", "launched")
		if held := l.worker.Held(); !slices.Equal(held, []fsm.Token{o.Attempt.Token}) {
			t.Errorf("holds %v", held)
		}
		release = l.seat.hold()
		l.machine.exit(o.Attempt.Token.String(), exited(0))
		l.after(time.Minute)
		if _, settled := l.machine.state(o.Attempt.Token.String()); settled {
			t.Error("the record is gone before the end was taken down")
		}
		release()
		synctest.Wait()
		l.wantStory("prepared", "start committed", "launched", "exited", "finish committed", "forgotten")
		l.wantEnd(o.Attempt.Token, fsm.ClassCompleted, "")
		if e := l.seat.experiment(1); e.Status != fsm.Completed || *e.ExitCode != 0 {
			t.Errorf("experiment is %s, exit code %v", e.Status, e.ExitCode)
		}
		if held := l.worker.Held(); len(held) != 0 {
			t.Errorf("still holds %v", held)
		}
	})
}

func TestRefusedStartIsNeverLaunched(t *testing.T) {
	tell(t, func(t *testing.T, l *lab) {
		l.start()
		release := l.seat.hold()
		o := l.seat.assign(command())
		synctest.Wait()
		l.seat.must(&fsm.Cancel{Experiments: []uint64{1}}) // before Start is committed
		release()
		synctest.Wait()
		l.wantStory("prepared", "start refused", "discarded")
		l.wantLaunches(o.Attempt.Token, 0)
		if n := l.seat.triedTimes("finish"); n != 0 {
			t.Errorf("an attempt that the cluster had closed was reported %d times", n)
		}
	})
}

func TestRestartBetweenAnyTwoSteps(t *testing.T) {
	t.Run("before the record", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			o := l.seat.assign(command())
			l.start()
			l.wantLaunches(o.Attempt.Token, 1)
		})
	})
	t.Run("prepared, Start not asked for yet", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			l.seat.setAway(true)
			o := l.seat.assign(command())
			l.start()
			l.stop()
			l.wantStory("prepared")
			l.seat.setAway(false)
			l.start()
			l.wantStory("prepared", "start committed", "launched")
			l.wantLaunches(o.Attempt.Token, 1)
		})
	})
	t.Run("prepared, Start committed, the answer lost", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			l.seat.loseAnswers(1)
			o := l.seat.assign(command())
			l.start()
			l.stop()
			l.wantLaunches(o.Attempt.Token, 0)
			l.start()
			l.wantStory("prepared", "start committed", "start committed", "launched")
			l.wantLaunches(o.Attempt.Token, 1)
		})
	})
	t.Run("running", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			o := l.seat.assign(command())
			l.start()
			l.restart()
			l.restart()
			l.machine.exit(o.Attempt.Token.String(), exited(3))
			synctest.Wait()
			l.wantLaunches(o.Attempt.Token, 1)
			l.wantEnd(o.Attempt.Token, fsm.ClassUserError, "")
		})
	})
	t.Run("ended while the daemon was away", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			o := l.seat.assign(command())
			l.start()
			l.stop()
			l.machine.exit(o.Attempt.Token.String(), exited(0))
			l.start()
			l.wantStory("prepared", "start committed", "launched", "exited", "finish committed", "forgotten")
			l.wantEnd(o.Attempt.Token, fsm.ClassCompleted, "")
		})
	})
	t.Run("ended, the report not answered", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			o := l.seat.assign(command())
			l.start()
			l.seat.loseAnswers(1)
			l.machine.exit(o.Attempt.Token.String(), exited(0))
			synctest.Wait()
			l.stop()
			l.start()
			l.wantStory("prepared", "start committed", "launched", "exited", "finish committed", "finish committed", "forgotten")
			l.wantEnd(o.Attempt.Token, fsm.ClassCompleted, "")
			l.wantLaunches(o.Attempt.Token, 1)
		})
	})
	t.Run("lost with its supervisor", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			o := l.seat.assign(command())
			l.start()
			l.stop()
			l.machine.exit(o.Attempt.Token.String(), executor.Exit{Reason: supervisor.ReasonLost, Code: -1, Message: "its supervisor was gone"})
			l.start()
			l.wantEnd(o.Attempt.Token, fsm.ClassSupervisorLost, "its supervisor was gone")
			if a := l.seat.order(o.Attempt.Token).Attempt; a.ExitCode != nil {
				t.Errorf("an exit code nobody saw: %d", *a.ExitCode)
			}
			if e := l.seat.experiment(1); e.Status != fsm.Pending || e.Losses != 1 || e.Failures != 0 {
				t.Errorf("the experiment is %s after %d losses and %d failures", e.Status, e.Losses, e.Failures)
			}
		})
	})
	t.Run("its directory is gone", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			o := l.seat.assign(command())
			l.start()
			l.stop()
			l.machine.change(func() { delete(l.machine.records, o.Attempt.Token.String()) })
			l.start()
			l.wantEnd(o.Attempt.Token, fsm.ClassSupervisorLost, "records on the node are gone")
			l.wantLaunches(o.Attempt.Token, 1)
		})
	})
}

func TestDamagedRecords(t *testing.T) {
	damage := func(l *lab, alive bool) Order {
		o := l.seat.assign(command())
		l.start()
		l.stop()
		l.machine.change(func() {
			r := l.machine.records[o.Attempt.Token.String()]
			r.state, r.alive = executor.Quarantined, alive
		})
		return o
	}
	t.Run("nobody stands over it", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			o := damage(l, false)
			l.start()
			l.wantEnd(o.Attempt.Token, fsm.ClassSupervisorLost, "damaged")
			l.wantLaunches(o.Attempt.Token, 1)
		})
	})
	t.Run("a supervisor stands over it", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			o := damage(l, true)
			l.start()
			l.after(24 * time.Hour)
			if a := l.seat.order(o.Attempt.Token).Attempt; a.State != fsm.AttemptStarted || l.seat.triedTimes("finish") != 0 {
				t.Fatalf("an attempt that may run was reported: %s %q", a.State, a.Class)
			}
			l.machine.change(func() { l.machine.records[o.Attempt.Token.String()].alive = false })
			l.after(2*lookDamaged - 1)
			l.wantEnd(o.Attempt.Token, fsm.ClassSupervisorLost, "damaged")
		})
	})
	t.Run("not an attempt's name", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			l.machine.records["garbage"] = &record{state: executor.Quarantined}
			l.start()
			if held := l.worker.Held(); len(held) != 0 {
				t.Errorf("holds %v", held)
			}
		})
	})
}

func TestCancel(t *testing.T) {
	cancel := func(l *lab) { l.seat.must(&fsm.Cancel{Experiments: []uint64{1}}); synctest.Wait() }
	t.Run("before the daemon came", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			o := l.seat.assign(command())
			cancel(l)
			l.start()
			l.wantStory()
			l.wantLaunches(o.Attempt.Token, 0)
		})
	})
	t.Run("between Start and launch", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			l.machine.launch = func(string) error {
				l.seat.must(&fsm.Cancel{Experiments: []uint64{1}})
				return nil
			}
			o := l.seat.assign(command())
			l.start()
			l.wantStory("prepared", "start committed", "launched", "stopped", "exited", "finish committed", "forgotten")
			l.wantEnd(o.Attempt.Token, fsm.ClassCancelled, "")
		})
	})
	t.Run("while it runs", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			o := l.seat.assign(command())
			l.start()
			cancel(l)
			l.wantStory("prepared", "start committed", "launched", "stopped", "exited", "finish committed", "forgotten")
			l.wantEnd(o.Attempt.Token, fsm.ClassCancelled, "")
			if e := l.seat.experiment(1); e.Status != fsm.Cancelled {
				t.Errorf("the experiment is %s", e.Status)
			}
		})
	})
	t.Run("while the supervisor does not answer", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			o := l.seat.assign(command())
			l.start()
			l.machine.change(func() { l.machine.deaf = 10 })
			cancel(l)
			l.after(9*time.Second + 500*time.Millisecond)
			if a := l.seat.order(o.Attempt.Token).Attempt; !a.Open() {
				t.Fatal("reported as ended although the job runs")
			}
			l.after(time.Second)
			l.wantEnd(o.Attempt.Token, fsm.ClassCancelled, "")
			if l.machine.stops != 11 {
				t.Errorf("asked %d times in ten seconds", l.machine.stops)
			}
		})
	})
	t.Run("a job that takes its time is asked once", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			o := l.seat.assign(command())
			l.start()
			l.machine.change(func() { l.machine.records[o.Attempt.Token.String()].obedient = false })
			cancel(l)
			l.after(time.Minute)
			if l.machine.stops != 1 {
				t.Errorf("asked %d times", l.machine.stops)
			}
			l.machine.exit(o.Attempt.Token.String(), exited(0)) // it had just finished
			synctest.Wait()
			l.wantEnd(o.Attempt.Token, fsm.ClassCompleted, "")
		})
	})
	t.Run("known from before a restart", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			o := l.seat.assign(command())
			l.start()
			l.machine.change(func() { l.machine.deaf = 1 })
			cancel(l)
			l.restart()
			l.wantEnd(o.Attempt.Token, fsm.ClassCancelled, "")
		})
	})
	t.Run("by the leader's stream", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			o := l.seat.assign(command())
			l.start()
			l.seat.lag()
			cancel(l)
			l.wantStory("prepared", "start committed", "launched")
			l.orders <- l.seat.order(o.Attempt.Token)
			synctest.Wait()
			l.wantEnd(o.Attempt.Token, fsm.ClassCancelled, "")
			l.seat.follow()
		})
	})
}

func TestReportIsRepeatedUntilItIsAnswered(t *testing.T) {
	tell(t, func(t *testing.T, l *lab) {
		o := l.seat.assign(command())
		l.start()
		l.seat.setAway(true)
		l.machine.exit(o.Attempt.Token.String(), exited(0))
		l.after(10 * time.Minute)
		if n := l.seat.triedTimes("finish"); n < 500 || n > 700 {
			t.Errorf("tried %d times in ten minutes, want about once a second", n)
		}
		l.seat.setAway(false)
		l.seat.loseAnswers(3)
		l.after(5 * time.Second)
		l.wantEnd(o.Attempt.Token, fsm.ClassCompleted, "")
		if _, settled := l.machine.state(o.Attempt.Token.String()); !settled {
			t.Error("the record was not let go")
		}
	})
}

func TestOrdersFromBothSides(t *testing.T) {
	t.Run("the stream first, the own replica later", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			l.start()
			l.seat.lag()
			o := l.seat.assign(command())
			l.orders <- o
			l.orders <- o
			synctest.Wait()
			l.seat.follow()
			synctest.Wait()
			l.wantStory("prepared", "start committed", "launched")
		})
	})
	t.Run("it ends before the own replica has heard of it", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			l.start()
			l.seat.lag()
			o := l.seat.assign(command())
			l.orders <- o
			synctest.Wait()
			l.machine.exit(o.Attempt.Token.String(), exited(0))
			synctest.Wait()
			l.orders <- o // once more, late
			l.after(time.Minute)
			l.seat.follow()
			synctest.Wait()
			l.orders <- o // and very late
			synctest.Wait()
			l.wantStory("prepared", "start committed", "launched", "exited", "finish committed", "forgotten")
			if n := l.seat.triedTimes("finish"); n != 1 {
				t.Errorf("reported %d times", n)
			}
			if held := l.worker.Held(); len(held) != 0 {
				t.Errorf("still holds %v", held)
			}
		})
	})
	t.Run("an order for another machine", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			l.start()
			id := l.seat.must(&fsm.Submit{Spec: command()}).Experiments[0]
			o := l.seat.order(l.seat.must(&fsm.Assign{Experiment: id, Node: elsewhere}).Token)
			l.orders <- o
			l.after(time.Minute)
			l.wantStory()
		})
	})
}

func TestAttemptOfAnotherBootIsLeftAlone(t *testing.T) {
	tell(t, func(t *testing.T, l *lab) {
		o := l.seat.assign(command())
		l.seat.must(&fsm.Start{Token: o.Attempt.Token, Node: here, BootID: "the boot before"})
		l.start()
		l.after(time.Minute)
		l.wantStory()
		if n := l.seat.triedTimes("finish"); n != 0 {
			t.Errorf("reported %d times: closing it is the work of the node's own entry", n)
		}
		if held := l.worker.Held(); len(held) != 0 {
			t.Errorf("holds %v", held)
		}
	})
}

func TestLaunchThatFails(t *testing.T) {
	t.Run("no supervisor came up", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			l.machine.launch = func(string) error { return errors.New("fork: resource temporarily unavailable") }
			o := l.seat.assign(command())
			l.start()
			l.wantStory("prepared", "start committed", "discarded", "finish committed")
			l.wantEnd(o.Attempt.Token, fsm.ClassStartFailed, "fork: resource temporarily unavailable")
		})
	})
	t.Run("the supervisor does not confirm, and the job runs after all", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			l.machine.launch = func(token string) error {
				l.machine.runLocked(token)
				return errors.New("its supervisor did not confirm in time")
			}
			o := l.seat.assign(command())
			l.start()
			l.after(time.Hour)
			if a := l.seat.order(o.Attempt.Token).Attempt; !a.Open() {
				t.Fatalf("reported as %q while its job runs", a.Class)
			}
			l.machine.exit(o.Attempt.Token.String(), exited(0))
			synctest.Wait()
			l.wantEnd(o.Attempt.Token, fsm.ClassCompleted, "")
		})
	})
	t.Run("the job's program is not there", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			o := l.seat.assign(command())
			l.start()
			l.machine.exit(o.Attempt.Token.String(), executor.Exit{Reason: supervisor.ReasonStartFailed, Code: 127, Message: "train: not found"})
			synctest.Wait()
			l.wantEnd(o.Attempt.Token, fsm.ClassStartFailed, "train: not found")
		})
	})
	t.Run("the record cannot be written", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			l.machine.prepare = func(executor.Job) error { return errors.New("no space left on device") }
			o := l.seat.assign(command())
			l.start()
			l.wantStory("finish committed")
			l.wantEnd(o.Attempt.Token, fsm.ClassStartFailed, "no space left on device")
		})
	})
	t.Run("no kit is set up", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			s := command()
			s.Command, s.Config = nil, "epochs: 1\n"
			o := l.seat.assign(s)
			l.start()
			l.wantEnd(o.Attempt.Token, fsm.ClassStartFailed, "--kit-dir")
			l.wantLaunches(o.Attempt.Token, 0)
		})
	})
}

func TestOneAttemptOfAnExperimentAtATime(t *testing.T) {
	// The cluster gave the first attempt up on a person's word, the machine came back with the job still running.
	setup := func(l *lab) (first, second Order) {
		s := command()
		s.Retries = 1
		first = l.seat.assign(s)
		l.start()
		l.seat.must(&fsm.Finish{Token: first.Attempt.Token, Node: here, Class: fsm.ClassUserError})
		second = l.seat.assignAgain(first.Experiment.ID)
		synctest.Wait()
		return first, second
	}
	t.Run("the second waits for the end of the first", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			first, second := setup(l)
			l.after(time.Minute)
			l.wantLaunches(second.Attempt.Token, 0)
			l.machine.exit(first.Attempt.Token.String(), exited(1))
			l.after(lookBusy)
			l.wantLaunches(second.Attempt.Token, 1)
		})
	})
	t.Run("and no longer than it is wanted", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			first, second := setup(l)
			l.seat.must(&fsm.Cancel{Experiments: []uint64{first.Experiment.ID}})
			l.after(lookBusy)
			if held := l.worker.Held(); !slices.Equal(held, []fsm.Token{first.Attempt.Token}) {
				t.Errorf("holds %v", held)
			}
			l.machine.exit(first.Attempt.Token.String(), exited(1))
			l.after(time.Minute)
			l.wantLaunches(second.Attempt.Token, 0)
		})
	})
}

func TestOutputSaysWhyItFailed(t *testing.T) {
	tell(t, func(t *testing.T, l *lab) {
		o := l.seat.assign(command(), "GPU-0")
		l.start()
		text := strings.Repeat("step\n", 100_000) + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\n"
		if err := os.WriteFile(l.machine.LogPath(o.Attempt.Token.String()), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		l.machine.exit(o.Attempt.Token.String(), exited(1))
		synctest.Wait()
		l.wantEnd(o.Attempt.Token, fsm.ClassGPUOOM, "Tried to allocate 2 GiB")
	})
}
