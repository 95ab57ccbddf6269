package fsm_test

import (
	"bytes"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deveronica/cvlab/fsm"
)

func woken(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestChangedWakes(t *testing.T) {
	l := foundedLab(t)
	c := l.state.Changed()
	if woken(c) {
		t.Fatal("woken before anything happened")
	}
	l.submit(1)
	if !woken(c) {
		t.Error("not woken by an entry")
	}
	c = l.state.Changed()
	if woken(c) {
		t.Error("the new channel is closed already")
	}
	// A refusal moves the index, for which a reader may wait.
	l.do(&fsm.Release{Experiments: []uint64{9}})
	if !woken(c) {
		t.Error("not woken by a refused entry")
	}
	c = l.state.Changed()
	if err := l.state.Restore(bytes.NewReader(snapshot(t, l.state))); err != nil {
		t.Fatal(err)
	}
	if !woken(c) {
		t.Error("not woken by a restore")
	}
	c = l.state.Changed()
	if _, err := l.state.Apply(99, []byte("junk")); err == nil || woken(c) {
		t.Errorf("woken by an entry that was not applied (%v)", err)
	}
}

// A reader's view stays as it was, down to the records, whatever is applied meanwhile.
func TestViewNeverChanges(t *testing.T) {
	l := livedInLab(t)
	gang := sweep(1)
	gang.Device.Nodes = 2
	id := l.ok(&fsm.Submit{Spec: gang}).Experiments[0]
	token := l.ok(&fsm.Assign{Experiment: id, Node: "d", Others: []fsm.Slot{{Node: "c"}}}).Token
	view := l.state.View()
	before, words := view.Digest(), show(view)
	l.ok(&fsm.Start{Token: token, Node: "d", BootID: "boot", Port: 29500})
	l.ok(&fsm.Start{Token: token, Node: "c", BootID: "boot"})
	l.ok(&fsm.Drain{Node: "d", On: true, Now: true})
	l.ok(&fsm.Finish{Token: token, Node: "d", Class: fsm.ClassPreempted})
	l.run(3, "a", "a-1")
	l.ok(&fsm.Annotate{Experiments: []uint64{1, 2, 3, 4, 5}, Name: ptr("new"), Tags: ptr([]string{"new"})})
	l.ok(&fsm.Retry{Experiments: []uint64{4}})
	l.ok(&fsm.Update{Node: machine("a", 2)})
	l.ok(&fsm.Remove{Node: "a", Off: true})
	l.ok(&fsm.Revoke{ID: "j"})
	l.submit(3)
	if view.Digest() != before {
		t.Error("the view's digest changed")
	}
	if diff := cmp.Diff(words, show(view)); diff != "" {
		t.Error(diff)
	}
}

// Readers and the writer at once, for the race detector: a batch is seen whole or not at all.
func TestReadWhileApplying(t *testing.T) {
	l := foundedLab(t)
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range 3 {
		wg.Go(func() {
			for last := uint64(0); !woken(done); {
				v := l.state.View()
				n := 0
				for range v.ByStatus(fsm.Pending) {
					n++
				}
				if n%7 != 0 || v.Index() < last {
					t.Errorf("%d pending at index %d after %d", n, v.Index(), last)
				}
				last = v.Index()
			}
		})
	}
	for range 50 {
		l.submit(7)
	}
	close(done)
	wg.Wait()
}

func TestViewOrders(t *testing.T) {
	l := foundedLab(t)
	l.submit(3)
	l.ok(&fsm.Annotate{Experiments: []uint64{2}, Priority: ptr(fsm.Urgent)})
	l.ok(&fsm.Annotate{Experiments: []uint64{1}, Priority: ptr(fsm.Low)})
	v := l.state.View()
	var queue, newest, modified []uint64
	for e := range v.ByStatus(fsm.Pending) {
		queue = append(queue, e.ID)
	}
	for e := range v.Newest() {
		newest = append(newest, e.ID)
	}
	for e := range v.Modified(3) {
		modified = append(modified, e.ID)
	}
	if !slices.Equal(queue, []uint64{2, 3, 1}) || !slices.Equal(newest, []uint64{3, 2, 1}) || !slices.Equal(modified, []uint64{2, 1}) {
		t.Errorf("queue %v, newest %v, modified %v", queue, newest, modified)
	}
}

func TestFindNode(t *testing.T) {
	l := foundedLab(t)
	for _, id := range []string{"ABCDEFGH", "ABCDEFXY"} {
		n := machine("n"+id[6:], 0)
		n.ID = id
		l.ok(&fsm.Admit{Node: n, Access: "j"})
	}
	for word, want := range map[string]string{
		"nGH": "ABCDEFGH", "ABCDEFGH": "ABCDEFGH", "ABCDEFG": "ABCDEFGH", "ABCDEF": "", "ABCDE": "", "a": "a", "": "", "zzz": "",
	} {
		got := ""
		if n := l.state.View().FindNode(word); n != nil {
			got = n.ID
		}
		if got != want {
			t.Errorf("FindNode(%q) = %q, want %q", word, got, want)
		}
	}
}

func TestBatchLimit(t *testing.T) {
	l := foundedLab(t)
	if r := l.do(&fsm.Submit{Spec: sweep(fsm.MaxBatch + 1)}); r.Code != fsm.Invalid {
		t.Errorf("%d experiments at once: %+v", fsm.MaxBatch+1, r)
	}
	if r := l.do(&fsm.Submit{Spec: sweep(fsm.MaxBatch)}); len(r.Experiments) != fsm.MaxBatch {
		t.Errorf("made %d experiments, %s", len(r.Experiments), r.Message)
	}
	// Lengths whose product overflows must not come out small.
	s := fsm.Spec{Device: fsm.Device{Kind: fsm.DeviceCPU}}
	for range 16 {
		s.Axes = append(s.Axes, sweep(16).Axes...)
	}
	if r := l.do(&fsm.Submit{Spec: s}); r.Code != fsm.Invalid {
		t.Errorf("16^16 experiments: %s", r.Code)
	}
}

// The infrastructure's budget ends too, with waits that double up to ten minutes.
func TestLossesEnd(t *testing.T) {
	l := foundedLab(t)
	l.submit(1)
	var waits []string
	for range 11 {
		token := l.run(1, "a", "a-0")
		l.ok(&fsm.Finish{Token: token, Node: "a", Class: fsm.ClassNodeLost})
		if e := l.experiment(1); e.Status == fsm.Pending {
			waits = append(waits, e.NotBefore.Sub(l.now).String())
		}
	}
	want := []string{"10s", "20s", "40s", "1m20s", "2m40s", "5m20s", "10m0s", "10m0s", "10m0s", "10m0s"}
	if diff := cmp.Diff(want, waits); diff != "" {
		t.Error(diff)
	}
	if e := l.experiment(1); e.Status != fsm.Failed || e.Attempts != 11 || e.Failures != 0 {
		t.Errorf("after 11 losses it is %+v", e)
	}
}
