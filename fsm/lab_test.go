package fsm_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

// fataler is a *testing.T, *testing.B, *testing.F or *rapid.T.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// lab is one replica with the log that made it.
type lab struct {
	t     fataler
	state *fsm.State
	log   [][]byte // entry i has index i+1
	now   time.Time
}

func newLab(t fataler) *lab { return &lab{t: t, state: fsm.New(), now: epoch} }

// foundedLab has a cluster of one node "a" with two GPUs and two CPU slots, and a join token "j" for ten.
func foundedLab(t fataler) *lab {
	l := newLab(t)
	l.ok(&fsm.Found{Cluster: "c", Name: "lab", Node: machine("a", 2)})
	l.ok(&fsm.Grant{Access: fsm.Access{ID: "j", Kind: fsm.AccessJoin, Secret: secretOf("j"), Uses: 10}})
	return l
}

func secretOf(name string) []byte { return fmt.Appendf(nil, "secret of %-20s", name) }

// digestOf is a SHA-256 in hex of a word.
func digestOf(word string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(word))) }

func machine(name string, gpus int) fsm.Node {
	n := fsm.Node{ID: name, Name: name, CPUSlots: 2, Mesh: name + ":1"}
	for i := range gpus {
		n.GPUs = append(n.GPUs, fsm.GPU{UUID: fmt.Sprintf("%s-%d", name, i), Index: i, Name: "RTX 4090", Memory: 24 << 30})
	}
	return n
}

func encode(t fataler, e fsm.Entry) []byte {
	t.Helper()
	data, err := fsm.Encode(e)
	if err != nil {
		t.Fatalf("encode: %v", err)
	}
	return data
}

// apply commits one entry.
func (l *lab) apply(e fsm.Entry) fsm.Result {
	l.t.Helper()
	e.At = l.now
	data := encode(l.t, e)
	l.log = append(l.log, data)
	r, err := l.state.Apply(uint64(len(l.log)), data)
	if err != nil {
		l.t.Fatalf("apply %s: %v", data, err)
	}
	return r
}

func (l *lab) do(c fsm.Command) fsm.Result {
	l.t.Helper()
	return l.apply(fsm.Entry{By: "ana", Command: c})
}

func (l *lab) ok(c fsm.Command) fsm.Result {
	l.t.Helper()
	r := l.do(c)
	if r.Refused() {
		l.t.Fatalf("%s refused: %s", c.Kind(), r.Message)
	}
	return r
}

// submit makes so many experiments on one GPU each.
func (l *lab) submit(times int) []uint64 {
	l.t.Helper()
	return l.ok(&fsm.Submit{Spec: sweep(times)}).Experiments
}

func sweep(times int) fsm.Spec {
	s := fsm.Spec{Project: "p", Device: fsm.Device{Kind: fsm.DeviceGPU, Count: 1}}
	if times > 1 {
		axis := fsm.Axis{Key: "seed"}
		for i := range times {
			axis.Values = append(axis.Values, json.RawMessage(strconv.Itoa(i)))
		}
		s.Axes = []fsm.Axis{axis}
	}
	return s
}

// run assigns and starts an experiment and gives its token.
func (l *lab) run(id uint64, node string, gpus ...string) fsm.Token {
	l.t.Helper()
	token := l.ok(&fsm.Assign{Experiment: id, Node: node, GPUs: gpus}).Token
	l.ok(&fsm.Start{Token: token, Node: node, BootID: "boot"})
	return token
}

func (l *lab) experiment(id uint64) *fsm.Experiment {
	l.t.Helper()
	e := l.state.View().Experiment(id)
	if e == nil {
		l.t.Fatalf("experiment %d does not exist", id)
	}
	return e
}

func digest(s *fsm.State) string { d := s.View().Digest(); return fmt.Sprintf("%x", d[:8]) }

func snapshot(t fataler, s *fsm.State) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.View().Write(&b); err != nil {
		t.Fatalf("write snapshot: %v", err)
	}
	return b.Bytes()
}

func restored(t fataler, data []byte) *fsm.State {
	t.Helper()
	s := fsm.New()
	if err := s.Restore(bytes.NewReader(data)); err != nil {
		t.Fatalf("restore: %v", err)
	}
	return s
}
