package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/deveronica/cvlab/ui/api"
)

// A machine's facts are put back to an older state by hand while a job runs there. The job is frozen, not run beside another
// one, and shown until a person ends it.
func TestRestoredFactsFreezeWhatTheyForgot(t *testing.T) {
	l := newLab(t, 1, "--cpu-slots", "2")
	m := l.machines[0]
	m.kill()
	raft, backup := filepath.Join(m.dir, "raft"), filepath.Join(l.dir, "backup")
	l.must(os.CopyFS(backup, os.DirFS(raft)))
	m.restart()
	id := l.submit(m, api.AddRequest{Command: l.beatingJob(), Device: "cpu"})
	pid := l.beating(id, 30*time.Second).pid
	token := l.get(m, id).Attempts[0].Token.String()
	m.kill()
	l.must(os.RemoveAll(raft))
	l.must(os.CopyFS(raft, os.DirFS(backup)))
	m.restart()
	l.frozen(id, 60*time.Second)
	if err := syscall.Kill(pid, 0); err != nil {
		t.Errorf("the forgotten process is gone: %v", err)
	}
	want := fmt.Sprintf("stray attempt %s of experiment %d on m1: frozen, since attempt %s is not from before epoch", token, id, token)
	l.eventually(20*time.Second, "the stray to be shown", func() bool { return strings.Contains(m.must("devices"), want) })
	m.kill()
	m.restart() // and still after the next start
	l.eventually(30*time.Second, "the stray to be shown again", func() bool { return strings.Contains(m.must("devices"), want) })
	if now := l.last(id).at; l.frozen(id, 10*time.Second).at != now {
		t.Error("it executed after a restart")
	}
	if out := m.must("kill-stray", "m1", token); !strings.Contains(out, "was killed") {
		t.Errorf("kill-stray: %s", out)
	}
	l.eventually(20*time.Second, "the process to be gone", func() bool { return syscall.Kill(pid, 0) != nil })
	l.eventually(20*time.Second, "the stray to be shown no more", func() bool { return !strings.Contains(m.must("devices"), "stray") })
}
