package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// endSupervisors ends the jobs that nodes below dir have left: their supervisors outlive nodes on purpose, and a job ends
// with its supervisor. They are told first and killed after 5 s.
func endSupervisors(dir string) error {
	began := time.Now()
	for {
		pids, err := supervisors(dir)
		if err != nil || len(pids) == 0 {
			return err
		}
		signal := unix.SIGTERM
		switch waited := time.Since(began); {
		case waited > 10*time.Second:
			return fmt.Errorf("end jobs: supervisors %v do not end", pids)
		case waited > 5*time.Second:
			signal = unix.SIGKILL
		}
		for _, pid := range pids {
			if err := signalSupervisor(pid, dir, signal); err != nil {
				return err
			}
		}
		<-time.After(50 * time.Millisecond)
	}
}

// supervisors finds the supervisors of attempts below dir by their command lines.
func supervisors(dir string) ([]int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, f := range files {
		pid, err := strconv.Atoi(strings.Split(f, "/")[2])
		if err == nil && supervises(pid, dir) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func supervises(pid int, dir string) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false // it has ended
	}
	args := bytes.Split(text, []byte{0})
	return len(args) > 2 && string(args[1]) == "supervise" && bytes.HasPrefix(args[2], []byte(dir+"/"))
}

// signalSupervisor looks again through a pidfd, so that it never signals a process that has got the same ID since.
func signalSupervisor(pid int, dir string, s syscall.Signal) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end job: %w", err)
	}
	defer unix.Close(fd)
	if !supervises(pid, dir) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, s, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end job: %w", err)
	}
	return nil
}

// usageOf is what a process has used and holds.
type usageOf struct {
	cpu time.Duration // user and system
	rss float64       // MB of 10^6 bytes
}

// ticks is the kernel's USER_HZ: 100 a second on every Linux that Go runs on.
const ticks = 100

// measureProcess reads /proc/PID/stat.
func measureProcess(pid int) (usageOf, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return usageOf{}, fmt.Errorf("measure process: %w", err)
	}
	return parseStat(string(text), os.Getpagesize())
}

// parseStat takes the CPU time and the resident set out of a stat line. The name of the program, in brackets, may hold
// anything, brackets too.
func parseStat(text string, pageSize int) (usageOf, error) {
	_, rest, found := cutLast(text, ")")
	f := strings.Fields(rest)
	if !found || len(f) < 22 {
		return usageOf{}, fmt.Errorf("measure process: %q is no stat line", text)
	}
	user, err1 := strconv.ParseUint(f[11], 10, 64) // fields 14, 15 and 24, counted from 1 and from the PID
	system, err2 := strconv.ParseUint(f[12], 10, 64)
	pages, err3 := strconv.ParseUint(f[21], 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return usageOf{}, fmt.Errorf("measure process: %w", err)
	}
	return usageOf{cpu: time.Duration(user+system) * time.Second / ticks, rss: float64(pages) * float64(pageSize) / 1e6}, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// until waits for a condition, looking every 10 ms.
func until(ctx context.Context, what string, holds func() (bool, error)) error {
	for {
		ok, err := holds()
		if err != nil {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
		if ok {
			return nil
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
	}
}

// pause waits, or gives the reason why ctx has ended.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// between gives a random duration, so that a measurement cannot fall into step with a timer of the thing measured.
func between(low, high time.Duration) time.Duration { return low + rand.N(high-low) }
