package leader

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

func (l *lab) says(node string, tokens ...fsm.Token) Verdict {
	l.t.Helper()
	v, err := l.leader.Renew(l.t.Context(), node, tokens)
	if err != nil {
		l.t.Fatal(err)
	}
	synctest.Wait()
	return v
}

// The facts went back: an experiment of before may run on a machine that has not said so yet. It is given to nobody until
// every machine has spoken and nothing unknown runs; what was submitted since waits for nothing.
func TestOldExperimentsWaitForAllMachines(t *testing.T) {
	lead(t, func(t *testing.T, l *lab) {
		l.beacon(gpu1, gpu2)
		old := l.must(&fsm.Submit{Spec: gpuSpec()}).Experiments[0]
		l.must(&fsm.NewEpoch{Node: gpu1})
		l.win(1)
		fresh := l.submit(gpuSpec())
		l.beacons(10*time.Second, gpu1, gpu2)
		if l.attempt(fresh) == nil {
			t.Error("an experiment of this epoch was not assigned")
		}
		if l.attempt(old) != nil {
			t.Fatal("one of before was assigned although nobody has said what runs")
		}
		l.says(gpu1)
		l.beacons(10*time.Second, gpu1, gpu2)
		forgotten := fsm.Token{Epoch: 1, Index: 4}
		if v := l.says(gpu2, forgotten); len(v.Unknown) != 1 {
			t.Fatalf("answered %+v", v)
		}
		l.beacons(10*time.Second, gpu1, gpu2)
		if l.attempt(old) != nil {
			t.Fatal("assigned while something unknown runs, perhaps it")
		}
		l.says(gpu2) // it was frozen
		l.beacons(10*time.Second, gpu1, gpu2)
		if l.attempt(old) == nil {
			t.Error("not assigned although everything is known")
		}
	})
}

// The other way: the machine has it, and the facts take it back before anybody else gets it.
func TestOldExperimentIsAdoptedFirst(t *testing.T) {
	lead(t, func(t *testing.T, l *lab) {
		l.beacon(gpu1, gpu2)
		old := l.must(&fsm.Submit{Spec: gpuSpec()}).Experiments[0]
		l.must(&fsm.NewEpoch{Node: gpu1})
		l.win(1)
		l.says(gpu1)
		forgotten := fsm.Token{Epoch: 1, Index: 4}
		l.says(gpu2, forgotten)
		l.beacons(time.Minute, gpu1, gpu2)
		l.must(&fsm.Adopt{Token: forgotten, Experiment: old, Number: 3, Node: gpu2, GPUs: []string{"GPU-2"}, BootID: "b"})
		if v := l.says(gpu2, forgotten); len(v.Valid) != 1 {
			t.Fatalf("answered %+v", v)
		}
		l.beacons(time.Minute, gpu1, gpu2)
		if a := l.attempt(old); a.Token != forgotten || !a.Open() {
			t.Errorf("the experiment has attempt %+v", a)
		}
	})
}

// A machine that never speaks again keeps nothing for longer than a lease could have lasted there.
func TestOldExperimentsWaitNoLongerThanALease(t *testing.T) {
	lead(t, func(t *testing.T, l *lab) {
		l.beacon(gpu1)
		old := l.must(&fsm.Submit{Spec: gpuSpec()}).Experiments[0]
		l.must(&fsm.NewEpoch{Node: gpu1})
		l.win(1)
		l.says(gpu1)
		l.beacons(standardWait-2*time.Second, gpu1)
		if l.attempt(old) != nil {
			t.Fatal("assigned before a lease on the silent machine has certainly ended")
		}
		l.beacons(4*time.Second, gpu1)
		if l.attempt(old) == nil {
			t.Error("not assigned after that")
		}
	})
}

// A leader whose reign over leases has not begun has heard nobody.
func TestOldExperimentsWaitForTheReign(t *testing.T) {
	lead(t, func(t *testing.T, l *lab) {
		l.beacon(gpu1, gpu2)
		old := l.must(&fsm.Submit{Spec: gpuSpec()}).Experiments[0]
		l.must(&fsm.NewEpoch{Node: gpu1})
		l.change(func() { l.refuse = func(c fsm.Command) bool { _, reign := c.(*fsm.Reign); return reign } })
		l.win(1)
		l.beacons(time.Hour, gpu1, gpu2)
		if l.attempt(old) != nil {
			t.Error("assigned by a leader that has heard nobody")
		}
	})
}
