package node

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deveronica/cvlab/cluster"
	"github.com/deveronica/cvlab/executor"
	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/node/worker"
	"github.com/deveronica/cvlab/ui/api"
)

// kept is a worker that has some frozen and some stray attempts.
type kept struct {
	frozen []worker.Frozen
	strays []worker.Stray
	killed []string
}

func (k *kept) Frozen() []worker.Frozen { return k.frozen }
func (k *kept) Strays() []worker.Stray  { return k.strays }

func (k *kept) KillStray(_ context.Context, token fsm.Token, by string) error {
	for _, s := range k.strays {
		if s.Token == token {
			k.killed = append(k.killed, token.String()+" by "+by)
			return nil
		}
	}
	return worker.ErrNoStray
}

// What a machine says of its attempts comes out of its beacon as people read it, and what has ended since does not.
func TestBearingIsShown(t *testing.T) {
	f := newFacts(t)
	one, two := f.assign(nodeA), f.assign(nodeA)
	f.start(one)
	f.start(two)
	f.must(&fsm.Finish{Token: two.Token, Node: nodeA, Class: fsm.ClassCompleted})
	since := time.Now().Add(-time.Minute).Round(time.Second)
	k := &kept{
		frozen: []worker.Frozen{
			{Token: one.Token, Experiment: one.Experiment, Since: since, Lease: 5 * time.Minute},
			{Token: two.Token, Experiment: two.Experiment, Since: since, Lease: 5 * time.Minute},
		},
		strays: []worker.Stray{{Token: fsm.Token{Epoch: 1, Index: 999}, Experiment: 7, Reason: "experiment 7 runs elsewhere"}},
	}
	b := newBeacon(busyMachine(1), none)
	b.bearing = newBearing(k, []string{"look here"})
	payload, err := b.encode()
	if err != nil {
		t.Fatal(err)
	}
	d := device(f.View(), f.View().Node(nodeA), cluster.Health{Node: nodeA, Payload: payload}, true)
	if diff := cmp.Diff([]api.Frozen{{Token: one.Token, Experiment: 1, Since: since.UTC(), Lease: 300}}, d.Frozen); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]api.Stray{{Token: fsm.Token{Epoch: 1, Index: 999}, Experiment: 7, Reason: "experiment 7 runs elsewhere"}}, d.Strays); diff != "" {
		t.Error(diff)
	}
	if !cmp.Equal(d.Warnings, []string{"look here"}) {
		t.Errorf("warnings %v", d.Warnings)
	}
}

// A machine that is cut off cannot say that it froze; its lease says it.
func TestSilentNodesAttemptsArePresumedFrozen(t *testing.T) {
	f := newFacts(t)
	s := fsm.Spec{Project: "p", Command: []string{"train"}, Device: fsm.Device{Kind: fsm.DeviceCPU}}
	id := f.must(&fsm.Submit{Spec: s}).Experiments[0]
	token := f.must(&fsm.Assign{Experiment: id, Node: nodeA, Lease: fsm.Duration(5 * time.Minute)}).Token
	f.start(f.View().Attempt(token))
	f.start(f.assign(nodeA)) // this one holds
	for heard, want := range map[time.Duration]int{4 * time.Minute: 0, 7 * time.Minute: 1} {
		d := device(f.View(), f.View().Node(nodeA), cluster.Health{Node: nodeA, Payload: []byte("{}"), Heard: heard}, true)
		if len(d.Frozen) != want {
			t.Fatalf("silent for %s: %+v", heard, d.Frozen)
		}
		if want == 1 {
			x := d.Frozen[0]
			if off := time.Until(x.Since.Add(2 * time.Minute)); !x.Presumed || x.Token != token || off > 5*time.Second || off < -5*time.Second {
				t.Errorf("silent for %s: %+v", heard, x)
			}
		}
	}
}

func TestAsides(t *testing.T) {
	q := func(token string) executor.Found { return executor.Found{Token: token, State: executor.Quarantined} }
	alive := q("1-9")
	alive.Alive = true
	for _, c := range []struct {
		found []executor.Found
		want  string
	}{
		{[]executor.Found{{Token: "1-1", State: executor.Running}, alive}, ""},
		{[]executor.Found{q("junk")}, "an attempt directory was put aside: junk; it lies in /q"},
		{[]executor.Found{q("a"), q("b")}, "2 attempt directories were put aside: a, b; they lie in /q"},
		{[]executor.Found{q("a"), q("b"), q("c"), q("d")}, "4 attempt directories were put aside: a, b, c and others; they lie in /q"},
	} {
		if got := strings.Join(asides(c.found, "/q"), "\n"); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestStrayIsKilledOnItsNode(t *testing.T) {
	onMesh(t, func(t *testing.T, m *meshLab) {
		token := fsm.Token{Epoch: 1, Index: 42}
		onA, onB := newLights(newFacts(t), nodeA, nodeA), newLights(newFacts(t), nodeB, nodeA)
		k := &kept{strays: []worker.Stray{{Token: token}}}
		m.keepers = map[string]keeper{nodeA: k}
		m.serve(onA, nil)
		asked := &machines{seat: onB, peers: m.peer(nodeB), logger: quiet()}
		for range 2 { // a peer, then the node itself
			if err := asked.KillStray(t.Context(), nodeA, fsm.Token{Epoch: 1, Index: 43}, "ana"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("another token: %v", err)
			}
			if err := asked.KillStray(t.Context(), nodeA, token, "ana"); err != nil {
				t.Error(err)
			}
			asked = &machines{seat: onA, peers: m.peer(nodeA), keeper: k, logger: quiet()}
		}
		if !cmp.Equal(k.killed, []string{"1-42 by ana", "1-42 by ana"}) {
			t.Errorf("killed %v", k.killed)
		}
		if err := asked.KillStray(t.Context(), nodeC, token, "ana"); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a node that does not answer: %v", err)
		}
	})
}
