package executor

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/deveronica/cvlab/executor/supervisor"
)

func TestHowAJobEnds(t *testing.T) {
	notExecutable := filepath.Join(t.TempDir(), "data.txt")
	noShebang := filepath.Join(t.TempDir(), "script")
	for path, mode := range map[string]os.FileMode{notExecutable: 0o644, noShebang: 0o755} {
		if err := os.WriteFile(path, []byte("echo hello\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	type end struct {
		Reason       string
		Code, Signal int
	}
	for i, c := range []struct {
		name string
		argv []string
		dir  string
		want end
		says string
	}{
		{"well", []string{"true"}, "", end{supervisor.ReasonExited, 0, 0}, ""},
		{"with a code", []string{"sh", "-c", "exit 3"}, "", end{supervisor.ReasonExited, 3, 0}, ""},
		{"by a signal", []string{"sh", "-c", "kill -9 $$"}, "", end{supervisor.ReasonExited, 137, 9}, ""},
		{"by SIGTERM from outside", []string{"sh", "-c", "kill $$"}, "", end{supervisor.ReasonExited, 143, 15}, ""},
		{"no such program", []string{"no-such-program"}, "", end{supervisor.ReasonStartFailed, 127, 0}, "not in the PATH"},
		{"no such file", []string{"./nothing"}, "", end{supervisor.ReasonStartFailed, 127, 0}, "no such file"},
		{"not executable", []string{notExecutable}, "", end{supervisor.ReasonStartFailed, 126, 0}, "not executable"},
		{"no program at all", []string{noShebang}, "", end{supervisor.ReasonStartFailed, 126, 0}, "exec format error"},
		{"a directory", []string{"/tmp"}, "", end{supervisor.ReasonStartFailed, 126, 0}, "is a directory"},
		{"no working directory", []string{"true"}, "/no/such/dir", end{supervisor.ReasonStartFailed, 126, 0}, "working directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			j := b.job(fmt.Sprintf("1-%d", i+1), c.argv...)
			if c.dir != "" {
				j.Dir = c.dir
			}
			b.start(j)
			e := b.wait(j.Token)
			if diff := cmp.Diff(c.want, end{e.Reason, e.Code, e.Signal}); diff != "" {
				t.Errorf("got %+v: %s", e, diff)
			}
			if !strings.Contains(e.Message, c.says) {
				t.Errorf("message %q does not say %q", e.Message, c.says)
			}
			if c.says != "" && !strings.Contains(b.log(j.Token), c.says) {
				t.Errorf("the user's log %q does not say %q", b.log(j.Token), c.says)
			}
			if e.EndedAt.Before(e.StartedAt) || e.Token != j.Token {
				t.Errorf("times or token wrong: %+v", e)
			}
		})
	}
}

func TestOutputArrivesByteForByte(t *testing.T) {
	const size = 100 << 20
	b := newBench(t)
	b.start(b.job("1-1", os.Args[0], "play", "write", fmt.Sprint(size)))
	e := b.wait("1-1")
	want := sha256.New()
	noise(size, func(p []byte) { want.Write(p) })
	f, err := os.Open(b.LogPath("1-1"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := sha256.New()
	n, err := io.Copy(got, f)
	if err != nil || n != size || e.LogSize != size {
		t.Fatalf("got %d bytes (record says %d), want %d: %v", n, e.LogSize, size, err)
	}
	if !slices.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Error("the bytes are not the job's")
	}
	if e.UserTime <= 0 || e.MaxRSS <= 0 {
		t.Errorf("no resource use in %+v", e)
	}
}

func TestEnvironmentAndInput(t *testing.T) {
	b := newBench(t)
	j := b.job("1-1", "sh", "-c", `cat; pwd; umask; ulimit -c; env; ls -l /proc/$$/fd | wc -l`)
	t.Setenv("SECRET_OF_THE_DAEMON", "1")
	b.start(j)
	b.wait("1-1")
	log := b.log("1-1")
	for _, want := range []string{j.Dir + "\n", "0022\n", b.id} {
		if !strings.Contains(log, want) {
			t.Errorf("log lacks %q:\n%s", want, log)
		}
	}
	for _, bad := range []string{"SECRET", "CVLAB_SUPERVISOR"} {
		if strings.Contains(log, bad) {
			t.Errorf("the job's environment has %q:\n%s", bad, log)
		}
	}
	lines := strings.Fields(log)
	if n := lines[len(lines)-1]; n > "6" { // a head line, 0, 1, 2, and a shell's own one or two
		t.Errorf("the job has %s descriptors, some of them ours", n)
	}
}

// The daemon is protected from the kernel's OOM killer. A job that inherited that would have everything else killed.
func TestJobIsNotProtectedFromOOM(t *testing.T) {
	const file = "/proc/self/oom_score_adj"
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("-123"), 0); err != nil {
		t.Skipf("needs the right to be protected: %v", err)
	}
	t.Cleanup(func() { os.WriteFile(file, old, 0) })
	b := newBench(t)
	b.start(b.job("1-1", "sh", "-c", "cat "+file+"; sleep 1000"))
	b.untilLog("1-1", "\n")
	if got := b.log("1-1"); got != "0\n" {
		t.Errorf("the job's score is %q", got)
	}
	got, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", b.life("1-1").Supervisor.PID))
	if err != nil || string(got) != "-123\n" {
		t.Errorf("its supervisor's score is %q, %v", got, err)
	}
}

func TestStopEndsATreeThatWillNot(t *testing.T) {
	t.Run("in a cgroup, if there is one", func(t *testing.T) { stopStubborn(t, newBench(t)) })
	t.Run("by walking", func(t *testing.T) {
		b := newBench(t)
		b.withoutCgroup = true
		stopStubborn(t, b)
	})
}

func stopStubborn(t *testing.T, b *bench) {
	j := b.job("1-1", os.Args[0], "play", "stubborn", "5")
	j.Grace = 200 * time.Millisecond
	b.start(j)
	b.untilLog("1-1", "ready")
	if n := len(b.living()); n < 4 {
		t.Fatalf("only %d processes live, the test is no test", n)
	}
	group := b.life("1-1").Cgroup
	asked := time.Now()
	for range 2 { // twice is once
		if err := b.Stop(t.Context(), "1-1", "somebody asked"); err != nil {
			t.Fatal(err)
		}
	}
	e := b.wait("1-1")
	if got := time.Since(asked); got < j.Grace {
		t.Errorf("ended after %s, it had %s of grace", got, j.Grace)
	}
	if e.Reason != supervisor.ReasonStopped || e.Signal != 9 || e.Message != "somebody asked" {
		t.Errorf("got %+v", e)
	}
	if l := b.living(); len(l) != 0 {
		t.Errorf("processes %v survived", l)
	}
	if _, err := os.Stat(group); group != "" && !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its cgroup %s was left behind: %v", group, err)
	}
	if err := b.Stop(t.Context(), "1-1", "again"); err != nil {
		t.Errorf("stop what has ended: %v", err)
	}
}

func TestStopLetsAJobSayGoodbye(t *testing.T) {
	b := newBench(t)
	b.start(b.job("1-1", "sh", "-c", `trap 'echo saved; exit 4' TERM; echo ready; while :; do sleep 0.02; done`))
	b.untilLog("1-1", "ready")
	if err := b.Stop(t.Context(), "1-1", "enough"); err != nil {
		t.Fatal(err)
	}
	if e := b.wait("1-1"); e.Reason != supervisor.ReasonStopped || e.Code != 4 {
		t.Errorf("got %+v", e)
	}
	b.untilLog("1-1", "saved")
}

func TestStopWakesAStoppedJob(t *testing.T) {
	b := newBench(t)
	b.start(b.job("1-1", "sleep", "1000"))
	kill(t, b.life("1-1").Job.PID, unix.SIGSTOP)
	if err := b.Stop(t.Context(), "1-1", ""); err != nil {
		t.Fatal(err)
	}
	if e := b.wait("1-1"); e.Signal != 15 {
		t.Errorf("got %+v, want the end by SIGTERM", e)
	}
}

func TestSupervisorsOwnSIGTERMStopsTheJob(t *testing.T) {
	b := newBench(t)
	b.start(b.job("1-1", "sleep", "1000"))
	kill(t, b.life("1-1").Supervisor.PID, unix.SIGTERM)
	if e := b.wait("1-1"); e.Reason != supervisor.ReasonStopped || e.Signal != 15 {
		t.Errorf("got %+v", e)
	}
}

func TestLeftoversOfAFinishedJob(t *testing.T) {
	b := newBench(t)
	b.start(b.job("1-1", "sh", "-c", `(sleep 0.1; echo late) & (trap '' TERM; while :; do sleep 1; done) & exit 5`))
	e := b.wait("1-1")
	if e.Reason != supervisor.ReasonExited || e.Code != 5 {
		t.Errorf("got %+v", e)
	}
	if b.log("1-1") != "late\n" {
		t.Errorf("the end of the pipeline was lost: %q", b.log("1-1"))
	}
	if l := b.living(); len(l) != 0 {
		t.Errorf("processes %v survived", l)
	}
}

// A tenth of the limit before its end the job is told to write a checkpoint; then it is stopped as always.
func TestTimeLimit(t *testing.T) {
	const limit, grace = 2 * time.Second, 300 * time.Millisecond
	for _, c := range []struct {
		name    string
		script  string
		signal  int
		code    int
		atLeast time.Duration
		log     string
	}{
		{"writes a checkpoint and ends in order", `trap 'echo saved' USR1; trap 'echo bye; exit 3' TERM; while :; do sleep 0.02; done`, 0, 3, limit, "saved\nbye\n"},
		{"knows no checkpoints", `while :; do sleep 0.02; done`, 15, 143, limit, ""},
		{"does not want to end", `trap 'echo saved' USR1; trap '' TERM; while :; do sleep 0.02; done`, 9, 137, limit + grace, "saved\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			j := b.job("1-1", "sh", "-c", c.script)
			j.TimeLimit, j.Grace = limit, grace
			b.start(j)
			e := b.wait("1-1")
			if e.Reason != supervisor.ReasonTimeLimit || e.Signal != c.signal || e.Code != c.code || !strings.Contains(e.Message, "2s") {
				t.Errorf("got %+v", e)
			}
			if ran := e.EndedAt.Sub(e.StartedAt); ran < c.atLeast {
				t.Errorf("it had %s, want at least %s", ran, c.atLeast)
			}
			if got := strings.ReplaceAll(b.log("1-1"), "Terminated\n", ""); got != c.log { // which is the shell's own word
				t.Errorf("it said %q, want %q", got, c.log)
			}
		})
	}
}

// Where the kernel counts memory for the job's own cgroup, its word decides.
func TestKilledForMemory(t *testing.T) {
	b := newBench(t)
	file := filepath.Join(t.TempDir(), "go")
	b.start(b.job("1-1", "sh", "-c", `while [ ! -e "$0" ]; do sleep 0.02; done; python3 -c 'x = bytearray(1 << 30)' || exit 5`, file))
	limit := filepath.Join(b.life("1-1").Cgroup, "memory.max")
	if b.life("1-1").Cgroup == "" {
		t.Skip("the job has no cgroup of its own here")
	}
	if err := os.WriteFile(limit, []byte("67108864"), 0); err != nil {
		t.Skipf("the memory controller of cgroup v2 cannot be used here: %v", err)
	}
	_ = os.WriteFile(filepath.Join(filepath.Dir(limit), "memory.swap.max"), []byte("0"), 0) // not every kernel has swap accounting
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if e := b.wait("1-1"); e.OOMKills == 0 || e.Code != 5 {
		t.Errorf("got %+v", e)
	}
}

// A shell in front of the training would die of SIGUSR1, and its workers must not answer for it.
func TestSignalReachesWhoWaitsForIt(t *testing.T) {
	b := newBench(t)
	b.start(b.job("1-1", "sh", "-c", os.Args[0]+" play listener & "+os.Args[0]+" play listener & wait"))
	until(t, "both ready", func() bool { return strings.Count(b.log("1-1"), "ready") == 2 })
	n, err := b.Signal(t.Context(), "1-1", "SIGUSR1")
	if err != nil || n != 2 {
		t.Errorf("reached %d: %v", n, err)
	}
	until(t, "both told", func() bool { return strings.Count(b.log("1-1"), "got user defined signal 1") == 2 })
	if !slices.Contains(b.Running(), "1-1") {
		t.Error("the shell died of it")
	}
	if _, err := b.Signal(t.Context(), "1-1", "SIGNONSENSE"); !errors.Is(err, supervisor.ErrRefused) {
		t.Errorf("got %v", err)
	}
}

func TestWrongNonceIsRefused(t *testing.T) {
	b := newBench(t)
	b.start(b.job("1-1", "sleep", "1000"))
	_, err := supervisor.Ask(t.Context(), b.dir("1-1"), "the-nonce-of-another", supervisor.Request{Op: supervisor.OpStop})
	if !errors.Is(err, supervisor.ErrRefused) || !strings.Contains(err.Error(), "nonce") {
		t.Errorf("got %v", err)
	}
	nonce := b.attempts["1-1"].rec.Nonce
	if _, err := supervisor.Ask(t.Context(), b.dir("1-1"), nonce, supervisor.Request{Op: "dance"}); !errors.Is(err, supervisor.ErrRefused) {
		t.Errorf("got %v", err)
	}
	a, err := supervisor.Ask(t.Context(), b.dir("1-1"), nonce, supervisor.Request{Op: supervisor.OpStatus})
	if err != nil || a.Phase != "running" || a.PID != b.life("1-1").Job.PID {
		t.Errorf("got %+v, %v", a, err)
	}
}

func TestFullDiskCannotEatAnExitCode(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("cvlab", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("needs the right to mount a small tmpfs: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	b := openBench(t, testOptions(t, dir))
	file := filepath.Join(t.TempDir(), "go")
	if err := b.Prepare(t.Context(), untilFile("1-1", file)); err != nil {
		t.Fatal(err)
	}
	filler, err := os.Create(filepath.Join(dir, ".filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	for err == nil {
		_, err = filler.Write(make([]byte, 512))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if err := b.Launch(t.Context(), "1-1"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if e := b.wait("1-1"); e.Reason != supervisor.ReasonExited || e.Code != 7 {
		t.Errorf("got %+v", e)
	}
}
