package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/ui/api"
)

// runs starts a node that is expected to end by itself, and gives what it said and its exit code.
func (m *machine) runs(env []string, args ...string) (said string, code int) {
	m.lab.t.Helper()
	ctx, cancel := context.WithTimeout(m.lab.t.Context(), 60*time.Second)
	defer cancel()
	args = append(args, "--data", m.dir, "--name", m.name, "--http", m.http, "--mesh", m.mesh, "--gossip", m.gossip)
	cmd := exec.CommandContext(ctx, testProgram.path, append(args, m.args...)...)
	cmd.Env = append(append(cleanEnv(), m.lab.env...), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		m.lab.t.Fatalf("cvlab %v: %v", args, err)
	}
	return out.String(), code
}

func refusedWith(t *testing.T, said string, code int, words ...string) {
	t.Helper()
	if code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	for _, w := range words {
		if !strings.Contains(said, w) {
			t.Errorf("%q is not in what it said:\n%s", w, said)
		}
	}
}

// copied is a copy of a machine's disk, on another machine.
func (m *machine) copied(name string) *machine {
	m.lab.t.Helper()
	c := m.lab.machine(name, m.args...)
	m.lab.must(exec.Command("cp", "-a", m.dir, c.dir).Run())
	return c
}

// One day of a lab whose disks are copied, damaged and lost.
func TestDamageStory(t *testing.T) {
	l := newLabWith(t, []string{"CVLAB_TEST_MACHINE=A"}, 3, "--sim-gpus", "1")
	m1, m2, m3 := l.machines[0], l.machines[1], l.machines[2]

	// The disk of m2 is copied to another machine, and to another directory of the same one, while m2 runs.
	c := m2.copied("copy")
	said, code := c.runs([]string{"CVLAB_TEST_MACHINE=B"}, "up")
	refusedWith(t, said, code, "copied from another machine", "cvlab reset-identity")
	said, code = c.runs(nil, "up")
	refusedWith(t, said, code, "another machine uses this node's key at "+m2.mesh)
	c.must("reset-identity")
	c.join(m1, l.joinToken(1, time.Hour))
	if s, err := m1.client().Cluster(t.Context()); err != nil || len(s.Nodes) != 4 || len(s.Problems) != 0 {
		t.Fatalf("%d nodes after the copy has joined as itself, problems %v, %v", len(s.Nodes), s.Problems, err)
	}
	c.must("remove", "copy")
	<-c.ended
	c.cmd = nil

	// A byte of m3's log flips while m3 is down and its job runs.
	id := l.submit(m1, api.AddRequest{Command: l.job("600", 0), Device: "m3"})
	l.eventually(30*time.Second, "the job to run", func() bool { return len(l.witnessed(id)) == 1 })
	m3.kill()
	flip(t, filepath.Join(m3.dir, "raft", "raft.db"))
	said, code = m3.runs(nil, "up")
	refusedWith(t, said, code, "raft.db is damaged", "Experiments that run here go on", "cvlab token create --join", "--as-new")
	if !jobLives(l.witnessed(id)[0]) {
		t.Fatal("the job did not survive the refusal")
	}
	said, code = m3.runs([]string{"CVLAB_JOIN_TOKEN=" + l.joinToken(1, time.Hour)}, "join", m1.mesh, "--as-new")
	refusedWith(t, said, code, "experiments run here", "--yes")
	if !jobLives(l.witnessed(id)[0]) {
		t.Fatal("the job was stopped without a yes")
	}
	file := filepath.Join(l.dir, "token")
	l.must(os.WriteFile(file, []byte(l.joinToken(1, time.Hour)), 0o600))
	m3.start("join", m1.mesh, "--token-file", file, "--as-new", "--yes")
	m3.waitLed()
	// Its former self is removed without anybody's help, and the job starts again, once.
	l.eventually(60*time.Second, "the job to run again", func() bool { return len(l.witnessed(id)) >= 2 })
	l.letGo()
	d := l.waitStatus(m1, id, fsm.Completed)
	if w := l.witnessed(id); len(w) != 3 || jobLives(w[0]) || d.Attempt != 2 {
		t.Errorf("the job's history is %v, attempt %d", w, d.Attempt)
	}
	if s, err := m1.client().Cluster(t.Context()); err != nil || len(s.Nodes) != 3 {
		t.Errorf("%d nodes, %v", len(s.Nodes), err)
	}
	if kept, err := filepath.Glob(filepath.Join(m3.dir, "damaged-*", "raft", "raft.db")); err != nil || len(kept) != 1 {
		t.Errorf("the damaged log was kept as %v, %v", kept, err)
	}

	// m1 and m2 are lost for good.
	l.waitVoters(3)
	_, errs, code := m3.cvlab("recover")
	refusedWith(t, errs, code, "another node")
	m3.kill()
	out, _, code := m3.cvlab("recover")
	refusedWith(t, out, code, "refused", "cvlab up")
	m1.kill()
	m2.kill()
	m3.expect(t, 0, say("recover"), "epoch 2", "may be lost", "does not answer")
	m3.expect(t, 0, say("recover --yes"), "recovered", "--as-new")
	m3.restart()
	if got := l.get(m3, id); got.Status != fsm.Completed {
		t.Errorf("after the recovery the job is %s", got.Status)
	}
	l.submit(m3, api.AddRequest{Command: []string{"true"}})
	// One of the lost comes back, and is told.
	said, code = m1.runs(nil, "up")
	refusedWith(t, said, code, "recovered without this node", "--as-new")
}

// flip flips bits in the middle of what a log holds.
func flip(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.LastIndex(data, []byte(`"kind"`))
	if at < 0 {
		t.Fatal("there is no entry in the log")
	}
	for i := range data { // every copy, also in pages that are free: which one counts is the library's business
		if bytes.HasPrefix(data[i:], []byte(`"kind"`)) {
			data[i+1] ^= 4
		}
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// jobLives says whether the process that has written a witness's line still runs.
func jobLives(line string) bool {
	pid := 0
	for _, digit := range line[strings.LastIndex(line, ":")+1:] {
		pid = pid*10 + int(digit-'0')
	}
	return syscall.Kill(pid, 0) == nil
}
