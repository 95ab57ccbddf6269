package executor

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/deveronica/cvlab/executor/supervisor"
)

func TestJobOutlivesAKilledDaemon(t *testing.T) {
	for _, meanwhile := range []bool{false, true} {
		name := map[bool]string{false: "and goes on", true: "and ends meanwhile"}[meanwhile]
		t.Run(name, func(t *testing.T) {
			dir, file := filepath.Join(t.TempDir(), "attempts"), filepath.Join(t.TempDir(), "go")
			killDaemon(t, dir, file)
			b := openBench(t, testOptions(t, dir))
			want := Running
			if meanwhile {
				finish(t, file)
				until(t, "the exit record", func() bool { _, err := supervisor.ReadExit(b.dir("1-1")); return err == nil })
				until(t, "the supervisor's end", func() bool { alive, err := supervisor.Alive(b.dir("1-1")); return err == nil && !alive })
				want = Ended
			}
			f := b.recover()["1-1"]
			if f.State != want || f.Experiment != 1 || f.Attempt != 1 {
				t.Fatalf("found %+v, want it %s", f, want)
			}
			if !meanwhile {
				if !slices.Equal(b.Running(), []string{"1-1"}) || b.attempts["1-1"].pidfd == nil {
					t.Fatal("not attached")
				}
				finish(t, file)
			}
			if e := b.wait("1-1"); e.Code != 7 || e.Reason != supervisor.ReasonExited {
				t.Errorf("got %+v", e)
			}
			if got := b.log("1-1"); got != "hello\ngoodbye\n" {
				t.Errorf("log %q", got)
			}
		})
	}
}

// killDaemon runs a daemon that launches 1-1, and kills it.
func killDaemon(t *testing.T, dir, file string) {
	t.Helper()
	c := exec.Command(os.Args[0], "play", "daemon", dir, "1-1", file)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "launched <nil>\n" {
		t.Errorf("daemon said %q, %v", line, err)
	}
	c.Process.Kill()
	c.Wait()
}

func finish(t *testing.T, file string) {
	t.Helper()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestStopAfterReattach(t *testing.T) {
	b := newBench(t)
	b.start(b.job("1-1", "sleep", "1000"))
	n, found := b.again()
	if found["1-1"].State != Running {
		t.Fatalf("found %+v", found)
	}
	if err := n.Stop(t.Context(), "1-1", "enough"); err != nil {
		t.Fatal(err)
	}
	if e := n.wait("1-1"); e.Reason != supervisor.ReasonStopped || e.Message != "enough" {
		t.Errorf("got %+v", e)
	}
}

func TestKilledSupervisorIsReportedAndLeavesNothing(t *testing.T) {
	for _, c := range []struct {
		name                string
		away, withoutCgroup bool
	}{
		{"daemon here", false, false},
		{"daemon away", true, false},
		{"daemon here, no cgroup", false, true},
		{"daemon away, no cgroup", true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.withoutCgroup = c.withoutCgroup
			b.start(b.job("1-1", os.Args[0], "play", "stubborn", "5"))
			b.untilLog("1-1", "ready")
			super, main := b.life("1-1").Supervisor.PID, b.life("1-1").Job.PID
			if c.away {
				b.stop()
				kill(t, super, unix.SIGKILL)
				until(t, "its end", func() bool { alive, err := supervisor.Alive(b.dir("1-1")); return err == nil && !alive })
				// Nobody is there to kill anything, but the kernel does it for the main process.
				until(t, "the main process's end", func() bool { return !slices.Contains(b.living(), main) })
				var found map[string]Found
				if b, found = b.again(); found["1-1"].State != Lost {
					t.Fatalf("found %+v", found)
				}
			} else {
				kill(t, super, unix.SIGKILL)
			}
			if e := b.wait("1-1"); e.Reason != supervisor.ReasonLost || e.Code != -1 {
				t.Errorf("got %+v", e)
			}
			if l := b.living(); len(l) != 0 {
				t.Errorf("processes %v survived", l)
			}
			if e, ok, err := b.Exit("1-1"); !ok || err != nil || e.Reason != supervisor.ReasonLost {
				t.Errorf("not written down: %+v %v %v", e, ok, err)
			}
		})
	}
}

func TestKillGetsPastAHungSupervisor(t *testing.T) {
	b := newBench(t)
	b.start(b.job("1-1", "sleep", "1000"))
	kill(t, b.life("1-1").Supervisor.PID, unix.SIGSTOP)
	if err := b.Kill(t.Context(), "1-1", "it hangs"); err != nil {
		t.Fatal(err)
	}
	if e := b.wait("1-1"); e.Reason != supervisor.ReasonLost {
		t.Errorf("got %+v", e)
	}
	if l := b.living(); len(l) != 0 {
		t.Errorf("processes %v survived", l)
	}
}

func TestDamagedExitRecordIsNotSilent(t *testing.T) {
	for _, at := range []int64{0, 60, 3000, supervisor.BlockSize - 3} {
		b := newBench(t)
		b.start(b.job("1-1", "sh", "-c", "exit 0"))
		b.wait("1-1")
		b.stop()
		flip(t, filepath.Join(b.dir("1-1"), supervisor.ExitFile), at)
		n, found := b.again()
		if f := found["1-1"]; f.State != Lost || f.Exit.Reason != supervisor.ReasonLost || !strings.Contains(f.Exit.Message, "cannot be read") {
			t.Errorf("byte %d: found %+v", at, f)
		}
		if _, err := os.Stat(filepath.Join(n.dir("1-1"), supervisor.ExitFile+".damaged")); err != nil {
			t.Errorf("nothing kept to look at: %v", err)
		}
		n, found = n.again() // and it is the same answer the next time
		if f := found["1-1"]; f.State != Lost {
			t.Errorf("byte %d: then found %+v", at, f)
		}
	}
}

func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x04
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

func TestRunningJobSurvivesItsDamagedRecord(t *testing.T) {
	b := newBench(t)
	b.start(b.job("1-1", "sleep", "1000"))
	pid := b.life("1-1").Job.PID
	flip(t, filepath.Join(b.dir("1-1"), supervisor.RecordFile), 40)
	b, found := b.again()
	if found["1-1"].State != Running || found["1-1"].Experiment != 1 {
		t.Fatalf("found %+v", found)
	}
	if err := b.Prepare(t.Context(), func() Job { j := b.job("1-2", "true"); j.Experiment = 1; return j }()); !errors.Is(err, ErrBusy) {
		t.Errorf("a second attempt of the experiment: %v", err)
	}
	if l := b.living(); !slices.Equal(l, []int{pid}) {
		t.Fatalf("living %v, want %d", l, pid)
	}
	// Now nothing is left that says whose it is. The job still runs on, and nothing new starts beside it.
	flip(t, filepath.Join(b.dir("1-1"), supervisor.LifeFile), 40)
	super := supervisorOf(t, pid)
	b, found = b.again()
	if found["1-1"].State != Quarantined || !found["1-1"].Alive || !b.Occupied("1-1") || !slices.Equal(b.living(), []int{pid}) {
		t.Fatalf("found %+v, living %v", found, b.living())
	}
	if err := b.Prepare(t.Context(), b.job("1-2", "true")); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "end that process") {
		t.Errorf("got %v", err)
	}
	kill(t, super, unix.SIGTERM)
	until(t, "a free hand", func() bool { return b.Prepare(t.Context(), b.job("1-2", "true")) == nil })
	if b.living() != nil {
		t.Error("the job did not end")
	}
	if b.Occupied("1-1") {
		t.Error("still said to be occupied")
	}
}

func supervisorOf(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile("/proc/" + itoa(pid) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	return atoi(t, strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))[1])
}

func TestStrangerWithTheRecordedNumber(t *testing.T) {
	t.Run("supervisor gone", func(t *testing.T) {
		b := newBench(t)
		pose(t, b, stranger(t))
		b, found := b.again()
		if found["1-1"].State != Lost {
			t.Errorf("found %+v", found)
		}
		_ = b
	})
	t.Run("supervisor alive under another number", func(t *testing.T) {
		b := newBench(t)
		pose(t, b, stranger(t))
		lock, err := supervisor.Lock(b.dir("1-1"))
		if err != nil {
			t.Fatal(err)
		}
		b, found := b.again()
		if found["1-1"].State != Running {
			t.Errorf("found %+v", found)
		}
		if err := b.Kill(t.Context(), "1-1", "must not hit the stranger"); err == nil {
			t.Error("killed somebody")
		}
		lock.Close()
		if e := b.wait("1-1"); e.Reason != supervisor.ReasonLost {
			t.Errorf("got %+v", e)
		}
	})
}

// pose makes the records say that p stands over 1-1.
func pose(t *testing.T, b *bench, p supervisor.Proc) {
	t.Helper()
	if err := b.Prepare(t.Context(), b.job("1-1", "true")); err != nil {
		t.Fatal(err)
	}
	rec := b.attempts["1-1"].rec
	data, err := supervisor.EncodeLife(supervisor.Life{
		Token: "1-1", Nonce: rec.Nonce, Experiment: 1, Attempt: 1, BootID: rec.BootID, Supervisor: p, Job: p,
		Cgroup: "/sys/fs/cgroup", // and that everything is its
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.dir("1-1"), supervisor.LifeFile), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestReboot(t *testing.T) {
	b := newBench(t)
	if err := b.Prepare(t.Context(), b.job("1-1", "true")); err != nil {
		t.Fatal(err)
	}
	b.start(b.job("1-2", "sh", "-c", "exit 3"))
	b.wait("1-2")
	_, found := b.again(func(o *Options) { o.BootID = "another boot" })
	if f := found["1-1"]; f.State != Lost || !strings.Contains(f.Exit.Message, "restarted") {
		t.Errorf("prepared before the restart: %+v", f)
	}
	if f := found["1-2"]; f.State != Ended || f.Exit.Code != 3 {
		t.Errorf("ended before the restart: %+v", f)
	}
}

func TestQuarantine(t *testing.T) {
	b := newBench(t)
	b.start(b.job("1-9", "true"))
	b.wait("1-9")
	b.stop()
	garbage := map[string]func(dir string) error{
		"1-1":        func(dir string) error { return os.Mkdir(dir, 0o700) },
		"1-2":        func(dir string) error { return os.WriteFile(dir, []byte("a file"), 0o600) },
		"1-3":        func(dir string) error { return os.CopyFS(dir, os.DirFS(b.dir("1-9"))) }, // the record of another
		"not a name": func(dir string) error { return os.Mkdir(dir, 0o700) },
		"1-4": func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o700), unix.Mkfifo(filepath.Join(dir, supervisor.RecordFile), 0o600))
		},
		"1-5": func(dir string) error { return os.Symlink("/etc", dir) },
	}
	for name, lay := range garbage {
		if err := lay(b.dir(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(b.dir(".prepare-1-7"), 0o700); err != nil { // a crash in Prepare
		t.Fatal(err)
	}
	n, found := b.again()
	for name := range garbage {
		if f := found[name]; f.State != Quarantined || f.Err == nil || f.Alive {
			t.Errorf("%s: found %+v", name, f)
		}
		if _, err := os.Lstat(filepath.Join(n.opts.AttemptsDir, quarantineDir, name)); err != nil {
			t.Error(err)
		}
	}
	if f := found["1-9"]; f.State != Ended {
		t.Errorf("the good one: %+v", f)
	}
	n, found = n.again()
	if len(found) != 1 {
		t.Errorf("then found %+v", found)
	}
	left, err := os.ReadDir(n.opts.AttemptsDir)
	if err != nil || len(left) != 2 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestPreparedIsFoundAndCanBeLaunched(t *testing.T) {
	b := newBench(t)
	if err := b.Prepare(t.Context(), b.job("1-1", "true")); err != nil {
		t.Fatal(err)
	}
	b, found := b.again()
	if found["1-1"].State != Prepared {
		t.Fatalf("found %+v", found)
	}
	if err := b.Launch(t.Context(), "1-1"); err != nil {
		t.Fatal(err)
	}
	if e := b.wait("1-1"); e.Code != 0 || e.Reason != supervisor.ReasonExited {
		t.Errorf("got %+v", e)
	}
}

func TestRunCanEndAndBeginAgain(t *testing.T) {
	b := newBench(t)
	file := filepath.Join(t.TempDir(), "go")
	b.start(untilFile("1-1", file))
	b.stop()
	finish(t, file)
	ctx, cancel := context.WithCancel(t.Context())
	var again sync.WaitGroup
	defer again.Wait()
	defer cancel()
	again.Go(func() {
		if err := b.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	if e := b.wait("1-1"); e.Code != 7 {
		t.Errorf("got %+v", e)
	}
}
