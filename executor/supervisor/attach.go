package supervisor

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Variables a supervisor is started with. The nonce lies in the environment, which only the same user can read, and
// never in the arguments, which everybody can.
const (
	nonceVar = "CVLAB_SUPERVISOR_NONCE"
	lockVar  = "CVLAB_SUPERVISOR_LOCK_FD"
	readyVar = "CVLAB_SUPERVISOR_READY_FD"
	markVar  = "CVLAB_PROCESS_MARK"
	leaseVar = "CVLAB_SUPERVISOR_LEASE_START_NS"
)

// Environ is the environment to start a supervisor with: descriptor 3 is the write end of a pipe on which it confirms,
// descriptor 4 the locked directory.
func Environ(nonce string) []string {
	env := []string{nonceVar + "=" + nonce, readyVar + "=3", lockVar + "=4", "GOMAXPROCS=2", "GOTRACEBACK=all"}
	if dir, ok := os.LookupEnv("GOCOVERDIR"); ok {
		env = append(env, "GOCOVERDIR="+dir)
	}
	return env
}

// Attach finds the living supervisor of a record and gives a handle on it (a pidfd, readable once it has ended; close it).
// A process counts only if number, start time and nonce agree, and it is looked at after it was pinned.
func Attach(l Life) (*os.File, error) {
	fd, err := pin(l.Supervisor)
	if err != nil {
		return nil, fmt.Errorf("attach to supervisor %d: %w", l.Supervisor.PID, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	if !hasEnv(l.Supervisor.PID, nonceVar+"="+l.Nonce) {
		f.Close()
		return nil, fmt.Errorf("attach to supervisor %d: another program has this number", l.Supervisor.PID)
	}
	return f, nil
}

// WaitProcess returns when the process behind the pidfd has ended, or with the context's error. It costs no thread.
func WaitProcess(ctx context.Context, pidfd *os.File) error {
	conn, err := pidfd.SyscallConn()
	if err != nil {
		return fmt.Errorf("wait for supervisor: %w", err)
	}
	_ = pidfd.SetReadDeadline(time.Time{}) // an earlier wait may have been called off
	stop := context.AfterFunc(ctx, func() { _ = pidfd.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err = conn.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		return err == nil && n > 0
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("wait for supervisor: %w", err)
	}
	return nil
}

// SignalProcess sends a signal to the process behind the pidfd.
func SignalProcess(pidfd *os.File, sig unix.Signal) error {
	conn, err := pidfd.SyscallConn()
	if err != nil {
		return fmt.Errorf("signal supervisor: %w", err)
	}
	var sent error
	if err := conn.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return fmt.Errorf("signal supervisor: %w", err)
	}
	return sent
}

// Sweep kills whatever a lost supervisor left behind, and returns when a look at the whole machine finds nothing more.
// The job's main process dies with its supervisor by itself; its descendants are found by their cgroup and by the mark in
// their environment. It must be called only for records of this boot whose lock is free. The cgroup may be "".
func Sweep(ctx context.Context, nonce, group string) error {
	mark := markVar + "=" + Mark(nonce)
	g := openCgroup(group, Mark(nonce))
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		found := 0
		if g != nil {
			found += len(g.procs())
			g.kill()
		}
		for _, s := range allProcs() {
			if !hasEnv(s.PID, mark) {
				continue
			}
			found++
			_ = signalProc(s.Proc, unix.SIGKILL) // gone already, or found again in the next look
		}
		if found == 0 {
			g.remove()
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("kill what a lost supervisor left: %d processes remain: %w", found, ctx.Err())
		case <-time.After(pause):
		}
	}
}
