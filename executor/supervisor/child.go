package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const defaultPath = "/usr/local/bin:/usr/bin:/bin"

// Exit codes of a job that could not be started, as shells give them.
const (
	codeNotFound      = 127
	codeNotExecutable = 126
)

// startError is why the job's program could not be started.
type startError struct {
	code int
	err  error
}

func (e *startError) Error() string { return e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

// death is what reap has to tell: the main process ended, or nothing of the job is left.
type death struct {
	status syscall.WaitStatus
	all    bool
}

// birth is the outcome of the start.
type birth struct {
	main Proc
	err  error
}

// reap starts the job and waits for it and for every process it leaves behind. It must run in a goroutine of its own:
// the job is killed when the *thread* that forked it ends (Pdeathsig), so the goroutine locks its thread, keeps it as long
// as anything of the job lives, and takes the thread with it when it returns.
//
// Because the supervisor is a subreaper, every descendant whose parent has ended becomes its child. So "no child is left"
// is the kernel's word that nothing of the job lives.
func reap(rec Record, group *cgroup, out *os.File, log *slog.Logger, births chan<- birth, deaths chan<- death) {
	runtime.LockOSThread()
	pid, err := start(rec, group, out, log)
	if err != nil {
		births <- birth{err: err}
		return
	}
	main := Proc{PID: pid}
	if s, err := readStat(pid); err == nil { // our own child, not yet waited for: it is there
		main = s.Proc
	}
	births <- birth{main: main}
	for {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(-1, &status, unix.WALL, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil: // ECHILD
			deaths <- death{all: true}
			return
		case got == pid:
			deaths <- death{status: status}
		}
	}
}

// start forks the job: its own session, output straight to the file, in its group if there is one.
func start(rec Record, group *cgroup, out *os.File, log *slog.Logger) (int, error) {
	path, err := locate(rec)
	if err != nil {
		return 0, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, &startError{codeNotExecutable, fmt.Errorf("open input: %w", err)}
	}
	defer null.Close()
	defer plainOOM(log)()
	attr := &syscall.ProcAttr{
		Dir:   rec.Dir,
		Env:   append(rec.Env, markVar+"="+Mark(rec.Nonce)),
		Files: []uintptr{null.Fd(), out.Fd(), out.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
	}
	if group != nil {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(group.dir.Fd())
		pid, err := syscall.ForkExec(path, rec.Argv, attr)
		if err == nil {
			return pid, nil
		}
		attr.Sys.UseCgroupFD = false // the group may be what the kernel minds: without it we know
		log.Info("start in the cgroup", "error", err)
	}
	pid, err := syscall.ForkExec(path, rec.Argv, attr)
	if err != nil {
		return 0, &startError{codeNotExecutable, fmt.Errorf("run %s: %w", path, err)}
	}
	return pid, nil
}

// locate finds the program the way a shell in the job's own directory and environment would.
func locate(rec Record) (string, error) {
	if info, err := os.Stat(rec.Dir); err != nil {
		return "", &startError{codeNotExecutable, fmt.Errorf("working directory: %w", err)}
	} else if !info.IsDir() {
		return "", &startError{codeNotExecutable, fmt.Errorf("working directory: %s is not a directory", rec.Dir)}
	}
	name := rec.Argv[0]
	if strings.Contains(name, "/") {
		at := name
		if !filepath.IsAbs(at) {
			at = filepath.Join(rec.Dir, at)
		}
		return name, executable(at)
	}
	search := defaultPath
	for _, e := range rec.Env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			search = v
		}
	}
	var denied error
	for _, dir := range filepath.SplitList(search) {
		path := filepath.Join(dir, name)
		if !filepath.IsAbs(path) {
			path = filepath.Join(rec.Dir, path)
		}
		if _, err := os.Stat(path); err != nil { // also a directory of root's in the PATH of somebody else
			continue
		}
		err := executable(path)
		if err == nil {
			return path, nil
		}
		if denied == nil {
			denied = err
		}
	}
	if denied != nil {
		return "", denied
	}
	return "", &startError{codeNotFound, fmt.Errorf("%q is not in the PATH %s", name, search)}
}

func executable(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &startError{codeNotFound, err}
	case err != nil:
		return &startError{codeNotExecutable, err}
	case info.IsDir():
		return &startError{codeNotExecutable, fmt.Errorf("%s is a directory", path)}
	}
	if err := unix.Access(path, unix.X_OK); err != nil {
		return &startError{codeNotExecutable, fmt.Errorf("%s is not executable: %w", path, err)}
	}
	return nil
}

// plainOOM gives the job an ordinary place in the kernel's order of whom to kill when memory runs out. The daemon is
// protected and its children inherit that; a job that inherited it would push the machine into killing everything else.
// The returned function gives the supervisor its own place back.
func plainOOM(log *slog.Logger) func() {
	const file = "/proc/self/oom_score_adj"
	old, err := os.ReadFile(file)
	if err != nil {
		return func() {}
	}
	if n, err := strconv.Atoi(strings.TrimSpace(string(old))); err != nil || n >= 0 {
		return func() {}
	}
	if err := os.WriteFile(file, []byte("0"), 0); err != nil {
		log.Warn("give the job an ordinary OOM score", "error", err)
	}
	return func() {
		if err := os.WriteFile(file, old, 0); err != nil {
			log.Info("take the OOM score back", "error", err)
		}
	}
}
