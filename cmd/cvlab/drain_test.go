package main

import (
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
