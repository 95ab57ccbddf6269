package nodetest_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/node"
	"github.com/deveronica/cvlab/node/nodetest"
)

func TestMain(m *testing.M) {
	if nodetest.Supervise(os.Args[1:]) {
		return
	}
	goleak.VerifyTestMain(m)
}

func TestExperimentSurvivesItsLeader(t *testing.T) {
	lab := nodetest.Start(t, 3)
	first, last := lab.Nodes[0], lab.Nodes[2]

	id := last.Run("echo on $CVLAB_NODE with $CUDA_VISIBLE_DEVICES")
	done := first.WaitStatus(id, fsm.Completed)
	if len(done.GPUs) != 1 || done.ExitCode == nil || *done.ExitCode != 0 {
		t.Errorf("ran on GPUs %v, exit code %v", done.GPUs, done.ExitCode)
	}
	for _, m := range lab.Nodes {
		if want, got := "on "+done.Node+" with "+done.GPUs[0]+"\n", m.Output(id); got != want {
			t.Errorf("%s says it printed %q, want %q", m.Name(), got, want)
		}
	}

	leader := lab.Leader()
	before := leader.ID()
	leader.Stop()
	if _, err := node.ReadRunning(leader.DataDir()); err == nil {
		t.Error("node.json is there although the node was ended in order")
	}
	other := lab.Other(leader)
	// At once, while the stopped node still counts as heard: what it is given now must not wait there for its return.
	id = other.Run("exit 3")
	failed := other.WaitStatus(id, fsm.Failed)
	if failed.Class != fsm.ClassUserError || failed.ExitCode == nil || *failed.ExitCode != 3 || failed.Node == leader.Name() {
		t.Errorf("under the next leader: %s, exit code %v, on %s", failed.Class, failed.ExitCode, failed.Node)
	}
	if lab.Leader().ID() == before {
		t.Error("the stopped node is still said to lead")
	}

	leader.Start()
	if leader.ID() != before {
		t.Errorf("came back as %s, was %s", leader.ID(), before)
	}
	leader.WaitStatus(id, fsm.Failed) // it has caught up
	if id := leader.Run("true"); leader.WaitStatus(id, fsm.Completed).Attempt != 1 {
		t.Error("not completed at the first attempt")
	}
}

func TestJobOutlivesItsNode(t *testing.T) {
	lab := nodetest.Start(t, 1)
	m := lab.Nodes[0]
	signs := t.TempDir()
	id := m.Run("echo began >> " + signs + "/began; until [ -e " + signs + "/end ]; do sleep 0.05; done; echo over")
	m.WaitStatus(id, fsm.Running)
	waitFile(t, filepath.Join(signs, "began"))
	m.Stop()
	if err := os.WriteFile(filepath.Join(signs, "end"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m.Start()
	if done := m.WaitStatus(id, fsm.Completed); done.Attempt != 1 {
		t.Errorf("%d attempts", done.Attempt)
	}
	if began, err := os.ReadFile(filepath.Join(signs, "began")); err != nil || strings.Count(string(began), "began") != 1 {
		t.Errorf("it began %q, %v", began, err)
	}
	if out := m.Output(id); out != "over\n" {
		t.Errorf("printed %q", out)
	}
}

func TestCancelReachesTheProcess(t *testing.T) {
	lab := nodetest.Start(t, 1)
	m := lab.Nodes[0]
	signs := t.TempDir()
	id := m.Run("trap 'echo stopped; exit 1' TERM; echo > " + signs + "/began; while :; do sleep 0.05; done")
	waitFile(t, filepath.Join(signs, "began"))
	ctx, cancel := context.WithTimeout(t.Context(), nodetest.Patience)
	defer cancel()
	if _, err := m.Client().Cancel(ctx, id, "enough"); err != nil {
		t.Fatal(err)
	}
	if e := m.WaitStatus(id, fsm.Cancelled); e.Message != "enough" || e.Class != fsm.ClassCancelled {
		t.Errorf("%s: %q", e.Class, e.Message)
	}
	if out := m.Output(id); !strings.HasSuffix(out, "stopped\n") { // its shell may speak before
		t.Errorf("printed %q", out)
	}
}

func waitFile(t *testing.T, path string) {
	t.Helper()
	deadline := time.After(nodetest.Patience)
	for {
		if _, err := os.Stat(path); err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("no %s", path)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
