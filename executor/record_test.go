package executor

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/deveronica/cvlab/executor/supervisor"
)

func itoa(n int) string { return strconv.Itoa(n) }

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestATokenIsUsedOnce(t *testing.T) {
	b := newBench(t)
	j := b.job("1-1", "true")
	if err := b.Prepare(t.Context(), j); err != nil {
		t.Fatal(err)
	}
	if err := b.Prepare(t.Context(), j); !errors.Is(err, ErrExists) {
		t.Errorf("second prepare: %v", err)
	}
	if err := b.Forget(t.Context(), "1-1"); !errors.Is(err, ErrState) {
		t.Errorf("forget what never ran: %v", err)
	}
	if err := b.Stop(t.Context(), "1-1", ""); !errors.Is(err, ErrState) {
		t.Errorf("stop what never ran: %v", err)
	}
	if err := b.Launch(t.Context(), "1-1"); err != nil {
		t.Fatal(err)
	}
	b.wait("1-1")
	for _, err := range []error{b.Launch(t.Context(), "1-1"), b.Discard(t.Context(), "1-1")} {
		if !errors.Is(err, ErrState) {
			t.Errorf("after the end: %v", err)
		}
	}
	for range 2 {
		if err := b.Forget(t.Context(), "1-1"); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{b.Prepare(t.Context(), j), b.Launch(t.Context(), "1-1")} {
		if !errors.Is(err, ErrTombstone) {
			t.Errorf("after forget: %v", err)
		}
	}
	b, found := b.again()
	if len(found) != 0 {
		t.Errorf("found %+v", found)
	}
	if err := b.Prepare(t.Context(), j); !errors.Is(err, ErrTombstone) {
		t.Errorf("after a restart: %v", err)
	}
	if e, ok, err := b.Exit("1-1"); err != nil || !ok || e.Token != "1-1" {
		t.Errorf("its exit is gone: %+v %v %v", e, ok, err)
	}
	if _, err := os.Stat(b.LogPath("1-1")); err != nil {
		t.Errorf("its output is gone: %v", err)
	}
}

func TestDiscard(t *testing.T) {
	b := newBench(t)
	j := b.job("1-1", "true")
	if err := b.Prepare(t.Context(), j); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := b.Discard(t.Context(), "1-1"); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{b.Prepare(t.Context(), j), b.Launch(t.Context(), "1-1")} {
		if !errors.Is(err, ErrTombstone) {
			t.Errorf("got %v", err)
		}
	}
	left, err := os.ReadDir(b.dir("1-1"))
	if err != nil || len(left) != 1 || left[0].Name() != supervisor.TombstoneFile {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestOneAttemptOfAnExperimentAtATime(t *testing.T) {
	b := newBench(t)
	second := b.job("1-2", "true")
	second.Experiment, second.Attempt = 1, 2
	b.start(b.job("1-1", "sleep", "1000"))
	if err := b.Prepare(t.Context(), second); !errors.Is(err, ErrBusy) {
		t.Errorf("while it runs: %v", err)
	}
	b, _ = b.again()
	if err := b.Prepare(t.Context(), second); !errors.Is(err, ErrBusy) {
		t.Errorf("while it runs, after a restart: %v", err)
	}
	if err := b.Stop(t.Context(), "1-1", ""); err != nil {
		t.Fatal(err)
	}
	b.wait("1-1")
	if err := b.Prepare(t.Context(), second); err != nil {
		t.Errorf("after its end: %v", err)
	}
}

func TestNobodyCanLaunchTwice(t *testing.T) {
	b := newBench(t)
	b.start(b.job("1-1", "sleep", "1000"))
	if err := b.Launch(t.Context(), "1-1"); !errors.Is(err, ErrState) {
		t.Errorf("the same daemon: %v", err)
	}
	if _, err := supervisor.Lock(b.dir("1-1")); !errors.Is(err, supervisor.ErrLocked) {
		t.Errorf("another daemon: %v", err)
	}
	pids := b.living()
	if code := supervisor.Command([]string{b.dir("1-1")}, t.Output()); code != 1 {
		t.Errorf("by hand: %d", code)
	}
	if !slices.Equal(b.living(), pids) {
		t.Error("there are two")
	}
}

func TestLaunchWithoutASupervisorProgram(t *testing.T) {
	o := testOptions(t, filepath.Join(t.TempDir(), "attempts"))
	o.Supervisor = []string{"/no/such/program"}
	b := openBench(t, o)
	if err := b.Prepare(t.Context(), b.job("1-1", "true")); err != nil {
		t.Fatal(err)
	}
	if err := b.Launch(t.Context(), "1-1"); err == nil {
		t.Fatal("launched nothing")
	}
	if err := b.Discard(t.Context(), "1-1"); err != nil {
		t.Errorf("it is not prepared any more: %v", err)
	}
}

func TestLaunchOfASupervisorThatSaysNothing(t *testing.T) {
	o := testOptions(t, filepath.Join(t.TempDir(), "attempts"))
	o.Supervisor = []string{"/bin/false"}
	b := openBench(t, o)
	if err := b.Prepare(t.Context(), b.job("1-1", "true")); err != nil {
		t.Fatal(err)
	}
	if err := b.Launch(t.Context(), "1-1"); !errors.Is(err, supervisor.ErrNoConfirmation) {
		t.Errorf("got %v", err)
	}
	if e := b.wait("1-1"); e.Reason != supervisor.ReasonLost {
		t.Errorf("got %+v", e)
	}
}

func TestPrepareRefusesNonsense(t *testing.T) {
	b := newBench(t)
	for name, change := range map[string]func(*Job){
		"path as token":    func(j *Job) { j.Token = "../1-1" },
		"hidden token":     func(j *Job) { j.Token = ".x" },
		"no command":       func(j *Job) { j.Argv = nil },
		"relative dir":     func(j *Job) { j.Dir = "here" },
		"zero byte":        func(j *Job) { j.Argv = []string{"a\x00b"} },
		"bad environment":  func(j *Job) { j.Env = []string{"NOTHING"} },
		"attempt 0":        func(j *Job) { j.Attempt = 0 },
		"another boot":     func(j *Job) { j.BootID = "another" },
		"negative seconds": func(j *Job) { j.TimeLimit = -1 },
	} {
		j := b.job("1-1", "true")
		change(&j)
		if err := b.Prepare(t.Context(), j); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if left, err := os.ReadDir(b.opts.AttemptsDir); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// BenchmarkLaunch measures how long Launch takes, which includes the exec of the job's program, and how long after the
// job's end a waiter knows.
func BenchmarkLaunch(b *testing.B) {
	r := openBench(b, testOptions(b, filepath.Join(b.TempDir(), "attempts")))
	var launch, known time.Duration
	n := 0
	for b.Loop() {
		n++
		j := r.job("1-"+itoa(n), "true")
		b.StopTimer()
		if err := r.Prepare(b.Context(), j); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		begun := time.Now()
		if err := r.Launch(b.Context(), j.Token); err != nil {
			b.Fatal(err)
		}
		launch += time.Since(begun)
		e := r.wait(j.Token)
		known += time.Since(e.EndedAt)
	}
	b.ReportMetric(float64(launch.Microseconds())/float64(n), "launch-us")
	b.ReportMetric(float64(known.Microseconds())/float64(n), "end-known-us")
}
