package supervisor

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func sleeper(t *testing.T, env ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command("sleep", "1000")
	c.Env = env
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	return c
}

func mustStat(t *testing.T, pid int) stat {
	t.Helper()
	s, err := readStat(pid)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSignalOnlyThatProcess(t *testing.T) {
	c := sleeper(t)
	p := mustStat(t, c.Process.Pid).Proc
	if err := signalProc(Proc{PID: p.PID, Start: p.Start + 1}, unix.SIGKILL); !errors.Is(err, unix.ESRCH) {
		t.Errorf("somebody who had the number before: %v", err)
	}
	if err := c.Process.Signal(syscall.Signal(0)); err != nil {
		t.Fatalf("it was hit: %v", err)
	}
	if err := signalProc(p, unix.SIGKILL); err != nil {
		t.Error(err)
	}
}

func TestReadStatOfAStrangeName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a) R 1 (b")
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(sleep, path); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(path, "1000")
	c.Args[0] = "sleep"
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer c.Wait()
	defer c.Process.Kill()
	if s := mustStat(t, c.Process.Pid); s.parent != os.Getpid() || s.Start == 0 {
		t.Errorf("got %+v", s)
	}
}

func TestDescendantsNearestFirst(t *testing.T) {
	c := exec.Command("sh", "-c", "sh -c 'sleep 1000; true' & wait")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var list []stat
	t.Cleanup(func() {
		for _, s := range list {
			_ = signalProc(s.Proc, unix.SIGKILL)
		}
		c.Process.Kill()
		c.Wait()
	})
	until(t, func() bool { list = descendants(c.Process.Pid); return len(list) == 2 })
	if list[0].parent != c.Process.Pid || list[1].parent != list[0].PID {
		t.Errorf("got %+v below %d", list, c.Process.Pid)
	}
	if own := descendants(os.Getpid()); !slices.ContainsFunc(own, func(s stat) bool { return s.PID == list[1].PID }) {
		t.Errorf("%+v lacks the grandchild", own)
	}
}

func TestCatches(t *testing.T) {
	if c := sleeper(t); catches(c.Process.Pid, unix.SIGUSR1) {
		t.Error("sleep catches nothing")
	}
	got := make(chan os.Signal, 1)
	signal.Notify(got, unix.SIGUSR1)
	defer signal.Stop(got)
	if !catches(os.Getpid(), unix.SIGUSR1) || catches(os.Getpid(), 0) || catches(0, unix.SIGUSR1) {
		t.Error("wrong about ourselves")
	}
}

func TestAttach(t *testing.T) {
	life := sampleLife()
	c := sleeper(t, nonceVar+"="+life.Nonce)
	until(t, func() bool { return hasEnv(c.Process.Pid, nonceVar+"="+life.Nonce) }) // after its exec
	life.Supervisor = mustStat(t, c.Process.Pid).Proc
	f, err := Attach(life)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	other := life
	other.Nonce = life.Nonce[1:]
	if _, err := Attach(other); err == nil {
		t.Error("attached by the number alone")
	}
	other = life
	other.Supervisor.Start--
	if _, err := Attach(other); err == nil {
		t.Error("attached without the start time")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := WaitProcess(ctx, f); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it lives: %v", err)
	}
	if err := SignalProcess(f, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := WaitProcess(t.Context(), f); err != nil {
		t.Errorf("it is dead: %v", err)
	}
}

func TestSweepFindsByMark(t *testing.T) {
	const nonce = "the nonce of a lost attempt"
	theirs := sleeper(t, markVar+"="+Mark(nonce))
	stranger := sleeper(t, markVar+"="+Mark("another"))
	until(t, func() bool { return hasEnv(theirs.Process.Pid, markVar+"="+Mark(nonce)) })
	if err := Sweep(t.Context(), nonce, "/sys/fs/cgroup"); err != nil {
		t.Fatal(err)
	}
	if s, err := readStat(theirs.Process.Pid); err == nil && s.state != 'Z' {
		t.Errorf("it lives: %+v", s)
	}
	if err := stranger.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the stranger: %v", err)
	}
}

func TestLocateCgroup(t *testing.T) {
	for name, c := range map[string]struct{ mounts, own, want string }{
		"unified": {"1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/system.slice/cvlab.service\n",
			"/sys/fs/cgroup/system.slice/cvlab.service"},
		"hybrid": {"1 0 0:1 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n2 0 0:2 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n",
			"4:cpu:/x\n0::/\n", "/sys/fs/cgroup/unified"},
		"part of the tree": {"1 0 0:1 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/docker/abc/sub\n", "/sys/fs/cgroup/sub"},
		"another part":     {"1 0 0:1 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/docker/abcdef\n", ""},
		"only version 1":   {"1 0 0:1 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n", "4:cpu:/x\n", ""},
		"nothing":          {"", "", ""},
	} {
		if got, err := locateCgroup(c.mounts, c.own); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
}

func TestOpenCgroupOnlyOurs(t *testing.T) {
	for _, path := range []string{"", "/sys/fs/cgroup", "/", t.TempDir() + "/cvlab-1-1-mark"} {
		if g := openCgroup(path, "mark"); g != nil {
			t.Errorf("%q taken for a group of ours", path)
		}
	}
}

func TestLocateProgram(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"bin/tool": 0o755, "denied/tool": 0o644, "here": 0o755} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, mode)); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		program, path, want string
		code                int
	}{
		"in the PATH":               {"tool", dir + "/none:" + dir + "/bin", dir + "/bin/tool", 0},
		"behind a denied one":       {"tool", dir + "/denied:" + dir + "/bin", dir + "/bin/tool", 0},
		"only denied":               {"tool", dir + "/denied", "", codeNotExecutable},
		"in a relative PATH":        {"tool", "bin", dir + "/bin/tool", 0},
		"nowhere":                   {"tool", dir, "", codeNotFound},
		"relative to the directory": {"./here", "", "./here", 0},
		"absolute":                  {dir + "/here", "", dir + "/here", 0},
	} {
		rec := Record{Dir: dir, Argv: []string{c.program}, Env: []string{"PATH=" + c.path}}
		got, err := locate(rec)
		var se *startError
		if c.code != 0 {
			if !errors.As(err, &se) || se.code != c.code {
				t.Errorf("%s: got %v", name, err)
			}
			continue
		}
		if got != c.want || err != nil {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
}

func until(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(waitLimit); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatal("waited in vain")
		}
	}
}
