package gpu

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func monitorOf(s Source, l *logbook) *Monitor { return newMonitor(s, newHost(""), l.logger()) }

// run runs m until the returned function is called.
func run(t *testing.T, m *Monitor) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := m.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return func() { cancel(); wg.Wait() }
}

// watch returns a function that tells whether there was a change since it was called last.
func watch(m *Monitor) (changed func() bool) {
	next := m.Changed()
	return func() bool {
		select {
		case <-next:
			next = m.Changed()
			return true
		default:
			return false
		}
	}
}

func TestAHangingDriverMakesItsGPUsSuspectAndIsNotAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := &scripted{answer: func(_ context.Context, call int) ([]GPU, error) {
			if call == 2 {
				<-release // in the kernel, deaf to the context
			}
			return []GPU{card(0, "GPU-a")}, nil
		}}
		var log logbook
		m := monitorOf(s, &log)
		changed := watch(m)
		stop := run(t, m)

		time.Sleep(500 * time.Millisecond)
		if got := m.Reading().GPUs; len(got) != 1 || got[0].State != OK || !changed() {
			t.Fatalf("first reading: got %+v, want one card and a change", got)
		}
		time.Sleep(3 * time.Second) // the second call began at 1 s; it is 3.5 s
		if got := states(m.Reading().GPUs)["GPU-a"]; got != OK || changed() {
			t.Errorf("before the deadline: got %s, want ok and no change", got)
		}
		time.Sleep(time.Second)
		want := card(0, "GPU-a")
		want.State = Suspect
		if diff := cmp.Diff([]GPU{want}, m.Reading().GPUs); diff != "" || !changed() {
			t.Errorf("after the deadline: want the last values, suspect, and a change (-want +got):\n%s", diff)
		}
		time.Sleep(time.Minute)
		if n := s.calls.Load(); n != 2 {
			t.Errorf("got %d calls while one hangs, want 2", n)
		}
		if n := log.count("does not answer"); n != 1 {
			t.Errorf("the silence was logged %d times, want once", n)
		}
		before := time.Now()
		if got := m.Measure(t.Context()); got.GPUs[0].State != Suspect || time.Since(before) != 0 {
			t.Errorf("measure during a hang: got %s after %s, want suspect at once", got.GPUs[0].State, time.Since(before))
		}

		close(release)
		time.Sleep(2 * time.Second)
		if got := states(m.Reading().GPUs)["GPU-a"]; got != OK || !changed() {
			t.Errorf("after the kernel let go: got %s, want ok and a change", got)
		}
		stop()
		if err := m.Close(); err != nil || !s.closed.Load() {
			t.Errorf("close: %v, closed %t", err, s.closed.Load())
		}
		if s.most.Load() != 1 {
			t.Errorf("up to %d calls at once, want 1", s.most.Load())
		}
	})
}

func TestCloseDoesNotWaitForEverForAHangingDriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		s := &scripted{answer: func(context.Context, int) ([]GPU, error) {
			<-release
			return nil, nil
		}}
		m := monitorOf(s, &logbook{})
		stop := run(t, m)
		time.Sleep(time.Second)
		before := time.Now()
		stop()
		if d := time.Since(before); d != 0 {
			t.Errorf("run went on for %s after its context had ended", d)
		}
		err := m.Close()
		if err == nil || !strings.Contains(err.Error(), "left behind") {
			t.Errorf("close: got %v, want a word about the call left behind", err)
		}
		if d := time.Since(before); d > deadline {
			t.Errorf("close took %s, want at most %s", d, deadline)
		}
		if s.closed.Load() {
			t.Error("the source was closed under a call that is under way")
		}
		if err := m.Close(); err != nil {
			t.Errorf("second close: %v", err)
		}
		m.Measure(t.Context())
		if n := s.calls.Load(); n != 1 {
			t.Errorf("got %d calls, want none after close", n)
		}
	})
}

func TestAHastyCallerDoesNotMakeAHealthyGPUSuspect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{answer: func(ctx context.Context, call int) ([]GPU, error) {
			if call > 1 {
				time.Sleep(2 * time.Second)
			}
			return []GPU{card(0, "GPU-a")}, ctx.Err()
		}}
		m := monitorOf(s, &logbook{})
		m.Measure(t.Context())
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if got := m.Measure(ctx).GPUs[0].State; got != OK {
			t.Errorf("caller that did not wait: got %s, want ok", got)
		}
		began := time.Now()
		if got := m.Measure(t.Context()); got.GPUs[0].State != OK || got.Age() != 0 {
			t.Errorf("next caller: got %+v, want ok and fresh", got)
		}
		if d := time.Since(began); d != 3*time.Second {
			t.Errorf("next caller waited %s, want the rest of that call and one of its own", d)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestMeasuringTwiceAtOnceGivesBothAnAnswerOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{answer: func(_ context.Context, call int) ([]GPU, error) {
			time.Sleep(time.Second)
			g := card(0, "GPU-a")
			g.Utilization = call
			return []GPU{g}, nil
		}}
		m := monitorOf(s, &logbook{})
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { m.Measure(t.Context()) })
		}
		wg.Wait()
		if s.calls.Load() != 2 || s.most.Load() != 1 || m.Reading().GPUs[0].Utilization != 2 {
			t.Errorf("got %d calls, %d at once, reading of call %d; want 2, one after the other, the second",
				s.calls.Load(), s.most.Load(), m.Reading().GPUs[0].Utilization)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestAnAnswerThatArrivesAfterANewerOneIsDropped(t *testing.T) {
	m := monitorOf(&scripted{}, &logbook{})
	m.take(2, []GPU{card(0, "GPU-a")}, nil)
	m.take(1, nil, errSilent)
	if got := m.Reading().GPUs[0].State; got != OK {
		t.Errorf("got %s, want the newer answer, ok", got)
	}
}

func TestOnlyCardsAndStatesAreAChange(t *testing.T) {
	steps := []struct {
		name string
		gpus []GPU
		err  error
		want bool
	}{
		{"first", []GPU{card(0, "GPU-a")}, nil, true},
		{"same", []GPU{card(0, "GPU-a")}, nil, false},
		{"busier", []GPU{{UUID: "GPU-a", Name: "Card", MemoryTotal: 8 << 30, MemoryUsed: 5, Utilization: 99, Power: 300}}, nil, false},
		{"silent", nil, errors.New("driver is gone"), true},
		{"still silent", nil, errors.New("driver is gone"), false},
		{"one more, other lost", []GPU{card(1, "GPU-b")}, nil, true},
		{"some error, all cards", []GPU{card(0, "GPU-a"), card(1, "GPU-b")}, errors.New("gpu 2: unknown"), true},
		{"none", []GPU{}, nil, true},
	}
	s := &scripted{answer: func(_ context.Context, call int) ([]GPU, error) { return steps[call-1].gpus, steps[call-1].err }}
	m := monitorOf(s, &logbook{})
	changed, other := watch(m), watch(m)
	for _, step := range steps {
		r := m.Measure(t.Context())
		if got := changed(); got != step.want || other() != got {
			t.Errorf("%s: changed %t, want %t; %v", step.name, got, step.want, states(r.GPUs))
		}
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

func TestAReadingIsACopy(t *testing.T) {
	s := &scripted{answer: func(context.Context, int) ([]GPU, error) { return []GPU{card(0, "GPU-a")}, nil }}
	m := monitorOf(s, &logbook{})
	r := m.Measure(t.Context())
	r.GPUs[0].State, r.GPUs[0].Processes[0].User = Bad, "eve"
	if diff := cmp.Diff([]GPU{card(0, "GPU-a")}, m.Reading().GPUs); diff != "" {
		t.Errorf("reading after its copy was changed (-want +got):\n%s", diff)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// costly is a source that wants to be asked rarely.
type costly struct{ scripted }

func (*costly) every() int { return 3 }

func TestACostlySourceIsAskedRarelyButAtOnceOnRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &costly{scripted{answer: func(context.Context, int) ([]GPU, error) { return nil, nil }}}
		m := monitorOf(s, &logbook{})
		stop := run(t, m)
		time.Sleep(9500 * time.Millisecond)
		if n := s.calls.Load(); n != 4 { // at 0, 3, 6 and 9 s
			t.Errorf("got %d calls in 9.5 s, want 4", n)
		}
		m.Measure(t.Context())
		if n := s.calls.Load(); n != 5 {
			t.Errorf("got %d calls, want one more", n)
		}
		stop()
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestTheJSONOfAGPUIsTheContracts(t *testing.T) {
	got, err := json.Marshal(cloneGPUs([]GPU{{UUID: "GPU-a", Index: 1, Name: "Card", State: OK, MemoryUsed: 2, MemoryTotal: 3, Utilization: 4, Temperature: 5, Power: 6.5}})[0])
	want := `{"uuid":"GPU-a","index":1,"name":"Card","state":"ok","memory_used":2,"memory_total":3,"utilization":4,"temperature":5,"power":6.5,"processes":[]}`
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v\nwant %s", got, err, want)
	}
}
