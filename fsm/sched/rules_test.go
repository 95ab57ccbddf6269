package sched_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/fsm/sched"
)

// The clock of a leader that was set back must not turn a back-off of ten seconds into a year.
func TestNowNeverBehindTheFacts(t *testing.T) {
	w := newWorld(t)
	w.join(gpuNode("gpu1", 1, "RTX", 24*gib))
	w.submit(gpus(1), 1)
	w.do(&fsm.Assign{Experiment: 1, Node: "gpu1", GPUs: []string{"gpu1-0"}})
	w.end(1, fsm.ClassNodeLost)
	in := w.input()
	in.Now = epoch.AddDate(-1, 0, 0)
	if got := sched.Make(in).Wake; got != 10*time.Second {
		t.Errorf("wakes in %s, want 10s", got)
	}
}

// A large experiment waits while small ones come for ever: they must not take every card that becomes free.
func TestLargeOneDoesNotStarve(t *testing.T) {
	w := newWorld(t)
	w.join(gpuNode("gpu1", 4, "RTX", 24*gib))
	w.join(gpuNode("gpu2", 4, "RTX", 24*gib))
	w.submit(gpus(1), 8)
	run := func() {
		for _, a := range sched.Make(w.input()).Assignments {
			w.do(&fsm.Assign{Experiment: a.Experiment, Node: a.Node, GPUs: a.GPUs})
		}
	}
	run()
	large := w.submit(gpus(4), 1)[0]
	w.submit(gpus(1), 200)
	for round := range 60 {
		if w.state.View().Experiment(large).Status == fsm.Running {
			if round > 16 {
				t.Errorf("it took %d ends of others", round)
			}
			return
		}
		// The attempt that has run longest ends, one at a time, as the two machines take turns.
		var oldest *fsm.Attempt
		for a := range w.state.View().Open("") {
			if oldest == nil || a.Token.Less(oldest.Token) {
				oldest = a
			}
		}
		w.end(oldest.Experiment, fsm.ClassCompleted)
		run()
	}
	t.Error("four cards were never kept together")
}

func TestReasonOfUnknown(t *testing.T) {
	w := newWorld(t)
	w.join(gpuNode("gpu1", 1, "RTX", 24*gib))
	if got := sched.Reason(w.input(), 7); got != "experiment 7 does not exist" {
		t.Error(got)
	}
	want := sched.Explanation{Experiment: 7, Sentence: "experiment 7 does not exist"}
	if diff := cmp.Diff(want, sched.Why(w.input(), 7)); diff != "" {
		t.Error(diff)
	}
}

// Before the cluster is founded, and with no machine at all, there is still an answer.
func TestEmptyCluster(t *testing.T) {
	w := newWorld(t)
	if p := sched.Make(w.input()); len(p.Assignments)+len(p.Cancels) != 0 || p.Wake != 0 {
		t.Errorf("plans %+v", p)
	}
	w.join(gpuNode("gpu1", 1, "RTX", 24*gib))
	w.do(&fsm.Remove{Node: "gpu1"})
	w.submit(gpus(1), 1)
	if got := sched.Reason(w.input(), 1); !strings.Contains(got, "no machine") {
		t.Error(got)
	}
}

func TestLimits(t *testing.T) {
	w := newWorld(t)
	w.join(gpuNode("gpu1", 1, "RTX", 24*gib))
	w.submit(gpus(1), 1)
	h := w.health["gpu1"]
	h.Heard = 4 * time.Second
	w.health["gpu1"] = h
	in := w.input()
	if p := sched.Make(in); len(p.Assignments) != 0 {
		t.Errorf("a machine not heard for 4s gets %+v", p.Assignments)
	}
	in.Limits.MaxHeard = 5 * time.Second
	if p := sched.Make(in); len(p.Assignments) != 1 {
		t.Error("with a limit of 5s it gets nothing")
	}
}

// crowded is a cluster of 32 cards, all held, and so many waiting experiments in batches of the given size.
func crowded(b fataler, waiting, batch int) *world {
	w := newWorld(b)
	for _, name := range []string{"gpu1", "gpu2", "gpu3", "gpu4", "gpu5", "gpu6", "gpu7", "gpu8"} {
		w.join(gpuNode(name, 4, "RTX 4090", 24*gib))
	}
	w.submit(gpus(1), 32)
	for _, a := range sched.Make(w.input()).Assignments {
		w.do(&fsm.Assign{Experiment: a.Experiment, Node: a.Node, GPUs: a.GPUs})
	}
	for range waiting / batch {
		w.submit(gpus(1), batch)
	}
	return w
}

func BenchmarkMake(b *testing.B) {
	for _, c := range []struct {
		name  string
		batch int
		free  bool
	}{
		{"full, one batch", 10_000, false},
		{"full, 10000 batches", 1, false},
		{"one card free, one batch", 10_000, true},
		{"one card free, 10000 batches", 1, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			w := crowded(b, 10_000, c.batch)
			if c.free {
				w.end(5, fsm.ClassCompleted)
			}
			in := w.input()
			for b.Loop() {
				sched.Make(in)
			}
		})
	}
}

func BenchmarkReasons(b *testing.B) {
	w := crowded(b, 10_000, 100)
	var ids []uint64
	for i := range uint64(1000) {
		ids = append(ids, 5000+i)
	}
	in := w.input()
	for b.Loop() {
		sched.Reasons(in, ids)
	}
}
