package fsm_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/deveronica/cvlab/fsm"
)

// draws makes commands that fit the state, and as many that come too late, from the wrong node, or about nothing.
type draws struct {
	*rapid.T
	view fsm.View
}

func (d draws) pick(name string, n int) int { return rapid.IntRange(0, n-1).Draw(d.T, name) }

func (d draws) node() string {
	return rapid.SampledFrom([]string{"a", "a", "b", "b", "c", "nowhere"}).Draw(d.T, "node")
}

func (d draws) boot() string { return rapid.SampledFrom([]string{"b1", "b1", "b2"}).Draw(d.T, "boot") }

// id is mostly a number that exists.
func (d draws) id() uint64 {
	n := 0
	for range d.view.Experiments() {
		n++
	}
	return uint64(d.pick("experiment", n+2)) + 1
}

func (d draws) ids() []uint64 {
	var ids []uint64
	for range d.pick("how many", 4) {
		ids = append(ids, d.id())
	}
	return ids
}

// attempt is any attempt there ever was, mostly with a node it is on.
func (d draws) attempt() (fsm.Token, string) {
	var all []*fsm.Attempt
	for e := range d.view.Experiments() {
		for a := range d.view.Attempts(e.ID) {
			all = append(all, a)
			if a.Open() {
				all = append(all, a, a)
			}
		}
	}
	if len(all) == 0 || d.pick("stray", 20) == 0 {
		return fsm.Token{Epoch: 1, Index: uint64(d.pick("index", 50))}, d.node()
	}
	a := all[d.pick("attempt", len(all))]
	if d.pick("impostor", 20) == 0 {
		return a.Token, d.node()
	}
	parts := a.Parts()
	return a.Token, parts[d.pick("rank", len(parts))].Node
}

func (d draws) command() fsm.Command {
	switch d.pick("kind", 22) {
	case 19, 20:
		return d.publish()
	case 21:
		return d.lateCommand()
	case 18:
		token, node := d.attempt()
		return &fsm.Withdraw{Token: token, Reason: "silent", Node: d.maybe(node)}
	case 0, 1:
		return d.submit()
	case 2, 4:
		return d.assign()
	case 3:
		return d.memberCommand()
	case 5, 6:
		return d.start()
	case 7, 8:
		return d.finish()
	case 9:
		return &fsm.Cancel{Experiments: d.ids()}
	case 10:
		return rapid.SampledFrom([]fsm.Command{&fsm.Hold{Experiments: d.ids()}, &fsm.Release{Experiments: d.ids()}}).Draw(d.T, "hold")
	case 11:
		return &fsm.Retry{Experiments: d.ids()}
	case 12:
		return &fsm.Annotate{Experiments: d.ids(), Priority: ptr(fsm.Priority(d.pick("priority", 4) - 1)), Tags: ptr([]string{"t"})}
	case 13:
		return &fsm.Reign{Node: d.node()}
	case 14, 15:
		token, node := d.attempt()
		reign := d.view.Reign()
		if d.pick("stale reign", 5) == 0 && reign > 0 {
			reign--
		}
		return &fsm.Expire{Token: token, Node: d.maybe(node), Reign: reign, Silent: fsm.Duration(time.Minute)}
	}
	return d.memberCommand()
}

// maybe leaves a node out now and then, as old leaders do.
func (d draws) maybe(node string) string {
	if d.pick("leave out", 4) == 0 {
		return ""
	}
	return node
}

// start mostly takes a gang's nodes in turn, or hardly one would ever be whole.
func (d draws) start() fsm.Command {
	c := &fsm.Start{BootID: d.boot()}
	c.Token, c.Node = d.attempt()
	a := d.view.Attempt(c.Token)
	if a != nil && d.pick("in turn", 4) > 0 {
		for _, p := range a.Parts() {
			if p.State() == fsm.AttemptAssigned {
				c.Node = p.Node
			}
		}
	}
	if a != nil && len(a.Gang) > 0 && a.Rank(c.Node) == 0 || d.pick("wrong port", 10) == 0 {
		c.Port = 29500
	}
	return c
}

func (d draws) publish() fsm.Command {
	token, node := d.attempt()
	return &fsm.Publish{Token: token, Node: node, Seq: uint64(d.pick("seq", 12)), Path: "checkpoints/a.pt", Files: 1, Digest: digestOf(fmt.Sprint(d.pick("content", 3)))}
}

// lateCommand is what follows facts that went back in time: another epoch, and attempts that only their nodes know of.
func (d draws) lateCommand() fsm.Command {
	_, _, now := d.view.Cluster()
	if d.pick("epoch", 3) == 0 {
		return &fsm.NewEpoch{Node: d.node()}
	}
	c := &fsm.Adopt{Token: fsm.Token{Epoch: now - uint64(d.pick("epochs ago", 2)), Index: 1000 + uint64(d.pick("index", 50))},
		Experiment: d.id(), Number: d.pick("number", 5), Node: d.node(), BootID: d.boot()}
	if d.pick("with GPU", 2) == 0 {
		c.GPUs = []string{fmt.Sprintf("%s-%d", c.Node, d.pick("gpu", 3))}
	}
	return c
}

func (d draws) submit() fsm.Command {
	s := sweep(1 + d.pick("times", 3))
	s.Retries = d.pick("retries", 3)
	if d.pick("cpu", 3) == 0 {
		s.Device = fsm.Device{Kind: fsm.DeviceCPU}
	}
	if d.pick("gang", 3) == 0 {
		s.Device.Nodes = 2 + d.pick("nodes", 2)
	}
	if d.pick("after", 4) == 0 {
		s.After = []uint64{d.id()}
	}
	return &fsm.Submit{Spec: s, Hold: d.pick("held", 6) == 0}
}

func (d draws) assign() fsm.Command {
	c := &fsm.Assign{Experiment: d.id(), Node: d.node(), Lease: fsm.Duration(d.pick("lease", 2)) * fsm.Duration(time.Minute)}
	c.GPUs = d.gpus(c.Node)
	e := d.view.Experiment(c.Experiment)
	if e == nil {
		return c
	}
	others := max(1, d.view.Spec(e).Device.Nodes) - 1
	if d.pick("another number", 10) == 0 {
		others = d.pick("others", 3)
	}
	names := rapid.Permutation([]string{"a", "b", "c"}).Draw(d.T, "nodes")
	for _, name := range names {
		if len(c.Others) < others && (name != c.Node || d.pick("twice", 10) == 0) {
			c.Others = append(c.Others, fsm.Slot{Node: name, GPUs: d.gpus(name)})
		}
	}
	return c
}

func (d draws) gpus(node string) []string {
	var gpus []string
	for range d.pick("gpus", 3) {
		from := node
		if d.pick("foreign GPU", 10) == 0 {
			from = d.node()
		}
		gpus = append(gpus, fmt.Sprintf("%s-%d", from, d.pick("gpu", 3)))
	}
	return gpus
}

func (d draws) finish() fsm.Command {
	token, node := d.attempt()
	class := rapid.SampledFrom([]fsm.Class{
		fsm.ClassCompleted, fsm.ClassUserError, fsm.ClassUserError, fsm.ClassNodeLost, fsm.ClassGPUFault, fsm.ClassCancelled,
		fsm.ClassTimeLimit, fsm.ClassStartFailed, fsm.ClassSupervisorLost, fsm.ClassPreempted, "no class",
	}).Draw(d.T, "class")
	return &fsm.Finish{Token: token, Node: node, Class: class, ExitCode: ptr(d.pick("exit", 3))}
}

func (d draws) memberCommand() fsm.Command {
	n := machine(d.node(), 3)
	n.BootID = d.boot()
	secret := fmt.Sprint("s", d.pick("secret", 3))
	list := []fsm.Command{
		&fsm.Admit{Node: n, Access: rapid.SampledFrom([]string{"j", "s1"}).Draw(d.T, "token")},
		&fsm.Update{Node: n},
		&fsm.Update{Node: machine(n.ID, 1)},
		&fsm.Drain{Node: n.ID, On: d.pick("on", 2) == 0, Now: d.pick("now", 3) == 0},
		&fsm.Remove{Node: n.ID, Off: d.pick("off", 3) == 0},
		&fsm.Grant{Access: fsm.Access{ID: secret, Kind: fsm.AccessUser, User: "ana", Role: fsm.Member, Secret: secretOf(fmt.Sprint("s", d.pick("other", 3)))}},
		&fsm.Grant{Access: fsm.Access{ID: "j", Kind: fsm.AccessJoin, Secret: secretOf("j"), Uses: 10}},
		&fsm.Revoke{ID: secret},
		&fsm.Found{Cluster: "c2", Node: n},
	}
	return list[d.pick("member", 9*7)%len(list)] // chance alone prefers small numbers
}

// history is one log with all who watch it: a plain replica, one that is restored from a snapshot now and then, and the witness.
type history struct {
	*rapid.T
	*lab
	witness    *witness
	restarting *fsm.State
}

func newHistory(t *rapid.T) *history {
	l := foundedLab(t)
	l.ok(&fsm.Admit{Node: machine("b", 3), Access: "j"})
	l.ok(&fsm.Admit{Node: machine("c", 3), Access: "j"})
	return &history{T: t, lab: l, witness: newWitness(t), restarting: restored(t, snapshot(t, l.state))}
}

func (h *history) step(e fsm.Entry) {
	before := h.state.View().Digest()
	r := h.apply(e)
	if r.Refused() && h.state.View().Digest() != before {
		h.Fatalf("%s was refused (%s) and left a trace", e.Command.Kind(), r.Message)
	}
	h.witness.saw(h.state.View(), e, r)
	if rapid.IntRange(0, 4).Draw(h.T, "restart") == 0 {
		h.restarting = restored(h.T, snapshot(h.T, h.restarting))
	}
	again, err := h.restarting.Apply(uint64(len(h.log)), h.log[len(h.log)-1])
	if err != nil {
		h.Fatal(err)
	}
	if diff := cmp.Diff(r, again); diff != "" {
		h.Fatalf("a restored replica answers differently:\n%s", diff)
	}
	h.compare(h.restarting)
}

// beginWithGang makes a gang of a, b and c, of which so many parts are ready: chance alone seldom gets that far.
func (h *history) beginWithGang(ready int) {
	s := sweep(1)
	s.Retries, s.Device.Nodes = 1, 3
	lease := fsm.Duration(rapid.IntRange(0, 1).Draw(h.T, "lease")) * fsm.Duration(time.Minute)
	h.step(fsm.Entry{By: "ana", Command: &fsm.Submit{Spec: s}})
	h.step(fsm.Entry{By: "ana", Command: &fsm.Assign{
		Experiment: 1, Node: "a", GPUs: []string{"a-0"}, Others: []fsm.Slot{{Node: "b", GPUs: []string{"b-0"}}, {Node: "c"}}, Lease: lease,
	}})
	token := h.experiment(1).Token
	for rank, node := range []string{"a", "b", "c"}[:ready] {
		c := &fsm.Start{Token: token, Node: node, BootID: "b1"}
		if rank == 0 {
			c.Port = 29500
		}
		h.step(fsm.Entry{By: node, Command: c})
	}
}

// Three replicas apply the same random log: one plainly, one that is restored from a snapshot now and then, and one from a
// snapshot of every step. After every step the invariants hold and all three agree, down to the bytes of a snapshot.
func TestRandomLogs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHistory(t)
		if rapid.Bool().Draw(t, "begins with a gang") {
			h.beginWithGang(rapid.SampledFrom([]int{3, 3, 2, 1, 0}).Draw(t, "ready"))
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			h.now = h.now.Add(time.Duration(rapid.IntRange(-5, 60).Draw(t, "seconds")) * time.Second)
			h.step(fsm.Entry{
				By:      rapid.SampledFrom([]string{"ana", "bob"}).Draw(t, "by"),
				Key:     rapid.SampledFrom([]string{"", "", "", "k1", "k2", "k3"}).Draw(t, "key"),
				Command: draws{t, h.state.View()}.command(),
			})
		}
		fresh := fsm.New()
		for i, data := range h.log {
			if _, err := fresh.Apply(uint64(i+1), data); err != nil {
				t.Fatal(err)
			}
		}
		h.compare(fresh)
	})
}

// compare demands that another replica, and one restored from a snapshot, are equal to this one (I19).
func (l *lab) compare(other *fsm.State) {
	l.t.Helper()
	if diff := same(l.state, other); diff != "" {
		l.t.Fatalf("two replicas of one log differ: %s", diff)
	}
	data := snapshot(l.t, l.state)
	if !bytes.Equal(data, snapshot(l.t, other)) {
		l.t.Fatalf("equal replicas write different snapshots")
	}
	third := restored(l.t, data)
	if diff := same(l.state, third); diff != "" {
		l.t.Fatalf("I19: the restored replica differs: %s", diff)
	}
	if !bytes.Equal(data, snapshot(l.t, third)) {
		l.t.Fatalf("I19: the restored replica writes another snapshot")
	}
}

// I20: whatever bytes the log holds, Apply returns, and what it does not understand leaves no trace.
func TestApplyAnyBytes(t *testing.T) {
	l := livedInLab(t)
	rapid.Check(t, func(t *rapid.T) {
		data := bytes.Clone(l.log[rapid.IntRange(0, len(l.log)-1).Draw(t, "entry")])
		for range rapid.IntRange(1, 4).Draw(t, "changes") {
			data[rapid.IntRange(0, len(data)-1).Draw(t, "where")] = rapid.Byte().Draw(t, "byte")
		}
		s := restored(t, snapshot(t, l.state))
		before := s.View().Digest()
		r, err := s.Apply(l.state.Index()+1, data)
		if (err != nil || r.Refused()) && s.View().Digest() != before {
			t.Fatalf("%s gave %+v, %v, and left a trace", data, r, err)
		}
	})
}
