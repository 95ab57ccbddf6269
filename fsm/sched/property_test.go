package sched_test

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/fsm/sched"
)

// drawWorld makes a small cluster with some history: attempts that run, that ended, and a queue of mixed needs.
func drawWorld(t *rapid.T) *world {
	w := newWorld(t)
	for i := range rapid.IntRange(1, 4).Draw(t, "nodes") {
		n := gpuNode(fmt.Sprintf("n%d", i), rapid.IntRange(0, 4).Draw(t, "gpus"), rapid.SampledFrom([]string{"RTX 4090", "A100"}).Draw(t, "model"), 24*gib)
		n.CPUSlots = rapid.IntRange(0, 2).Draw(t, "slots")
		n.Labels = map[string]string{"zone": rapid.SampledFrom([]string{"a", "b"}).Draw(t, "zone")}
		n.NoExec = rapid.IntRange(0, 9).Draw(t, "no exec") == 0
		w.join(n)
		w.drawHealth(t, n)
	}
	for range rapid.IntRange(1, 12).Draw(t, "submissions") {
		w.submit(drawSpec(t, w), rapid.SampledFrom([]int{1, 1, 3}).Draw(t, "times"))
		if rapid.Bool().Draw(t, "go on") {
			w.carryOut(t)
		}
	}
	if rapid.Bool().Draw(t, "drains") {
		w.do(&fsm.Drain{Node: "n0", On: true})
	}
	w.now = w.now.Add(time.Duration(rapid.IntRange(0, 1000).Draw(t, "later")) * time.Second)
	return w
}

func (w *world) drawHealth(t *rapid.T, n fsm.Node) {
	h := w.health[n.ID]
	h.Heard = time.Duration(rapid.SampledFrom([]int{0, 0, 1, 3, 4}).Draw(t, "heard")) * time.Second
	for i := range h.GPUs {
		g := &h.GPUs[i]
		g.State = rapid.SampledFrom([]string{"ok", "ok", "ok", "ok", "suspect", "bad"}).Draw(t, "state")
		g.MemoryUsed = uint64(rapid.SampledFrom([]int{0, 0, 1, 6, 20}).Draw(t, "used")) * gib
		g.Foreign = rapid.IntRange(0, 4).Draw(t, "foreign") == 0
	}
	w.health[n.ID] = h
}

func drawSpec(t *rapid.T, w *world) fsm.Spec {
	s := fsm.Spec{Priority: fsm.Priority(rapid.IntRange(-1, 2).Draw(t, "priority"))}
	s.Device.Kind = rapid.SampledFrom([]fsm.DeviceKind{fsm.DeviceGPU, fsm.DeviceGPU, fsm.DeviceAuto, fsm.DeviceCPU}).Draw(t, "kind")
	if s.Device.Kind == fsm.DeviceGPU {
		s.Device.Count = rapid.SampledFrom([]int{1, 1, 2, 3}).Draw(t, "count")
		s.Device.Memory = uint64(rapid.SampledFrom([]int{0, 0, 10, 23, 40}).Draw(t, "memory")) * gib
	}
	if rapid.IntRange(0, 3).Draw(t, "gang") == 0 {
		s.Device.Nodes = rapid.IntRange(1, 4).Draw(t, "machines")
	}
	if s.Device.Nodes < 2 && rapid.IntRange(0, 3).Draw(t, "named") == 0 {
		s.Device.Node = rapid.SampledFrom([]string{"n0", "n1", "nowhere"}).Draw(t, "node")
	}
	if rapid.IntRange(0, 3).Draw(t, "where") == 0 {
		s.Where = map[string]string{"zone": "a"}
	}
	if last := slices.Collect(w.state.View().Experiments()); len(last) > 0 && rapid.IntRange(0, 3).Draw(t, "after") == 0 {
		s.After = []uint64{last[rapid.IntRange(0, len(last)-1).Draw(t, "parent")].ID}
	}
	s.MaxParallel = rapid.IntRange(0, 2).Draw(t, "parallel")
	return s
}

// carryOut applies a plan and ends one attempt.
func (w *world) carryOut(t *rapid.T) {
	w.carry(sched.Make(w.input()).Assignments)
	open := slices.Collect(w.state.View().Open(""))
	if len(open) == 0 {
		return
	}
	a := open[rapid.IntRange(0, len(open)-1).Draw(t, "ends")]
	w.end(a.Experiment, rapid.SampledFrom([]fsm.Class{fsm.ClassCompleted, fsm.ClassUserError, fsm.ClassNodeLost}).Draw(t, "class"))
}

// Whatever the cluster looks like, the state machine accepts the whole plan: no card twice, nothing out of order.
func TestEveryPlanIsAccepted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		in := w.input()
		plan := sched.Make(in)
		for _, a := range plan.Assignments {
			for _, s := range slots(a) {
				if h := in.Health[s.Node]; h.Heard > 3*time.Second {
					t.Fatalf("%+v goes to a machine not heard for %s", a, h.Heard)
				}
			}
		}
		w.carry(plan.Assignments)
		for _, c := range plan.Cancels {
			w.do(&fsm.Cancel{Experiments: []uint64{c.Experiment}, Reason: c.Reason})
		}
		// Carried out, the plan is final: only a parent's cancel, made just now, may ask for more.
		if again := sched.Make(w.input()); len(again.Assignments) != 0 {
			t.Fatalf("the same moment gives %+v after %+v", again.Assignments, plan.Assignments)
		}
	})
}

// slots are all slots of an assignment, by rank.
func slots(a sched.Assignment) []fsm.Slot {
	return append([]fsm.Slot{{Node: a.Node, GPUs: a.GPUs}}, a.Others...)
}

// A gang gets as many machines as it asks for, all different and each with as many cards, or nothing.
func TestGangsGetAllOrNone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		view := w.state.View()
		for _, a := range sched.Make(w.input()).Assignments {
			d := view.Spec(view.Experiment(a.Experiment)).Device
			nodes := map[string]bool{}
			for _, s := range slots(a) {
				nodes[s.Node] = true
				if d.Kind == fsm.DeviceGPU && len(s.GPUs) != d.Count || len(s.GPUs) != len(a.GPUs) {
					t.Fatalf("%+v of %+v, want %+v", s, a, d)
				}
			}
			if len(nodes) != max(1, d.Nodes) || len(nodes) != len(slots(a)) {
				t.Fatalf("%+v, want %+v", a, d)
			}
		}
	})
}

// The same input gives the same plan and the same words.
func TestSameInputSamePlan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		one, two := decide(w, []uint64{1}), decide(w, []uint64{1})
		if diff := gocmp.Diff(one, two); diff != "" {
			t.Fatal(diff)
		}
	})
}

// Experiments that ask for the same thing start in the order of the queue.
func TestFirstComeFirstServed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		view := w.state.View()
		starts := started(sched.Make(w.input()))
		waiting := map[string]uint64{}
		for e := range view.ByStatus(fsm.Pending) {
			s := view.Spec(e)
			if len(s.After) > 0 || s.MaxParallel > 0 || e.NotBefore.After(w.now) || e.AvoidNode != "" {
				continue
			}
			need := fmt.Sprintf("%+v %v", s.Device, s.Where)
			if !starts[e.ID] {
				waiting[need] = e.ID
			} else if before, overtaken := waiting[need]; overtaken {
				t.Fatalf("experiment %d (%s) starts before %d, which asks for the same", e.ID, need, before)
			}
		}
	})
}

func started(p sched.Plan) map[uint64]bool {
	ids := map[uint64]bool{}
	for _, a := range p.Assignments {
		ids[a.Experiment] = true
	}
	return ids
}

// Nothing idle is left while an experiment waits that it fits, but for what the first large one keeps. The fit is worked
// out here a second time, from the rules alone.
func TestNoIdleCardIsWasted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		in := w.input()
		plan := sched.Make(in)
		taken := map[string]bool{}
		for _, a := range plan.Assignments {
			for _, s := range slots(a) {
				for _, g := range s.GPUs {
					taken[g] = true
				}
			}
		}
		starts := started(plan)
		large := false
		for e := range in.View.ByStatus(fsm.Pending) {
			s := in.View.Spec(e)
			if starts[e.ID] || s.Device.Kind != fsm.DeviceGPU {
				continue
			}
			if len(s.After) > 0 || s.MaxParallel > 0 || e.NotBefore.After(w.now) || e.AvoidNode != "" {
				large = large || isLarge(s) // it may keep cards, if it is ready
				continue
			}
			var able []string
			for n := range in.View.Nodes() {
				if free := idleFor(w, n, s, taken); len(free) >= s.Device.Count {
					able = append(able, n.Name)
				}
			}
			if len(able) >= max(1, s.Device.Nodes) && !large {
				t.Fatalf("experiment %d (%+v) waits while %v are free for it; plan %+v; %s", e.ID, s, able, plan, sched.Reason(in, e.ID))
			}
			large = large || isLarge(s)
		}
	})
}

// isLarge says whether an experiment that waits may keep what is free.
func isLarge(s *fsm.Spec) bool { return s.Device.Count > 1 || s.Device.Nodes > 1 }

func idleFor(w *world, n *fsm.Node, s *fsm.Spec, taken map[string]bool) []string {
	h := w.health[n.ID]
	named := s.Device.Node == "" || s.Device.Node == n.Name
	zone, asked := s.Where["zone"]
	if n.NoExec || n.Draining || h.Heard > 3*time.Second || !named || asked && n.Labels["zone"] != zone {
		return nil
	}
	var free []string
	for _, g := range h.GPUs {
		if g.State == "ok" && !g.Foreign && g.MemoryTotal-g.MemoryUsed >= s.Device.Memory && !taken[g.UUID] && w.state.View().Holder(g.UUID) == nil {
			free = append(free, g.UUID)
		}
	}
	return free
}

// An idle card is never left for a used one: a single-GPU experiment on a foreign card means no free one fitted, unless a large
// one that waits keeps it.
func TestForeignCardsLast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		in := w.input()
		plan := sched.Make(in)
		taken, keeping := map[string]bool{}, false
		for e := range in.View.ByStatus(fsm.Pending) {
			keeping = keeping || !started(plan)[e.ID] && isLarge(in.View.Spec(e))
		}
		for _, a := range plan.Assignments {
			spec := in.View.Spec(in.View.Experiment(a.Experiment))
			if len(a.GPUs) == 1 && len(a.Others) == 0 && isForeign(w, a) && spec.Device.Memory == 0 && spec.Where == nil && spec.Device.Node == "" &&
				in.View.Experiment(a.Experiment).AvoidNode == "" {
				for n := range in.View.Nodes() {
					if free := idleFor(w, n, spec, taken); len(free) > 0 && !keeping {
						t.Fatalf("%+v is given a foreign card while %v are free", a, free)
					}
				}
			}
			for _, s := range slots(a) {
				for _, g := range s.GPUs {
					taken[g] = true
				}
			}
		}
	})
}

func isForeign(w *world, a sched.Assignment) bool {
	for _, g := range w.health[a.Node].GPUs {
		if g.UUID == a.GPUs[0] {
			return g.Foreign
		}
	}
	return false
}

// Every waiting experiment has a sentence, alone or in a page, and the long explanation says the same.
func TestEveryoneHasAReason(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		in := w.input()
		var ids []uint64
		for e := range in.View.Experiments() {
			ids = append(ids, e.ID)
		}
		page := sched.Reasons(in, ids)
		for _, id := range ids {
			one, long := sched.Reason(in, id), sched.Why(in, id)
			if one == "" || one != page[id] || one != long.Sentence {
				t.Fatalf("experiment %d: %q, in the page %q, at length %q", id, one, page[id], long.Sentence)
			}
			for _, line := range long.Nodes {
				if line.Sentence == "" || line.Name == "" {
					t.Fatalf("experiment %d: line %+v", id, line)
				}
			}
			if !slices.IsSortedFunc(long.Nodes, func(a, b sched.NodeReason) int { return cmp.Compare(a.Name, b.Name) }) {
				t.Fatalf("experiment %d: machines out of order: %+v", id, long.Nodes)
			}
		}
	})
}
