package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// person runs cvlab as somebody at a terminal of their own: an empty home, and only the environment they set.
type person struct {
	t    *testing.T
	home string
	env  []string
}

func newPerson(t *testing.T, env ...string) *person {
	home := t.TempDir()
	return &person{t: t, home: home, env: append(env, "HOME="+home, "XDG_CONFIG_HOME="+filepath.Join(home, ".config"), "XDG_DATA_HOME="+filepath.Join(home, "data"))}
}

func (u *person) command(args ...string) (*exec.Cmd, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(u.t.Context(), 60*time.Second)
	cmd := exec.CommandContext(ctx, testProgram.path, args...)
	cmd.Env = append(cleanEnv(), u.env...)
	return cmd, cancel
}

// cvlab runs a command to its end.
func (u *person) cvlab(args ...string) (stdout, stderr string, code int) {
	u.t.Helper()
	cmd, cancel := u.command(args...)
	defer cancel()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		u.t.Fatalf("%v: %v", cmd.Args, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// onTerminal runs a command whose output is a terminal, and gives all that the terminal got.
func (u *person) onTerminal(args ...string) string {
	u.t.Helper()
	master, slave := pty(u.t)
	cmd, cancel := u.command(args...)
	defer cancel()
	cmd.Stdout, cmd.Stderr = slave, slave
	if err := cmd.Start(); err != nil {
		u.t.Fatal(err)
	}
	slave.Close()
	text, _ := io.ReadAll(master) // ends with EIO when the other side is closed
	_ = cmd.Wait()
	return strings.ReplaceAll(string(text), "\r\n", "\n")
}

// pty opens a terminal.
func pty(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetUint32(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(int(n)), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}
