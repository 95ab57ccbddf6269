package node

import (
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/deveronica/cvlab/fsm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// IDs as long as real ones.
const (
	nodeA = "AAAAAAAAAAAAAAAAAAAAAAAAAA"
	nodeB = "BBBBBBBBBBBBBBBBBBBBBBBBBB"
	nodeC = "CCCCCCCCCCCCCCCCCCCCCCCCCC"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// facts are one replica with the log that made it.
type facts struct {
	*fsm.State
	t     *testing.T
	index uint64
}

// newFacts has the nodes A and B, each with two GPUs and two CPU slots.
func newFacts(t *testing.T) *facts {
	t.Helper()
	f := &facts{State: fsm.New(), t: t}
	f.must(&fsm.Found{Cluster: "c", Name: "lab", Node: machine(nodeA, "a")})
	f.must(&fsm.Grant{Access: fsm.Access{ID: "j", Kind: fsm.AccessJoin, Secret: make([]byte, 32), Uses: 5}})
	f.must(&fsm.Admit{Access: "j", Node: machine(nodeB, "b")})
	return f
}

func machine(id, name string) fsm.Node {
	return fsm.Node{ID: id, Name: name, CPUSlots: 2, GPUs: []fsm.GPU{
		{UUID: "GPU-" + name + "0", Index: 0, Name: "RTX 4090", Memory: 24 << 30},
		{UUID: "GPU-" + name + "1", Index: 1, Name: "RTX 4090", Memory: 24 << 30},
	}}
}

func (f *facts) apply(e fsm.Entry) fsm.Result {
	f.t.Helper()
	data, err := fsm.Encode(e)
	if err != nil {
		f.t.Fatal(err)
	}
	f.index++
	r, err := f.Apply(f.index, data)
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

func (f *facts) must(c fsm.Command) fsm.Result {
	f.t.Helper()
	r := f.apply(fsm.Entry{By: "ana", At: time.Now().UTC(), Command: c})
	if r.Refused() {
		f.t.Fatalf("%s refused: %s", c.Kind(), r.Message)
	}
	return r
}

// assign submits one experiment and assigns it.
func (f *facts) assign(node string, gpus ...string) *fsm.Attempt {
	f.t.Helper()
	s := fsm.Spec{Project: "p", Command: []string{"train"}, Device: fsm.Device{Kind: fsm.DeviceCPU}, Retries: 3}
	id := f.must(&fsm.Submit{Spec: s}).Experiments[0]
	token := f.must(&fsm.Assign{Experiment: id, Node: node, GPUs: gpus}).Token
	return f.View().Attempt(token)
}

func (f *facts) start(a *fsm.Attempt) {
	f.t.Helper()
	f.must(&fsm.Start{Token: a.Token, Node: a.Node, BootID: "boot"})
}

// start runs something beside the test; wait returns when it has ended.
func start(do func()) (wait func()) {
	var running sync.WaitGroup
	running.Go(do)
	return running.Wait
}

// until waits for a condition in real time.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		case <-time.After(2 * time.Millisecond):
		}
	}
}
