package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoConfirmation is returned when a supervisor ended before it said how the start went.
var ErrNoConfirmation = errors.New("supervisor ended without a word")

// Child is a supervisor this process has started.
type Child struct {
	process *os.Process
	pidfd   *os.File
	ready   *os.File
}

// Launch says how to start a supervisor.
type Launch struct {
	Argv  []string // program and first arguments; Dir comes last
	Dir   string
	Nonce string
	// Locked is Dir as Lock gave it. It is closed by Start, and the lock goes to the supervisor.
	Locked *os.File
	// LeaseStart is when the lease counts from, if the cluster has confirmed the attempt since its record was made.
	LeaseStart time.Duration
}

// Start begins a supervisor. It does not wait, see Confirm.
func Start(l Launch) (*Child, error) {
	argv, dir := l.Argv, l.Dir
	defer l.Locked.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("start supervisor: %w", err)
	}
	defer null.Close()
	stderr, err := os.OpenFile(filepath.Join(dir, OwnLogFile), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil { // a full disk must not keep a job from running
		stderr = null
	} else {
		defer stderr.Close()
	}
	ready, tell, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start supervisor: %w", err)
	}
	defer tell.Close()
	env := append(Environ(l.Nonce), leaseVar+"="+strconv.FormatInt(int64(l.LeaseStart), 10))
	p, err := os.StartProcess(argv[0], append(argv[:len(argv):len(argv)], dir), &os.ProcAttr{
		Dir: "/", Env: env, Files: []*os.File{null, null, stderr, tell, l.Locked},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start supervisor: %w", err), ready.Close())
	}
	c := &Child{process: p, ready: ready}
	// Our own child, not waited for yet: the number is certainly its.
	if fd, err := unix.PidfdOpen(p.Pid, unix.PIDFD_NONBLOCK); err == nil {
		c.pidfd = os.NewFile(uintptr(fd), "pidfd")
	}
	return c, nil
}

// Handle gives the pidfd, for Attach's uses. Nil if the kernel gave none.
func (c *Child) Handle() *os.File { return c.pidfd }

// Reap takes the ended supervisor's exit status from the kernel. It waits if it has not ended.
func (c *Child) Reap() error {
	_, err := c.process.Wait()
	if err != nil {
		return fmt.Errorf("reap supervisor: %w", err)
	}
	return nil
}

// Confirm waits until the supervisor has said how the start went. failed is the reason if the job could not be started,
// which is then in exit.json. An error means that nobody said anything, or that the supervisor refused.
func (c *Child) Confirm(ctx context.Context) (failed string, err error) {
	defer c.ready.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	line, err := readLine(c.ready)
	if ctx.Err() != nil {
		return "", fmt.Errorf("wait for supervisor: %w", ctx.Err())
	}
	if err != nil {
		return "", fmt.Errorf("wait for supervisor: %w", ErrNoConfirmation)
	}
	word, rest, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
	switch word {
	case "started":
		return "", nil
	case "failed":
		return rest, nil
	}
	return "", fmt.Errorf("start job: %w: %s", ErrRefused, rest)
}
