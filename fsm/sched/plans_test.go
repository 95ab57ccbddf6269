package sched_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/fsm/sched"
)

var update = flag.Bool("update", false, "write the golden files anew")

// scenario is testdata/plans/NAME/input.json: a cluster, its history and its health, for people to read.
type scenario struct {
	Story string               `json:"story"`
	Nodes []scenarioNode       `json:"nodes"`
	Steps []step               `json:"steps"`
	Cards map[string]cardState `json:"cards"` // by UUID, which is NODE-INDEX
	Now   string               `json:"now"`   // since the beginning; "" is the beginning
	Led   string               `json:"led"`   // how long the leader leads; "" is not at all
	Why   []uint64             `json:"why"`   // experiments to explain at length
}

type scenarioNode struct {
	Name     string            `json:"name"`
	ID       string            `json:"id"` // the name if not given
	GPUs     int               `json:"gpus"`
	Model    string            `json:"model"`
	GiB      uint64            `json:"gib"`
	CPUSlots int               `json:"cpu_slots"`
	CPU      float64           `json:"cpu"`
	Labels   map[string]string `json:"labels"`
	NoExec   bool              `json:"no_exec"`
	NoKit    bool              `json:"no_kit"`
	Draining bool              `json:"draining"`
	Removed  bool              `json:"removed"`
	Heard    string            `json:"heard"` // "" is just now; "never"
}

type cardState struct {
	State   string `json:"state"`
	UsedGiB uint64 `json:"used_gib"`
	Use     int    `json:"use"`
	Foreign bool   `json:"foreign"`
	User    string `json:"user"`
}

// step is one thing that happened; exactly one of its fields is set, besides Times, Class, Of and On.
type step struct {
	Submit   *fsm.Spec     `json:"submit"`
	Times    int           `json:"times"`
	Assign   *fsm.Assign   `json:"assign"`
	Start    uint64        `json:"start"`
	Ready    *fsm.Start    `json:"ready"` // a part of a gang; its token is its experiment's
	Of       uint64        `json:"of"`
	Finish   uint64        `json:"finish"` // the part on one node
	On       string        `json:"on"`
	End      uint64        `json:"end"`
	Class    fsm.Class     `json:"class"`
	Cancel   []uint64      `json:"cancel"`
	Hold     []uint64      `json:"hold"`
	Annotate *fsm.Annotate `json:"annotate"`
	Wait     string        `json:"wait"`
}

const gib = 1 << 30

func (s scenario) build(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	for _, n := range s.Nodes {
		s.join(t, w, n)
	}
	for _, st := range s.Steps {
		st.apply(t, w)
	}
	for _, n := range s.Nodes {
		if n.Draining {
			w.do(&fsm.Drain{Node: n.id(), On: true})
		}
		if n.Removed {
			w.do(&fsm.Remove{Node: n.id(), Off: true})
		}
	}
	for _, uuid := range slices.Sorted(maps.Keys(s.Cards)) {
		c := s.Cards[uuid]
		w.card(uuid, func(h *sched.GPUHealth) {
			if c.State != "" {
				h.State = c.State
			}
			h.MemoryUsed, h.Utilization, h.Foreign, h.ForeignUser = c.UsedGiB*gib, c.Use, c.Foreign, c.User
		})
	}
	if s.Now != "" {
		w.now = epoch.Add(duration(t, s.Now))
	}
	if s.Led != "" {
		w.led = duration(t, s.Led)
	}
	return w
}

func (n scenarioNode) id() string {
	if n.ID != "" {
		return n.ID
	}
	return n.Name
}

func (s scenario) join(t *testing.T, w *world, n scenarioNode) {
	t.Helper()
	node := gpuNode(n.Name, n.GPUs, n.Model, n.GiB*gib)
	node.ID, node.CPUSlots, node.Labels, node.NoExec = n.id(), n.CPUSlots, n.Labels, n.NoExec
	node.Kit = !n.NoKit
	w.join(node)
	h := w.health[node.ID]
	h.CPU = n.CPU
	switch n.Heard {
	case "":
	case "never":
		delete(w.health, node.ID)
		return
	default:
		h.Heard = duration(t, n.Heard)
	}
	w.health[node.ID] = h
}

func (st step) apply(t *testing.T, w *world) {
	t.Helper()
	switch {
	case st.Submit != nil:
		w.submit(*st.Submit, st.Times)
	case st.Assign != nil:
		w.do(st.Assign)
	case st.Start != 0:
		w.start(w.current(st.Start))
	case st.Ready != nil:
		st.Ready.Token = w.current(st.Of).Token
		w.do(st.Ready)
	case st.Finish != 0:
		w.do(&fsm.Finish{Token: w.current(st.Finish).Token, Node: st.On, Class: cmp.Or(st.Class, fsm.ClassCompleted)})
	case st.End != 0:
		w.end(st.End, st.Class)
	case st.Cancel != nil:
		w.do(&fsm.Cancel{Experiments: st.Cancel})
	case st.Hold != nil:
		w.do(&fsm.Hold{Experiments: st.Hold})
	case st.Annotate != nil:
		w.do(st.Annotate)
	case st.Wait != "":
		w.now = w.now.Add(duration(t, st.Wait))
	default:
		t.Fatalf("a step that does nothing: %+v", st)
	}
}

func duration(t *testing.T, s string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// decision is plan.golden.json: what was decided, and what is said to those that wait.
type decision struct {
	Plan    sched.Plan          `json:"plan"`
	Wake    string              `json:"wake,omitempty"` // the plan's, for people
	Reasons map[uint64]string   `json:"reasons,omitempty"`
	Why     []sched.Explanation `json:"why,omitempty"`
}

func decide(w *world, why []uint64) decision {
	in := w.input()
	d := decision{Plan: sched.Make(in)}
	if d.Plan.Wake > 0 {
		d.Wake = d.Plan.Wake.String()
	}
	var ids []uint64
	for e := range in.View.Experiments() {
		if !e.Status.Ended() {
			ids = append(ids, e.ID)
		}
	}
	d.Reasons = sched.Reasons(in, ids)
	for _, id := range why {
		d.Why = append(d.Why, sched.Why(in, id))
	}
	return d
}

// Each directory of testdata/plans is one rule of the planner as data. After a wanted change: go test ./fsm/sched -update
func TestPlans(t *testing.T) {
	inputs, err := filepath.Glob("testdata/plans/*/input.json")
	if err != nil || len(inputs) < 14 {
		t.Fatalf("found %d scenarios, %v", len(inputs), err)
	}
	for _, path := range inputs {
		dir := filepath.Dir(path)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var s scenario
			d := json.NewDecoder(bytes.NewReader(data))
			d.DisallowUnknownFields()
			if err := d.Decode(&s); err != nil {
				t.Fatal(err)
			}
			w := s.build(t)
			got := prettyJSON(t, decide(w, s.Why))
			golden := filepath.Join(dir, "plan.golden.json")
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("%s\n(-want +got)\n%s", s.Story, diff)
			}
		})
	}
}
