package leader

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/fsm/sched"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const gpu1, gpu2 = "NODE1", "NODE2"

// lab is a leader over one replica of the facts, with machines whose beacons a test can stop. It is the Cluster and the
// Health of the leader.
type lab struct {
	t     *testing.T
	state *fsm.State

	mu        sync.Mutex
	index     uint64
	voters    int
	leader    *Leader
	proposals []fsm.Command // of the leader, also those that were refused
	refuse    func(fsm.Command) bool
	fail      error
	heard     map[string]time.Time
	unheard   chan struct{}
	terms     chan func(fn func(context.Context, uint64) error)

	end     context.CancelFunc
	running sync.WaitGroup
	err     error
}

// lead tells a story in fake time, with two machines of one GPU and one CPU slot each, and the leader waiting for a term.
func lead(t *testing.T, do func(t *testing.T, l *lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &lab{
			t: t, state: fsm.New(), heard: map[string]time.Time{}, unheard: make(chan struct{}),
			terms: make(chan func(fn func(context.Context, uint64) error)),
		}
		l.must(&fsm.Found{Cluster: "c", Name: "lab", Node: fsm.Node{ID: gpu1, Name: "gpu1", CPUSlots: 1, GPUs: []fsm.GPU{{UUID: "GPU-1", Memory: 24 << 30}}}})
		l.must(&fsm.Grant{Access: fsm.Access{ID: "j", Kind: fsm.AccessJoin, Secret: []byte("0123456789abcdef0123456789abcdef"), Uses: 1}})
		l.must(&fsm.Admit{Access: "j", Node: fsm.Node{ID: gpu2, Name: "gpu2", CPUSlots: 1, GPUs: []fsm.GPU{{UUID: "GPU-2", Memory: 24 << 30}}}})
		ctx, cancel := context.WithCancel(context.Background())
		l.end = cancel
		defer l.stop()
		l.leader = New(Options{
			Cluster: l, Health: l, Logger: slog.New(slog.DiscardHandler), Self: gpu1, Voters: func() int { return l.voters },
		})
		l.running.Go(func() { l.err = l.leader.Run(ctx) })
		do(t, l)
	})
}

func (l *lab) stop() {
	l.end()
	l.running.Wait()
	if l.err != nil {
		l.t.Errorf("the leader ended with: %v", l.err)
	}
}

// Lead implements Cluster.
func (l *lab) Lead(ctx context.Context, fn func(context.Context, uint64) error) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case serve := <-l.terms:
			serve(func(term context.Context, number uint64) error {
				term, cancel := context.WithCancel(term)
				defer cancel()
				defer context.AfterFunc(ctx, cancel)()
				return fn(term, number)
			})
		}
	}
}

// win lets the leader lead until lose is called, which gives what its work answered.
func (l *lab) win(number uint64) (lose func() error) {
	term, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	l.terms <- func(fn func(context.Context, uint64) error) { ended <- fn(term, number) }
	synctest.Wait()
	return func() error {
		cancel()
		return <-ended
	}
}

// Barrier implements Cluster.
func (l *lab) Barrier(ctx context.Context) error {
	l.mu.Lock()
	fail := l.fail
	l.mu.Unlock()
	return errors.Join(fail, ctx.Err())
}

// State implements Cluster.
func (l *lab) State() *fsm.State { return l.state }

// Propose implements Cluster.
func (l *lab) Propose(ctx context.Context, e fsm.Entry) (fsm.Result, error) {
	l.mu.Lock()
	if _, reign := e.Command.(*fsm.Reign); !reign {
		l.proposals = append(l.proposals, e.Command)
	}
	refuse, fail := l.refuse != nil && l.refuse(e.Command), l.fail
	l.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return fsm.Result{}, ctx.Err()
	case fail != nil:
		return fsm.Result{}, fail
	case refuse:
		// A refused entry is committed like any other, and wakes whoever watches the facts.
		return l.apply(fsm.Entry{By: "leader", At: time.Now().UTC(), Command: &fsm.Cancel{Experiments: []uint64{1 << 40}}}), nil
	}
	return l.apply(e), nil
}

func (l *lab) apply(e fsm.Entry) fsm.Result {
	data, err := fsm.Encode(e)
	if err != nil {
		panic(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.index++
	r, err := l.state.Apply(l.index, data)
	if err != nil {
		panic(err)
	}
	return r
}

// must commits what somebody else proposes.
func (l *lab) must(c fsm.Command) fsm.Result {
	l.t.Helper()
	return l.mustAt(time.Now(), c)
}

func (l *lab) mustAt(at time.Time, c fsm.Command) fsm.Result {
	l.t.Helper()
	r := l.apply(fsm.Entry{By: "ana", At: at.UTC(), Command: c})
	if r.Refused() {
		l.t.Fatalf("%s refused: %s", c.Kind(), r.Message)
	}
	return r
}

// Health implements Health.
func (l *lab) Health() map[string]sched.Health {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := map[string]sched.Health{}
	for id, at := range l.heard {
		h := sched.Health{Node: id, Heard: time.Since(at)}
		for _, g := range l.state.View().Node(id).GPUs {
			h.GPUs = append(h.GPUs, sched.GPUHealth{UUID: g.UUID, State: sched.StateOK, MemoryTotal: g.Memory})
		}
		all[id] = h
	}
	return all
}

// HealthChanged implements Health.
func (l *lab) HealthChanged() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unheard
}

// beacon is heard from some machines.
func (l *lab) beacon(ids ...string) {
	l.mu.Lock()
	for _, id := range ids {
		l.heard[id] = time.Now()
	}
	close(l.unheard)
	l.unheard = make(chan struct{})
	l.mu.Unlock()
	synctest.Wait()
}

// beacons lets time pass while some machines send one beacon a second.
func (l *lab) beacons(d time.Duration, ids ...string) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		l.beacon(ids...)
		<-time.After(min(time.Second, time.Until(end)))
	}
	synctest.Wait()
}

func (l *lab) submit(s fsm.Spec) uint64 {
	l.t.Helper()
	id := l.must(&fsm.Submit{Spec: s}).Experiments[0]
	synctest.Wait()
	return id
}

func gpuSpec(after ...uint64) fsm.Spec {
	return fsm.Spec{Project: "p", Command: []string{"train"}, Device: fsm.Device{Kind: fsm.DeviceGPU, Count: 1}, After: after}
}

func (l *lab) status(id uint64) fsm.Status { return l.state.View().Experiment(id).Status }

func (l *lab) attempt(id uint64) *fsm.Attempt {
	v := l.state.View()
	return v.Attempt(v.Experiment(id).Token)
}

func (l *lab) proposed() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var kinds []string
	for _, c := range l.proposals {
		kinds = append(kinds, c.Kind())
	}
	return kinds
}

func (l *lab) change(do func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	do()
}

func TestSubmissionIsAssignedAtOnce(t *testing.T) {
	lead(t, func(t *testing.T, l *lab) {
		l.win(1)
		l.beacon(gpu1, gpu2)
		<-time.After(2 * time.Second) // nothing to do, and no beacon either
		began := time.Now()
		id := l.submit(gpuSpec())
		if l.status(id) != fsm.Running {
			t.Fatal("not assigned")
		}
		if d := time.Since(began); d != 0 {
			t.Errorf("waited %s for a timer", d)
		}
		second, third := l.submit(gpuSpec()), l.submit(gpuSpec())
		if l.status(second) != fsm.Running || l.status(third) != fsm.Pending {
			t.Errorf("second %s, third %s; there are two GPUs", l.status(second), l.status(third))
		}
		l.must(&fsm.Finish{Token: l.attempt(id).Token, Node: l.attempt(id).Node, Class: fsm.ClassCompleted})
		synctest.Wait()
		if l.status(third) != fsm.Running || time.Since(began) != 0 {
			t.Errorf("a freed GPU was not given out at once: %s", l.status(third))
		}
		if n := len(l.proposed()); n != 3 {
			t.Errorf("%d proposals for three experiments: %v", n, l.proposed())
		}
	})
}

func TestRefusalsDoNotFloodTheLog(t *testing.T) {
	for _, c := range []struct {
		name string
		no   func(l *lab)
		yes  func(l *lab)
	}{
		{"refused", func(l *lab) { l.refuse = func(fsm.Command) bool { return true } }, func(l *lab) { l.refuse = nil }},
		{"no majority", func(l *lab) { l.fail = errors.New("no majority") }, func(l *lab) { l.fail = nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			lead(t, func(t *testing.T, l *lab) {
				l.change(func() { c.no(l) })
				l.win(1)
				l.beacon(gpu1, gpu2)
				id := l.submit(gpuSpec())
				l.beacons(10*time.Second, gpu1, gpu2)
				if n := len(l.proposed()); n < 10 || n > 45 {
					t.Errorf("%d proposals in ten seconds, want one each %s", n, planAtMost)
				}
				l.change(func() { c.yes(l) })
				l.beacons(planAtMost, gpu1, gpu2)
				if l.status(id) != fsm.Running {
					t.Error("not planned again")
				}
			})
		})
	}
	t.Run("one refused among others", func(t *testing.T) {
		lead(t, func(t *testing.T, l *lab) {
			l.change(func() {
				l.refuse = func(c fsm.Command) bool { a, ok := c.(*fsm.Assign); return ok && a.Node == gpu1 }
			})
			first, second := l.submit(gpuSpec()), l.submit(gpuSpec())
			l.beacon(gpu1, gpu2)
			l.win(1)
			l.beacons(10*time.Second, gpu1, gpu2)
			if l.status(first) == l.status(second) {
				t.Errorf("both are %s", l.status(first))
			}
			if n := len(l.proposed()); n > 45 {
				t.Errorf("%d proposals in ten seconds", n)
			}
		})
	})
}

func TestBeaconsDoNotPlanTooOften(t *testing.T) {
	lead(t, func(t *testing.T, l *lab) {
		l.win(1)
		l.beacon(gpu1, gpu2)
		id := l.submit(gpuSpec())
		l.must(&fsm.Cancel{Experiments: []uint64{id}})
		synctest.Wait()
		l.change(func() { l.heard = map[string]time.Time{} })
		id = l.submit(gpuSpec())
		<-time.After(10 * time.Millisecond)
		l.beacon(gpu2)
		if l.status(id) != fsm.Pending {
			t.Fatal("health alone caused a plan within 10 ms")
		}
		<-time.After(planAtMost)
		synctest.Wait()
		if l.status(id) != fsm.Running || l.attempt(id).Node != gpu2 {
			t.Error("and none afterwards")
		}
	})
}

func TestOneTermAtATime(t *testing.T) {
	lead(t, func(t *testing.T, l *lab) {
		l.beacon(gpu1, gpu2)
		first := l.submit(gpuSpec())
		if l.status(first) != fsm.Pending {
			t.Fatal("assigned by a machine that does not lead")
		}
		lose := l.win(1)
		if l.status(first) != fsm.Running {
			t.Error("the term began without a plan")
		}
		if err := lose(); err != nil {
			t.Errorf("the end of a term is no failure: %v", err)
		}
		second := l.submit(gpuSpec())
		l.beacons(10*time.Second, gpu1, gpu2)
		if l.status(second) != fsm.Pending || len(l.proposed()) != 1 {
			t.Errorf("work went on after the term: %v", l.proposed())
		}
		l.win(2)
		if l.status(second) != fsm.Running {
			t.Error("the next term does not work")
		}
	})
}

func TestTermEndsInTheMiddleOfAProposal(t *testing.T) {
	lead(t, func(t *testing.T, l *lab) {
		l.beacon(gpu1, gpu2)
		l.submit(gpuSpec())
		l.change(func() { l.fail = context.Canceled })
		lose := l.win(1)
		if err := lose(); err != nil {
			t.Error(err)
		}
	})
}

func TestDependents(t *testing.T) {
	lead(t, func(t *testing.T, l *lab) {
		l.win(1)
		l.beacon(gpu1, gpu2)
		parent := l.submit(gpuSpec())
		child := l.submit(gpuSpec(parent))
		grandchild := l.submit(gpuSpec(child))
		l.beacons(5*time.Second, gpu1, gpu2)
		if l.status(child) != fsm.Pending {
			t.Fatalf("the child is %s before its parent ended", l.status(child))
		}
		l.must(&fsm.Finish{Token: l.attempt(parent).Token, Node: l.attempt(parent).Node, Class: fsm.ClassUserError})
		synctest.Wait()
		for _, id := range []uint64{child, grandchild} {
			if e := l.state.View().Experiment(id); e.Status != fsm.Cancelled || e.Message == "" {
				t.Errorf("experiment %d is %s, %q; its parent failed", id, e.Status, e.Message)
			}
		}
		if got := l.proposed(); !slices.Equal(got, []string{"assign", "cancel", "cancel"}) {
			t.Errorf("proposed %v", got)
		}
	})
}

// loseOnce lets an experiment end by the infrastructure's fault, at the proposer's time at, which backs off ten seconds.
func (l *lab) loseOnce(id uint64, at time.Time) {
	l.t.Helper()
	a := l.attempt(id)
	l.mustAt(at, &fsm.Finish{Token: a.Token, Node: a.Node, Class: fsm.ClassSupervisorLost})
	synctest.Wait()
}

func TestBackoff(t *testing.T) {
	for _, c := range []struct {
		name  string
		ahead time.Duration // of the proposer's clock
	}{{"clocks agree", 0}, {"a machine's clock is a year ahead", 365 * 24 * time.Hour}, {"a machine's clock is behind", -time.Hour}} {
		t.Run(c.name, func(t *testing.T) {
			lead(t, func(t *testing.T, l *lab) {
				l.win(1)
				l.beacon(gpu1, gpu2)
				id := l.submit(gpuSpec())
				l.loseOnce(id, time.Now().Add(c.ahead))
				l.beacons(10*time.Second-time.Millisecond, gpu1, gpu2)
				if l.status(id) != fsm.Pending {
					t.Fatalf("%s before its back-off was over", l.status(id))
				}
				<-time.After(time.Millisecond)
				synctest.Wait()
				if l.status(id) != fsm.Running {
					t.Errorf("%s when its back-off was over", l.status(id))
				}
			})
		})
	}
}

func TestSilenceStopsNewWork(t *testing.T) {
	lead(t, func(t *testing.T, l *lab) {
		l.win(1)
		l.beacon(gpu1, gpu2)
		<-time.After(3 * time.Second)
		id := l.submit(gpuSpec())
		if l.status(id) != fsm.Running {
			t.Fatal("three seconds are not silence yet")
		}
		l.must(&fsm.Start{Token: l.attempt(id).Token, Node: l.attempt(id).Node, BootID: "boot"})
		unstarted := l.submit(gpuSpec())
		if l.status(unstarted) != fsm.Running {
			t.Fatal("three seconds are not silence yet")
		}
		<-time.After(time.Millisecond)
		late := l.submit(gpuSpec())
		<-time.After(time.Minute)
		synctest.Wait()
		if l.status(late) != fsm.Pending {
			t.Error("work was given to a machine that is silent")
		}
		if l.status(id) != fsm.Running || !l.attempt(id).Open() {
			t.Error("silence ended running work")
		}
		if l.status(unstarted) != fsm.Pending || l.attempt(unstarted).Open() {
			t.Error("what a silent machine has not started was not taken back")
		}
		l.beacon(gpu1, gpu2)
		if l.status(unstarted) != fsm.Running {
			<-time.After(planAtMost)
			synctest.Wait()
		}
		if l.status(unstarted) != fsm.Running {
			t.Error("a machine that speaks again gets no work")
		}
	})
}
