package worker

import (
	"context"
	"log/slog"
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
	fetch   Checkpoints

	worker  *Worker
	end     context.CancelFunc
	running sync.WaitGroup
	err     error
}

func newLab(t *testing.T) *lab {
	s := &story{}
	dir := t.TempDir()
	seat := newSeat(t, s)
	return &lab{t: t, story: s, seat: seat, machine: newMachine(s, dir), cluster: &cluster{story: s, seat: seat}, orders: make(chan Order), runs: dir + "/runs"}
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
		RunsDir: l.runs, NodeName: "here", Kit: l.kit, Checkpoints: l.fetch, Renewals: l.cluster, Fences: l.machine, Boottime: l.story.boottime, Logger: slog.New(slog.DiscardHandler),
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
