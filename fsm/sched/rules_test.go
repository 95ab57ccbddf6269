package sched_test

import (
	"strconv"
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
	w.carry(sched.Make(w.input()).Assignments)
	large := w.submit(gpus(4), 1)[0]
	w.submit(gpus(1), 200)
	if ends := w.endsUntil(large, 60); ends > 16 {
		t.Errorf("it took %d ends of others", ends)
	}
}

// endsUntil ends attempts, the one that has run longest first, until an experiment runs; most if it never does.
func (w *world) endsUntil(id uint64, most int) int {
	for ends := range most {
		if w.state.View().Experiment(id).Status == fsm.Running {
			return ends
		}
		var oldest *fsm.Attempt
		for a := range w.state.View().Open("") {
			if oldest == nil || a.Token.Less(oldest.Token) {
				oldest = a
			}
		}
		w.end(oldest.Experiment, fsm.ClassCompleted)
		w.carry(sched.Make(w.input()).Assignments)
	}
	return most
}

// A gang waits while small ones come for ever, on cards or in CPU slots: what it needs on each machine is kept together.
func TestGangDoesNotStarve(t *testing.T) {
	for _, c := range []struct {
		name         string
		gang, others fsm.Spec
		most         int
	}{
		{"two of four cards on each of three machines", gang(3, 2), gpus(1), 32},
		{"one card of each of four machines", gang(4, 1), gpus(1), 32},
		{"a CPU slot of each of four machines", gang(4, 0), fsm.Spec{Device: fsm.Device{Kind: fsm.DeviceCPU}}, 16},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			for i := range 4 {
				w.join(gpuNode("gpu"+strconv.Itoa(i), 4, "RTX", 24*gib))
			}
			w.submit(c.others, 16)
			w.carry(sched.Make(w.input()).Assignments)
			id := w.submit(c.gang, 1)[0]
			w.submit(c.others, 300)
			if ends := w.endsUntil(id, 200); ends > c.most {
				t.Errorf("it took %d ends of others", ends)
			}
		})
	}
}

// A gang that one machine keeps waiting leaves the rest of the others' cards to small experiments.
func TestGangKeepsNoMoreThanItNeeds(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"gpu1", "gpu2"} {
		w.join(gpuNode(name, 4, "RTX", 24*gib))
	}
	w.submit(gpus(4), 1)
	w.do(&fsm.Assign{Experiment: 1, Node: "gpu1", GPUs: []string{"gpu1-0", "gpu1-1", "gpu1-2", "gpu1-3"}})
	w.submit(gang(2, 1), 1)
	w.submit(gpus(1), 4)
	if p := sched.Make(w.input()); len(p.Assignments) != 3 {
		t.Errorf("of 4 small ones %d start on the 4 cards of which a gang needs one: %+v", len(p.Assignments), p.Assignments)
	}
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
	w.carry(sched.Make(w.input()).Assignments)
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
