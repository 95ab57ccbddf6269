package sched_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/fsm/sched"
)

// fataler is a *testing.T, *testing.B or *rapid.T.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// world is a cluster built through the same commands as a real one, with health beside it.
type world struct {
	t      fataler
	state  *fsm.State
	index  uint64
	now    time.Time
	health map[string]sched.Health
	led    time.Duration
}

func newWorld(t fataler) *world {
	return &world{t: t, state: fsm.New(), now: epoch, health: map[string]sched.Health{}}
}

func (w *world) input() sched.Input {
	return sched.Input{View: w.state.View(), Now: w.now, Health: w.health, Leading: w.led}
}

// try applies a command and gives its answer, also a refusal.
func (w *world) try(c fsm.Command) fsm.Result {
	w.t.Helper()
	data, err := fsm.Encode(fsm.Entry{By: "ana", At: w.now, Command: c})
	if err != nil {
		w.t.Fatalf("encode: %v", err)
	}
	w.index++
	r, err := w.state.Apply(w.index, data)
	if err != nil {
		w.t.Fatalf("apply: %v", err)
	}
	return r
}

func (w *world) do(c fsm.Command) fsm.Result {
	w.t.Helper()
	r := w.try(c)
	if r.Refused() {
		w.t.Fatalf("%s refused: %s", c.Kind(), r.Message)
	}
	return r
}

// join admits a node whose cards are all idle and whose beacon is fresh.
func (w *world) join(n fsm.Node) {
	w.t.Helper()
	if id, _, _ := w.state.View().Cluster(); id == "" {
		w.do(&fsm.Found{Cluster: "c", Name: "lab", Node: n})
		w.do(&fsm.Grant{Access: fsm.Access{ID: "j", Kind: fsm.AccessJoin, Secret: []byte("sixteen bytes at least"), Uses: 1000}})
	} else {
		w.do(&fsm.Admit{Node: n, Access: "j"})
	}
	h := sched.Health{Node: n.ID}
	for _, g := range n.GPUs {
		h.GPUs = append(h.GPUs, sched.GPUHealth{UUID: g.UUID, State: sched.StateOK, MemoryTotal: g.Memory})
	}
	w.health[n.ID] = h
}

// submit makes one batch of so many experiments.
func (w *world) submit(spec fsm.Spec, times int) []uint64 {
	w.t.Helper()
	if times > 1 {
		axis := fsm.Axis{Key: "seed"}
		for i := range times {
			axis.Values = append(axis.Values, json.RawMessage(strconv.Itoa(i)))
		}
		spec.Axes = []fsm.Axis{axis}
	}
	return w.do(&fsm.Submit{Spec: spec}).Experiments
}

// end starts, if need be, and finishes the newest attempt of an experiment.
func (w *world) end(id uint64, class fsm.Class) {
	w.t.Helper()
	a := w.current(id)
	w.start(a)
	for _, p := range a.Parts() {
		w.do(&fsm.Finish{Token: a.Token, Node: p.Node, Class: class})
	}
}

// current is the newest attempt of an experiment.
func (w *world) current(id uint64) *fsm.Attempt {
	return w.state.View().Attempt(w.state.View().Experiment(id).Token)
}

// start makes all parts ready that are not.
func (w *world) start(a *fsm.Attempt) {
	w.t.Helper()
	for rank, p := range a.Parts() {
		if p.State() != fsm.AttemptAssigned {
			continue
		}
		c := &fsm.Start{Token: a.Token, Node: p.Node, BootID: "boot"}
		if rank == 0 && len(a.Gang) > 0 {
			c.Port = 29500
		}
		w.do(c)
	}
}

// carry proposes assignments, as the leader does.
func (w *world) carry(assignments []sched.Assignment) {
	w.t.Helper()
	for _, a := range assignments {
		w.do(&fsm.Assign{Experiment: a.Experiment, Node: a.Node, GPUs: a.GPUs, Others: a.Others})
	}
}

// card changes how one card of a node feels.
func (w *world) card(uuid string, change func(*sched.GPUHealth)) {
	w.t.Helper()
	for _, h := range w.health {
		for i := range h.GPUs {
			if h.GPUs[i].UUID == uuid {
				change(&h.GPUs[i])
				return
			}
		}
	}
	w.t.Fatalf("there is no card %s", uuid)
}

func gpuNode(name string, gpus int, model string, memory uint64) fsm.Node {
	n := fsm.Node{ID: name, Name: name, CPUSlots: 2, Kit: true}
	for i := range gpus {
		n.GPUs = append(n.GPUs, fsm.GPU{UUID: fmt.Sprintf("%s-%d", name, i), Index: i, Name: model, Memory: memory})
	}
	return n
}

func gpus(n int) fsm.Spec { return fsm.Spec{Device: fsm.Device{Kind: fsm.DeviceGPU, Count: n}} }

// gang asks for so many GPUs of each of so many nodes; 0 GPUs are CPU slots.
func gang(nodes, perNode int) fsm.Spec {
	s := gpus(perNode)
	s.Device.Nodes = nodes
	if perNode == 0 {
		s.Device.Kind = fsm.DeviceCPU
	}
	return s
}

func prettyJSON(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(data, '\n')
}
