package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/node"
	"github.com/deveronica/cvlab/ui/api"
)

// exited waits until a machine's node has ended by itself, and gives its exit code.
func (m *machine) exited() int {
	m.lab.t.Helper()
	select {
	case <-m.ended:
	case <-time.After(60 * time.Second):
		m.lab.t.Fatalf("%s goes on", m.name)
	}
	code := m.cmd.ProcessState.ExitCode()
	m.cmd = nil
	return code
}

// The machine that holds the queue of two leaves while it runs something: it waits for that, the other one takes the queue
// over, and the machine can found a cluster of its own.
func TestLeave(t *testing.T) {
	l := newLab(t, 2, "--cpu-slots", "1")
	goes, stays := l.machines[0], l.machines[1]
	first := l.submit(stays, api.AddRequest{Command: l.job("600", 0), Device: goes.name})
	l.eventually(30*time.Second, "it to run", func() bool { return len(l.witnessed(first)) == 1 })
	if _, errs, code := goes.cvlab("leave", "--server", "http://"+stays.http); code != exitUsage {
		t.Errorf("told to make another machine leave: exit code %d, %q", code, errs)
	}
	type outcome struct {
		out, errs string
		code      int
	}
	left := make(chan outcome, 1)
	l.waiters.Go(func() {
		out, errs, code := goes.cvlab("leave")
		left <- outcome{out, errs, code}
	})
	l.eventually(30*time.Second, "it to be drained", func() bool {
		list, err := stays.client().Devices(t.Context())
		l.must(err)
		for _, d := range list {
			if d.Name == goes.name {
				return d.Draining
			}
		}
		return false
	})
	select {
	case o := <-left:
		t.Fatalf("it left while an experiment ran on it: %+v", o)
	default:
	}
	l.letGo()
	o := <-left
	if o.code != 0 || !strings.Contains(o.out, "has left") || !strings.Contains(o.errs, "waiting for experiments "+word(first)) {
		t.Fatalf("leave: %+v", o)
	}
	if code := goes.exited(); code != 0 {
		t.Errorf("its node ended with %d, want 0", code)
	}
	l.waitStatus(stays, first, fsm.Completed)
	s, err := stays.client().Cluster(t.Context())
	l.must(err)
	if len(s.Nodes) != 1 || s.Voters != 1 || s.Leader == nil || s.Leader.Name != stays.name {
		t.Errorf("what is left: %+v", s)
	}
	l.waitStatus(stays, l.submit(stays, api.AddRequest{Command: []string{"true"}, Device: "cpu"}), fsm.Completed)
	if _, errs, code := stays.cvlab("leave"); code != exitFailed || !strings.Contains(errs, "only machine") {
		t.Errorf("the last machine: exit code %d, %q", code, errs)
	}
	kept, err := filepath.Glob(filepath.Join(goes.dir, "left-*", "runs", "1"))
	l.must(err)
	if len(kept) != 1 {
		t.Errorf("what experiment 1 wrote is not kept below %s", goes.dir)
	}
	goes.start("up")
	goes.waitLed()
	l.waitStatus(goes, l.submit(goes, api.AddRequest{Command: []string{"true"}, Device: "cpu"}), fsm.Completed)
	own, err := goes.client().Cluster(t.Context())
	l.must(err)
	if own.ID == s.ID || len(own.Nodes) != 1 {
		t.Errorf("started again, it is in %+v", own)
	}
}

// F59. A machine is removed while it runs something: its node ends that, and itself; started again it says why, and the
// others do not notice.
func TestARemovedNodeEndsWhatItRuns(t *testing.T) {
	l := newLab(t, 3, "--cpu-slots", "1")
	_, others := l.leader()
	gone, through := others[0], others[1]
	id := l.submit(through, api.AddRequest{Command: l.job("600", 0), Device: gone.name})
	l.eventually(30*time.Second, "it to run", func() bool { return len(l.witnessed(id)) == 1 })
	if _, errs, code := through.cvlab("remove", gone.name); code != exitFailed || !strings.Contains(errs, "may still run") {
		t.Errorf("removed while it runs something: exit code %d, %q", code, errs)
	}
	through.must("remove", gone.name, "--it-is-off")
	if code := gone.exited(); code != exitRemoved {
		t.Errorf("its node ended with %d, want %d", code, exitRemoved)
	}
	said := l.witnessed(id)[0]
	pid, err := strconv.Atoi(said[strings.LastIndexByte(said, ':')+1:])
	l.must(err)
	if err := syscall.Kill(pid, 0); err == nil {
		t.Errorf("the job (process %d) is still there after its node has ended", pid)
	}
	l.waitVotes(through, 1)
	before, err := through.client().Cluster(t.Context())
	l.must(err)
	gone.start("up")
	if code := gone.exited(); code != exitRemoved {
		t.Errorf("started again, its node ended with %d, want %d", code, exitRemoved)
	}
	log, err := os.ReadFile(gone.dir + ".log")
	l.must(err)
	if n := strings.Count(string(log), "cvlab: "); n != 2 || !strings.Contains(string(log), "cvlab join PEER --as-new") {
		t.Errorf("it said %d times why it ends, want twice and what to do", n)
	}
	after, err := through.client().Cluster(t.Context())
	l.must(err)
	if after.Term != before.Term || len(after.Nodes) != 2 {
		t.Errorf("the removed node's start changed something: %+v, was %+v", after, before)
	}
	if !node.Admitted(gone.dir) {
		t.Error("a removed node has forgotten its cluster by itself")
	}
}

func (l *lab) waitVotes(m *machine, n int) {
	l.t.Helper()
	l.eventually(30*time.Second, "the votes to settle", func() bool {
		s, err := m.client().Cluster(l.t.Context())
		return err == nil && s.Voters == n
	})
}
