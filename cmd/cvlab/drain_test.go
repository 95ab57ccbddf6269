package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/ui/api"
)

// A person empties a machine and is told when the plug may be pulled; what ran there goes on elsewhere.
func TestDrainNowEmptiesAMachine(t *testing.T) {
	l := newLab(t, 2, "--cpu-slots", "1")
	id := l.submit(l.machines[0], api.AddRequest{Command: l.beatingJob(), Device: "cpu"})
	l.beating(id, 30*time.Second)
	host, others := l.host(id)
	out, errs, code := others[0].cvlab("drain", host.name)
	if code != 0 || !strings.Contains(out, "it still runs "+word(id)+", which ends by itself") {
		t.Errorf("drain: exit code %d\n%s%s", code, out, errs)
	}
	l.beating(id, 10*time.Second)
	out, errs, code = others[0].cvlab("drain", host.name, "--now")
	if code != 0 || out != host.name+" runs nothing; the plug may be pulled\n" {
		t.Fatalf("drain --now: exit code %d\n%s%s", code, out, errs)
	}
	for _, a := range l.get(others[0], id).Attempts {
		if a.Node == host.name && a.State != fsm.AttemptEnded {
			t.Errorf("the plug may be pulled, and attempt %d is %s there", a.Number, a.State)
		}
	}
	l.eventually(30*time.Second, "the second attempt", func() bool { return l.last(id).attempt == 2 })
	l.letGo()
	d := l.waitStatus(others[0], id, fsm.Completed)
	first := d.Attempts[0]
	if len(d.Attempts) != 2 || first.Class != fsm.ClassPreempted || d.Attempts[1].Node != others[0].name || !strings.Contains(first.Sentence, "node "+host.name+" was drained by") {
		t.Errorf("attempts %+v", d.Attempts)
	}
	l.wantNoInterleaving(id)
	if out := others[0].must("drain", host.name, "--wait"); !strings.Contains(out, "runs nothing") {
		t.Errorf("drain --wait of an empty machine: %s", out)
	}
	if _, errs, code := others[0].cvlab("kill-stray", host.name, "1-42"); code == 0 || !strings.Contains(errs, "has no stray attempt 1-42") {
		t.Errorf("kill-stray of nothing: exit code %d, %s", code, errs)
	}
}

func TestBearingsAreLines(t *testing.T) {
	var out bytes.Buffer
	p := &program{stdout: &out}
	since := time.Date(2026, 1, 2, 19, 2, 0, 0, time.Local)
	p.printBearings([]api.Device{
		{Name: "gpu1"},
		{
			Name:     "gpu2",
			Frozen:   []api.Frozen{{Experiment: 3, Since: since, Lease: 300}, {Experiment: 4, Since: since, Lease: 300, Presumed: true}},
			Strays:   []api.Stray{{Token: fsm.Token{Epoch: 1, Index: 7}, Experiment: 5, Reason: "experiment 5 runs\x1b[2Jelsewhere"}},
			Warnings: []string{"2 attempt directories were put aside: a, b; they lie in /q"},
		},
	})
	want := `
experiment 3 on gpu2 is frozen since 19:02:00: no word from the cluster for 5m00s; it goes on when word comes
gpu2 is silent; if experiment 4 still runs there, it is frozen since 19:02:00
stray attempt 1-7 of experiment 5 on gpu2: frozen, since experiment 5 runs\ufffd[2Jelsewhere; end it with: cvlab kill-stray gpu2 1-7
gpu2: 2 attempt directories were put aside: a, b; they lie in /q
`
	if want = strings.ReplaceAll(want, `\ufffd`, "\ufffd"); out.String() != want {
		t.Errorf("got:%s\nwant:%s", out.String(), want)
	}
	out.Reset()
	p.printBearings([]api.Device{{Name: "gpu1"}})
	if out.Len() != 0 {
		t.Errorf("nothing to say, and it says %q", out.String())
	}
}
