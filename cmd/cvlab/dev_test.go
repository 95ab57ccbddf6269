package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// below gives the processes that name the directory in their command line, their environment or as where they work.
func below(dir string) []string {
	var found []string
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range processes {
		line, _ := os.ReadFile(p + "/cmdline")
		env, _ := os.ReadFile(p + "/environ")
		cwd, _ := os.Readlink(p + "/cwd")
		if bytes.Contains(line, []byte(dir)) || bytes.Contains(env, []byte("="+dir)) || strings.HasPrefix(cwd, dir) {
			found = append(found, p+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}

// nothingLeft waits until no process of the cluster is left, and wants its directory gone.
func nothingLeft(t *testing.T, tmp string) {
	t.Helper()
	l := &lab{t: t}
	l.eventually(10*time.Second, "all processes to be gone", func() bool { return len(below(tmp+"/cvlab-dev-")) == 0 })
	if left, _ := filepath.Glob(tmp + "/cvlab-dev-*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestDevOnce(t *testing.T) {
	tmp := t.TempDir()
	u := newPerson(t, "TMPDIR="+tmp)
	out, errs, code := u.cvlab("dev", "--once", "--nodes", "1", "--gpus", "3")
	if code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, out, errs)
	}
	at := strings.Index(out, "ACCURACY")
	if at < 0 || strings.Count(out[at:], "completed") != 6 || strings.Count(out[at:], "← best") != 1 || strings.Contains(out[at:], "  -  ") {
		t.Errorf("no table of six results with the best marked:\n%s", out)
	}
	nothingLeft(t, tmp)
}

// Ctrl-C in the middle leaves nothing, and is no success when --once has promised one.
func TestDevInterrupted(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		sig  syscall.Signal
		code int
	}{
		{"ctrl-c", say("dev --nodes 1 --gpus 2"), syscall.SIGINT, 0},
		{"once", say("dev --once --nodes 2 --gpus 1"), syscall.SIGINT, 130},
		{"hang-up", say("dev --once --nodes 1 --gpus 1"), syscall.SIGHUP, 129},
	} {
		t.Run(c.name, func(t *testing.T) {
			tmp := t.TempDir()
			cmd, cancel := newPerson(t, "TMPDIR="+tmp).command(c.args...)
			defer cancel()
			out, err := os.Create(filepath.Join(t.TempDir(), "out"))
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			cmd.Stdout, cmd.Stderr = out, out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			said := func() string { text, _ := os.ReadFile(out.Name()); return string(text) }
			(&lab{t: t}).eventually(30*time.Second, "an experiment to run", func() bool { return strings.Contains(said(), " running on ") })
			(&lab{t: t}).eventually(10*time.Second, "node and experiment to be seen as processes", func() bool { return len(below(tmp+"/cvlab-dev-")) >= 2 })
			if err := cmd.Process.Signal(c.sig); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != c.code || strings.Contains(said(), "cvlab:") {
				t.Errorf("exit code %d, want %d; said\n%s", code, c.code, said())
			}
			nothingLeft(t, tmp)
		})
	}
}
