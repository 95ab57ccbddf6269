package api

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deveronica/cvlab/fsm"
)

func TestCheckpointsAndWhatWentOnFromThem(t *testing.T) {
	l := newLab(t)
	id := l.submit("ana", fsm.Spec{Project: "cats", Retries: 3})
	if got := decoded[checkpointsAnswer](t, l.ask("GET", "/api/queue/1/checkpoints", tokenViewer, "")); got.Checkpoints == nil || len(got.Checkpoints) > 0 {
		t.Errorf("before the first: %+v", got)
	}
	first := l.start(id)
	for seq := range uint64(2) {
		l.apply(&fsm.Publish{
			Token: first, Node: nodeA, Seq: seq + 1, Path: "checkpoints/e" + string('1'+rune(seq)), Files: 2, Size: 10 * (seq + 1), Digest: strings.Repeat("ab", 32),
		})
	}
	l.finish(first, fsm.ClassUserError, 1)
	second := l.apply(&fsm.Assign{Experiment: id, Node: nodeA}).Token
	l.apply(&fsm.Start{Token: second, Node: nodeA, BootID: "boot1", Resumed: &fsm.Resumed{Token: first, Seq: 2}})

	list := decoded[checkpointsAnswer](t, l.ask("GET", "/api/queue/1/checkpoints", tokenViewer, "")).Checkpoints
	if len(list) != 2 {
		t.Fatalf("listed %+v", list)
	}
	want := Checkpoint{
		Attempt: 1, Seq: 2, Token: first, Node: "gpu1", NodeID: nodeA, Path: "checkpoints/e2", Files: 2, Size: 20, Digest: strings.Repeat("ab", 32), At: list[0].At,
	}
	if diff := cmp.Diff(want, list[0]); diff != "" || list[1].Seq != 1 || list[0].At.IsZero() {
		t.Errorf("the newest (-want +got):\n%s", diff)
	}
	d := decoded[Detail](t, l.ask("GET", "/api/queue/1", tokenViewer, ""))
	if diff := cmp.Diff(list, d.Checkpoints); diff != "" {
		t.Errorf("in the detail (-list +detail):\n%s", diff)
	}
	if d.Attempts[0].Resumed != nil {
		t.Errorf("the first attempt goes on from %+v", d.Attempts[0].Resumed)
	}
	if diff := cmp.Diff(&CheckpointRef{Attempt: 1, Token: first, Seq: 2}, d.Attempts[1].Resumed); diff != "" {
		t.Errorf("the second attempt (-want +got):\n%s", diff)
	}
	if last := d.Timeline[len(d.Timeline)-1]; last.What != "attempt 2 started on gpu1, going on from checkpoint 2 of attempt 1" {
		t.Errorf("the timeline ends with %q", last.What)
	}
	if w := l.ask("GET", "/api/queue/99/checkpoints", tokenViewer, ""); w.Code != 404 {
		t.Errorf("of no experiment: status %d", w.Code)
	}
}
