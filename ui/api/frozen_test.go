package api

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deveronica/cvlab/fsm"
)

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// What people read about an attempt, once for each class there is.
func TestSentences(t *testing.T) {
	l := newLab(t)
	sh := newShower(l.state.View())
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	one := 1
	message := map[fsm.Class]string{
		fsm.ClassUserError: "ValueError: bad lr", fsm.ClassHostOOM: "the machine's memory was full and the kernel killed it; its largest process used 12.5 GiB",
		fsm.ClassGPUOOM: "the GPU's memory was full: CUDA out of memory", fsm.ClassGPUFault: "the GPU fell off the bus",
		fsm.ClassTimeLimit: "ran longer than its time limit of 1h0m0s", fsm.ClassCancelled: "cancelled",
		fsm.ClassPreempted: "node gpu1 was drained by ana; a checkpoint was written", fsm.ClassNodeLost: "node gpu1 was not heard for 5m31s",
		fsm.ClassSupervisorLost: "its supervisor ended without saying how the job did", fsm.ClassStartFailed: `"python3" is not in the PATH /bin`,
	}
	var text strings.Builder
	fmt.Fprintln(&text, sh.sentence(&fsm.Attempt{Node: nodeA, State: fsm.AttemptAssigned}))
	fmt.Fprintln(&text, sh.sentence(&fsm.Attempt{Node: nodeA, State: fsm.AttemptStarted}))
	for _, c := range []fsm.Class{
		fsm.ClassCompleted, fsm.ClassUserError, fsm.ClassHostOOM, fsm.ClassGPUOOM, fsm.ClassGPUFault, fsm.ClassTimeLimit,
		fsm.ClassCancelled, fsm.ClassPreempted, fsm.ClassNodeLost, fsm.ClassSupervisorLost, fsm.ClassStartFailed,
	} {
		a := &fsm.Attempt{Node: nodeA, State: fsm.AttemptEnded, Class: c, Message: message[c], StartedAt: began, EndedAt: began.Add(90 * time.Minute), ExitCode: &one}
		fmt.Fprintln(&text, sh.sentence(a))
	}
	fmt.Fprintln(&text, sh.sentence(&fsm.Attempt{Node: nodeA, State: fsm.AttemptEnded, Class: fsm.ClassUserError, EndedAt: began}))
	f := Frozen{Since: began, Lease: 300}
	fmt.Fprintln(&text, f.sentence(time.UTC))
	f.Presumed = true
	fmt.Fprintln(&text, f.sentence(time.UTC))
	golden(t, "sentences.txt", text.String())
}

func TestFrozenIsShown(t *testing.T) {
	l := story(t)
	token := l.state.View().Experiment(3).Token
	since := time.Now().Add(-6 * time.Minute).UTC().Truncate(time.Second)
	l.devices = []Device{{ID: nodeA, Frozen: []Frozen{{Token: token, Experiment: 3, Since: since, Lease: 300}}}}
	want := "frozen since " + since.Local().Format("15:04") + ": no word from the cluster for 5m; it goes on when word comes"

	d := decoded[Detail](t, l.ask("GET", "/api/queue/3", tokenViewer, ""))
	if d.Reason != want || d.FrozenSince == nil || !d.FrozenSince.Equal(since) {
		t.Errorf("the experiment says %q, %v", d.Reason, d.FrozenSince)
	}
	if a := d.Attempts[0]; a.FrozenSince == nil || !a.FrozenSince.Equal(since) || a.Sentence != "runs on gpu1, "+want {
		t.Errorf("the attempt says %q, %v", a.Sentence, a.FrozenSince)
	}
	q := decoded[Queue](t, l.ask("GET", "/api/queue?sort=id", tokenViewer, ""))
	for _, e := range q.Experiments {
		if is := e.FrozenSince != nil; is != (e.ID == 3) || is && e.Reason != want {
			t.Errorf("experiment %d in the queue: %v, %q", e.ID, e.FrozenSince, e.Reason)
		}
	}
	if x := decoded[Explanation](t, l.ask("GET", "/api/queue/3/why", tokenViewer, "")); !strings.HasSuffix(x.Sentence, want) {
		t.Errorf("why: %q", x.Sentence)
	}
	l.apply(&fsm.Finish{Token: token, Node: nodeA, Class: fsm.ClassCompleted})
	if d := decoded[Detail](t, l.ask("GET", "/api/queue/3", tokenViewer, "")); d.FrozenSince != nil || d.Attempts[0].FrozenSince != nil {
		t.Errorf("ended and still frozen: %+v", d)
	}
}

func TestStrays(t *testing.T) {
	l := newLab(t)
	l.devices = []Device{{ID: nodeA, Strays: []Stray{{Token: fsm.Token{Epoch: 1, Index: 42}, Experiment: 7, Reason: "experiment 7 runs elsewhere"}}, Warnings: []string{"look here"}}}
	d := decoded[devicesAnswer](t, l.ask("GET", "/api/devices", tokenViewer, "")).Devices[0]
	if len(d.Strays) != 1 || d.Strays[0].Token.String() != "1-42" || d.Strays[0].Experiment != 7 || len(d.Warnings) != 1 || d.Frozen == nil {
		t.Errorf("the device is %+v", d)
	}
	for _, c := range []struct {
		path, token string
		status      int
	}{
		{"/api/devices/gpu1/strays/1-42/kill", tokenAna, 403},
		{"/api/devices/gpu9/strays/1-42/kill", tokenAdmin, 404},
		{"/api/devices/gpu1/strays/seven/kill", tokenAdmin, 400},
		{"/api/devices/gpu1/strays/1-43/kill", tokenAdmin, 404},
		{"/api/devices/gpu1/strays/1-42/kill", tokenAdmin, 200},
		{"/api/devices/gpu1/strays/1-42/kill", tokenAdmin, 404},
	} {
		if w := l.ask("POST", c.path, c.token, ""); w.Code != c.status {
			t.Errorf("%s: status %d, want %d: %s", c.path, w.Code, c.status, w.Body)
		}
	}
	if !cmp.Equal(l.killed, []string{"1-42 by root"}) {
		t.Errorf("killed %v", l.killed)
	}
}

func TestDrainNow(t *testing.T) {
	l := story(t)
	token := l.state.View().Experiment(3).Token
	if w := l.ask("POST", "/api/devices/gpu1/drain", tokenAdmin, ""); w.Code != 200 || l.state.View().Attempt(token).Preempting != "" {
		t.Errorf("status %d, and what runs is preempted: %+v", w.Code, l.state.View().Attempt(token))
	}
	if w := l.ask("POST", "/api/devices/gpu1/drain", tokenAdmin, `{"now":"yes"}`); w.Code != 400 {
		t.Errorf("status %d for nonsense", w.Code)
	}
	for range 2 { // to ask again is harmless
		w := l.ask("POST", "/api/devices/gpu1/drain", tokenAdmin, `{"now":true}`, headerKey+": drain-1")
		if w.Code != 200 || l.state.View().Attempt(token).Preempting != "node gpu1 was drained by root" {
			t.Errorf("status %d: %+v", w.Code, l.state.View().Attempt(token))
		}
	}
}
