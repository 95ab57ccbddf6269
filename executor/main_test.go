package executor

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/deveronica/cvlab/executor/supervisor"
)

// TestMain lets the test binary be three programs: the tests, the supervisor, and the jobs and daemons the tests need.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case "supervise":
			supervisor.Command(os.Args[2:], os.Stderr)
			return
		case "play":
			play(os.Args[2], os.Args[3:])
			return
		}
	}
	goleak.VerifyTestMain(m)
}

const patience = 20 * time.Second

// play is what the test binary does as a job or a daemon.
func play(part string, args []string) {
	switch part {
	case "write": // BYTES: noise with 1 MiB lines
		w := bufio.NewWriterSize(os.Stdout, 1<<16)
		n, _ := strconv.Atoi(args[0])
		noise(n, func(b []byte) { w.Write(b) })
		w.Flush()
	case "stubborn": // DEPTH: ignores SIGTERM, has a child in another session that does the same
		signal.Ignore(syscall.SIGTERM, syscall.SIGHUP)
		if depth, _ := strconv.Atoi(args[0]); depth > 0 {
			c := exec.Command(os.Args[0], "play", "stubborn", strconv.Itoa(depth-1))
			c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			c.Stdout = os.Stdout
			if err := c.Start(); err != nil {
				fmt.Println(err)
			}
			if depth%2 == 0 {
				return // a double fork: the child loses its parent
			}
		} else {
			fmt.Println("ready")
		}
		select {}
	case "listener": // says which signals it gets; its child would inherit that
		got := make(chan os.Signal, 1)
		signal.Notify(got, syscall.SIGUSR1)
		fmt.Println("ready")
		fmt.Println("got", <-got)
		time.Sleep(time.Hour)
	case "clock": // FILE CHILD: see playClock
		playClock(args[0], args[1] != "")
	case "daemon": // DIR TOKEN FILE: launches a job that ends with 7 once FILE is there, and hangs
		playDaemon(args[0], args[1], args[2])
	}
}

func playDaemon(dir, token, file string) {
	r, err := Open(Options{AttemptsDir: dir, Supervisor: []string{os.Args[0], "supervise"}, Logger: slog.New(slog.DiscardHandler)})
	if err == nil {
		err = r.Prepare(context.Background(), untilFile(token, file))
	}
	if err == nil {
		err = r.Launch(context.Background(), token)
	}
	fmt.Println("launched", err)
	select {}
}

// noise gives n reproducible bytes of every value, in pieces, some of them lines of 1 MiB.
func noise(n int, emit func([]byte)) {
	x := uint32(2463534242)
	piece := make([]byte, 1<<20)
	for n > 0 {
		piece = piece[:min(n, cap(piece))]
		for i := range piece {
			x ^= x << 13
			x ^= x >> 17
			x ^= x << 5
			piece[i] = byte(x >> 11)
		}
		if x%4 == 0 { // a line of text as long as the piece
			for i := range piece {
				piece[i] = 'a' + piece[i]%26
			}
			piece[len(piece)-1] = '\n'
		}
		emit(piece)
		n -= len(piece)
	}
}

// bench is a Runner at work on a directory, with everything the tests ask about it.
type bench struct {
	*Runner
	t    testing.TB
	id   string // in the environment of every job of this bench
	stop func() // ends the Runner, as a daemon that goes away would

	withoutCgroup bool // the jobs it starts must do without
}

func testOptions(t testing.TB, dir string) Options {
	return Options{
		AttemptsDir: dir, Supervisor: []string{os.Args[0], "supervise"}, Linger: 300 * time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

func newBench(t testing.TB) *bench {
	return openBench(t, testOptions(t, filepath.Join(t.TempDir(), "attempts")))
}

func openBench(t testing.TB, o Options) *bench {
	t.Helper()
	r, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{Runner: r, t: t, id: "CVLAB_TEST=" + rand.Text()}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	gone := false
	b.stop = sync.OnceFunc(func() {
		gone = true
		cancel()
		running.Wait()
	})
	t.Cleanup(func() {
		for _, token := range r.Running() {
			if gone { // its jobs are another's now
				break
			}
			if err := r.Kill(context.Background(), token, "the test is over"); err == nil {
				b.wait(token)
			}
		}
		b.stop()
		for _, pid := range b.living() { // only after a failure
			unix.Kill(pid, unix.SIGKILL)
		}
	})
	return b
}

// again is a new Runner on the same directory after the old one went away, and what it found.
func (b *bench) again(change ...func(*Options)) (*bench, map[string]Found) {
	b.t.Helper()
	b.stop()
	o := testOptions(b.t, b.opts.AttemptsDir)
	for _, c := range change {
		c(&o)
	}
	n := openBench(b.t, o)
	n.id = b.id
	return n, n.recover()
}

func (b *bench) recover() map[string]Found {
	b.t.Helper()
	list, err := b.Recover(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	found := make(map[string]Found)
	for _, f := range list {
		found[f.Token] = f
	}
	return found
}

func (b *bench) job(token string, argv ...string) Job {
	_, number, _ := strings.Cut(token, "-")
	x, _ := strconv.ParseUint(number, 10, 64)
	return Job{
		Token: token, Experiment: x, Attempt: 1, Argv: argv, Dir: b.t.TempDir(), Grace: 5 * time.Second,
		Env: []string{"PATH=" + os.Getenv("PATH"), b.id},
	}
}

// untilFile is a job that says hello, ends with 7 once the file is there, and says goodbye.
func untilFile(token, file string) Job {
	return Job{
		Token: token, Experiment: 1, Attempt: 1, Dir: "/", Env: []string{"PATH=/usr/bin:/bin"}, Grace: time.Second,
		Argv: []string{"/bin/sh", "-c", `echo hello; while [ ! -e "$0" ]; do sleep 0.02; done; echo goodbye; exit 7`, file},
	}
}

func (b *bench) start(j Job) {
	b.t.Helper()
	if err := b.Prepare(b.t.Context(), j); err != nil {
		b.t.Fatal(err)
	}
	if b.withoutCgroup {
		b.takeCgroup(j.Token)
	}
	if err := b.Launch(b.t.Context(), j.Token); err != nil {
		b.t.Fatal(err)
	}
	if b.withoutCgroup && b.life(j.Token).Cgroup != "" {
		b.t.Fatal("it has a cgroup, the test is no test")
	}
}

// takeCgroup puts something in the place of the cgroup the supervisor would make. Where it is, another job tells.
func (b *bench) takeCgroup(token string) {
	b.t.Helper()
	probe := newBench(b.t)
	probe.start(probe.job("1-1", "sleep", "1000"))
	group := probe.life("1-1").Cgroup
	if group == "" {
		return
	}
	path := filepath.Join(filepath.Dir(group), "cvlab-"+token+"-"+supervisor.Mark(b.attempts[token].rec.Nonce))
	if err := os.Mkdir(path, 0o755); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { os.Remove(path) })
}

func (b *bench) wait(token string) Exit {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	e, err := b.Wait(ctx, token)
	if err != nil {
		b.t.Fatal(err)
	}
	return e
}

func (b *bench) log(token string) string {
	b.t.Helper()
	data, err := os.ReadFile(b.LogPath(token))
	if err != nil {
		b.t.Fatal(err)
	}
	return string(data)
}

func (b *bench) untilLog(token, want string) {
	b.t.Helper()
	until(b.t, fmt.Sprintf("%q in the log", want), func() bool {
		data, _ := os.ReadFile(b.LogPath(token))
		return bytes.Contains(data, []byte(want))
	})
}

func (b *bench) life(token string) supervisor.Life {
	b.t.Helper()
	life, err := supervisor.ReadLife(b.dir(token))
	if err != nil {
		b.t.Fatal(err)
	}
	return life
}

// living lists the processes of this bench's jobs.
func (b *bench) living() []int { return withEnv(b.id) }

func withEnv(entry string) []int {
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range dirs {
		if data, err := os.ReadFile(path); err == nil && bytes.Contains(data, []byte(entry)) {
			pid, _ := strconv.Atoi(strings.Split(path, "/")[2])
			pids = append(pids, pid)
		}
	}
	return pids
}

func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited %s in vain for %s", patience, what)
		}
	}
}

func kill(t testing.TB, pid int, sig unix.Signal) {
	t.Helper()
	if err := unix.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
}

// stranger is a process that has nothing to do with us and must never be touched.
func stranger(t *testing.T) supervisor.Proc {
	t.Helper()
	c := exec.Command("sleep", "1000")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Process.Signal(syscall.Signal(0)); err != nil {
			t.Errorf("the stranger was touched: %v", err)
		}
		c.Process.Kill()
		c.Wait()
	})
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	start, err := strconv.ParseUint(strings.Fields(string(data))[21], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return supervisor.Proc{PID: c.Process.Pid, Start: start}
}
