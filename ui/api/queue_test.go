package api

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

// story makes a queue with something of each kind: 1 completed, 2 failed, 3 running, 4 pending, 5 held, 6-8 a sweep.
func story(t *testing.T) *lab {
	l := newLab(t)
	done := l.submit("ana", fsm.Spec{Project: "cats", Name: "first", Epochs: 5})
	l.finish(l.start(done), fsm.ClassCompleted, 0)
	bad := l.submit("ana", fsm.Spec{Project: "cats", Config: "project: cats\n# keep me\n"})
	l.finish(l.start(bad), fsm.ClassUserError, 3)
	run := l.submit("bob", fsm.Spec{Project: "dogs", Device: fsm.Device{Kind: fsm.DeviceGPU, Count: 1}})
	token := l.apply(&fsm.Assign{Experiment: run, Node: nodeA, GPUs: []string{gpuA}}).Token
	l.apply(&fsm.Start{Token: token, Node: nodeA, BootID: "boot1"})
	l.submit("bob", fsm.Spec{Project: "dogs", Priority: fsm.High, Env: map[string]string{"WANDB_KEY": "hunter2"}})
	held := l.submit("ana", fsm.Spec{Project: "birds"})
	l.apply(&fsm.Hold{Experiments: []uint64{held}, Reason: "until Monday"})
	l.submit("ana", fsm.Spec{Project: "birds", Axes: []fsm.Axis{{Key: "optimizer.lr", Values: []json.RawMessage{[]byte("0.1"), []byte(`"auto"`), []byte("0.001")}}}})
	return l
}

func TestListFindsWhatIsAskedFor(t *testing.T) {
	l := story(t)
	for _, c := range []struct {
		query string
		want  []uint64
	}{
		{"", []uint64{8, 7, 6, 5, 4, 3, 2, 1}},
		{"sort=id", []uint64{1, 2, 3, 4, 5, 6, 7, 8}},
		{"status=running", []uint64{3}},
		{"status=failed,completed", []uint64{2, 1}},
		{"status=failed&status=held", []uint64{5, 2}},
		{"project=dogs", []uint64{4, 3}},
		{"user=ana&status=pending", []uint64{8, 7, 6}},
		{"node=gpu1", []uint64{3, 2, 1}},
		{"node=" + nodeA, []uint64{3, 2, 1}},
		{"node=elsewhere", nil},
		{"sweep=6", []uint64{8, 7, 6}},
		{"text=FIRST", []uint64{1}},
		{"text=lr%3Dauto", []uint64{7}},
		{"text=nothing+like+it", nil},
		{"sort=queue", []uint64{3, 4, 6, 7, 8, 5, 1, 2}},
		{"sort=-priority&limit=1", []uint64{4}},
		{"limit=2", []uint64{8, 7}},
	} {
		q := decoded[Queue](t, l.ask("GET", "/api/queue?"+c.query, tokenViewer, ""))
		var got []uint64
		for _, e := range q.Experiments {
			got = append(got, e.ID)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%q: got %v, want %v", c.query, got, c.want)
		}
		if q.Experiments == nil {
			t.Errorf("%q: experiments is null", c.query)
		}
	}
}

func TestListRefusesWhatItDoesNotKnow(t *testing.T) {
	l := story(t)
	for _, query := range []string{"status=runing", "sort=luck", "limit=0", "limit=1001", "limit=x", "sweep=-1", "cursor=!!", "cursor=e30&sort=name", "cursor=" + strings.Repeat("A", 5000)} {
		if w := l.ask("GET", "/api/queue?"+query, tokenViewer, ""); w.Code != 400 {
			t.Errorf("%q: status %d, want 400", query, w.Code)
		}
	}
}

func TestListRowsSayWhatMatters(t *testing.T) {
	l := story(t)
	w := l.ask("GET", "/api/queue?sort=id", tokenViewer, "")
	q := decoded[Queue](t, w)
	if w.Header().Get(headerAge) != "40" {
		t.Errorf("age %q ms, want 40", w.Header().Get(headerAge))
	}
	done, bad, run, wait, held, swept := q.Experiments[0], q.Experiments[1], q.Experiments[2], q.Experiments[3], q.Experiments[4], q.Experiments[5]
	switch {
	case done.Progress == nil || done.Progress.Fraction != 1 || done.Progress.Epochs != 5:
		t.Errorf("completed: progress %+v", done.Progress)
	case bad.ExitCode == nil || *bad.ExitCode != 3 || bad.Class != fsm.ClassUserError || bad.Node != "gpu1":
		t.Errorf("failed: %+v", bad)
	case run.Node != "gpu1" || run.NodeID != nodeA || !slices.Equal(run.GPUs, []string{gpuA}) || run.Attempt != 1 || run.StartedAt == nil:
		t.Errorf("running: %+v", run)
	case wait.Reason != "experiment 4 waits for a GPU" || wait.Node != "" || wait.Priority != fsm.High:
		t.Errorf("waiting: %+v", wait)
	case held.Reason != "until Monday":
		t.Errorf("held: %+v", held)
	case swept.Sweep == nil || *swept.Sweep != 6:
		t.Errorf("swept: %+v", swept)
	}
	want := map[fsm.Status]int{"pending": 4, "running": 1, "completed": 1, "failed": 1, "cancelled": 0, "held": 1}
	for s, n := range want {
		if q.Counts[s] != n {
			t.Errorf("%d %s, want %d", q.Counts[s], s, n)
		}
	}
}

// Pages together give every row once, also when new ones come in meanwhile.
func TestCursorsGiveEachRowOnce(t *testing.T) {
	for _, sort := range []string{"-id", "id", "name", "-name", "status", "-created", "queue", "-queue", "ended", "project", "-priority"} {
		l := story(t)
		seen := map[uint64]int{}
		cursor := ""
		for page := 0; ; page++ {
			q := decoded[Queue](t, l.ask("GET", "/api/queue?limit=3&sort="+sort+"&cursor="+url.QueryEscape(cursor), tokenViewer, ""))
			for _, e := range q.Experiments {
				seen[e.ID]++
			}
			if cursor = q.Next; cursor == "" {
				break
			}
			if page == 0 && sort == "-id" {
				l.submit("bob", fsm.Spec{Project: "late"})
			}
			if page > 5 {
				t.Fatalf("%s: the pages do not end", sort)
			}
		}
		for id := uint64(1); id <= 8; id++ {
			if seen[id] != 1 {
				t.Errorf("%s: experiment %d was on %d pages", sort, id, seen[id])
			}
		}
	}
}

func TestTenThousandRowsAreFast(t *testing.T) {
	l := newLab(t)
	values := make([]json.RawMessage, 10_000)
	for i := range values {
		values[i] = json.RawMessage(fmt.Sprint(i))
	}
	l.submit("ana", fsm.Spec{Project: "cats", Axes: []fsm.Axis{{Key: "seed", Values: values}}})
	for _, query := range []string{"", "sort=queue&limit=1000", "text=seed%3D99", "project=cats&sort=name", "node=gpu1"} {
		best := time.Hour
		for range 3 {
			began := time.Now()
			if w := l.ask("GET", "/api/queue?"+query, tokenViewer, ""); w.Code != 200 {
				t.Fatalf("%q: status %d", query, w.Code)
			}
			best = min(best, time.Since(began))
		}
		t.Logf("%q: %s", query, best)
		if best > 500*time.Millisecond { // tens of milliseconds at rest; this must hold under the race detector, too
			t.Errorf("%q took %s", query, best)
		}
	}
}

func TestDetailTellsTheWholeStory(t *testing.T) {
	l := newLab(t)
	id := l.submit("ana", fsm.Spec{Project: "cats", Config: "project: cats\n# a comment\n", Retries: 1, Env: map[string]string{"WANDB_KEY": "hunter2"}})
	l.finish(l.start(id), fsm.ClassUserError, 1)
	l.finish(l.start(id), fsm.ClassCompleted, 0)
	w := l.ask("GET", "/api/queue/1", tokenViewer, "")
	d := decoded[Detail](t, w)
	if len(d.Attempts) != 2 || !strings.HasPrefix(d.Attempts[0].Sentence, "failed with exit code 1 on gpu1") || !strings.HasPrefix(d.Attempts[1].Sentence, "completed on gpu1") {
		t.Errorf("attempts: %+v", d.Attempts)
	}
	if len(d.Timeline) != 8 || d.Timeline[0].What != "submitted by ana" || d.Timeline[7].What != "completed" {
		t.Errorf("timeline: %+v", d.Timeline)
	}
	if !strings.Contains(d.Config, "# a comment") || d.Spec.Retries != 1 || !slices.Equal(d.Spec.Env, []string{"WANDB_KEY"}) {
		t.Errorf("spec: %+v", d.Spec)
	}
	for _, null := range []string{`"where":null`, `"after":null`, `"command":null`, `"tags":null`, `"gpus":null`} {
		if strings.Contains(w.Body.String(), null) {
			t.Errorf("a list or object is null: %s", null)
		}
	}
	if strings.Contains(w.Body.String(), "hunter2") {
		t.Error("the value of an environment variable is shown")
	}
	if w := l.ask("GET", "/api/queue/2", tokenViewer, ""); w.Code != 404 {
		t.Errorf("no such experiment: status %d", w.Code)
	}
	if w := l.ask("GET", "/api/queue/99999999999999999999", tokenViewer, ""); w.Code != 404 {
		t.Errorf("a number beyond 64 bits: status %d", w.Code)
	}
}

func TestWhy(t *testing.T) {
	l := story(t)
	for id, want := range map[int]string{
		1: "completed on gpu1", 2: "failed with exit code 3 on gpu1", 3: "runs on gpu1", 4: "waits for a GPU", 5: "until Monday",
	} {
		x := decoded[Explanation](t, l.ask("GET", fmt.Sprintf("/api/queue/%d/why", id), tokenViewer, ""))
		if !strings.HasPrefix(x.Sentence, want) || x.ID != uint64(id) || x.Nodes == nil || x.Blocking == nil {
			t.Errorf("%d: %+v, want %q", id, x, want)
		}
	}
}

func TestActionsAndTheirRefusals(t *testing.T) {
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		then                     fsm.Status // of experiment 4
	}{
		{"cancel", "POST", "/api/queue/4/cancel", `{"reason":"wrong seed"}`, 200, fsm.Cancelled},
		{"cancel without a body", "POST", "/api/queue/4/cancel", "", 200, fsm.Cancelled},
		{"hold", "POST", "/api/queue/4/hold", "", 200, fsm.Held},
		{"release what is not held", "POST", "/api/queue/4/release", "", 409, fsm.Pending},
		{"retry what waits", "POST", "/api/queue/4/retry", "", 409, fsm.Pending},
		{"cancel what is not there", "POST", "/api/queue/400/cancel", "", 404, fsm.Pending},
		{"upstream's cancel", "POST", "/api/queue/experiment/4/cancel", "", 200, fsm.Cancelled},
		{"upstream's cancel of nothing", "POST", "/api/queue/experiment/20251120_ab12/cancel", "", 404, fsm.Pending},
		{"bulk", "POST", "/api/queue/bulk", `{"action":"cancel","ids":[4,1,400]}`, 200, fsm.Cancelled},
		{"bulk by selection", "POST", "/api/queue/bulk", `{"action":"hold","select":{"project":"dogs","status":["pending"]}}`, 200, fsm.Held},
		{"bulk on all", "POST", "/api/queue/bulk", `{"action":"cancel","select":{}}`, 400, fsm.Pending},
		{"bulk on nothing", "POST", "/api/queue/bulk", `{"action":"cancel"}`, 400, fsm.Pending},
		{"bulk unknown", "POST", "/api/queue/bulk", `{"action":"explode","ids":[4]}`, 400, fsm.Pending},
		{"patch nothing", "PATCH", "/api/queue/4", `{}`, 400, fsm.Pending},
		{"patch bad priority", "PATCH", "/api/queue/4", `{"priority":"asap"}`, 422, fsm.Pending},
		{"patch empty name", "PATCH", "/api/queue/4", `{"name":" "}`, 422, fsm.Pending},
		{"patch escape sequence", "PATCH", "/api/queue/4", `{"tags":["\u001b]0;x\u0007"]}`, 422, fsm.Pending},
		{"reason of two lines", "POST", "/api/queue/4/cancel", `{"reason":"a\nb"}`, 422, fsm.Pending},
	} {
		l := story(t)
		w := l.ask(c.method, c.path, tokenAdmin, c.body)
		if w.Code != c.status {
			t.Errorf("%s: status %d, want %d: %s", c.name, w.Code, c.status, w.Body)
		}
		if got := l.state.View().Experiment(4).Status; got != c.then {
			t.Errorf("%s: experiment 4 is %s, want %s", c.name, got, c.then)
		}
	}
}

func TestPatchAndBulkTell(t *testing.T) {
	l := story(t)
	w := l.ask("PATCH", "/api/queue/4", tokenBob, `{"priority":"urgent","name":"<img src=x>","tags":["a","b"],"notes":"line\nline"}`)
	if w.Code != 200 || w.Header().Get(headerIndex) == "" {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	raw := l.ask("GET", "/api/queue/4", tokenBob, "").Body.String()
	if strings.Contains(raw, "<img") {
		t.Errorf("a name goes out as it is: %s", raw)
	}
	if d := decoded[Detail](t, l.ask("GET", "/api/queue/4", tokenBob, "")); d.Name != "<img src=x>" || d.Priority != fsm.Urgent || len(d.Tags) != 2 || d.Notes != "line\nline" {
		t.Errorf("got %+v", d)
	}
	c := decoded[Changed](t, l.ask("POST", "/api/queue/bulk", tokenAdmin, `{"action":"cancel","ids":[4,1]}`))
	if !slices.Equal(c.Experiments, []uint64{4}) || !strings.Contains(c.Message, "experiment 1 is already completed") {
		t.Errorf("got %+v", c)
	}
}

func TestConsistentReadsAskTheLeader(t *testing.T) {
	l := story(t)
	w := l.ask("GET", "/api/queue?consistent=1", tokenViewer, "")
	if w.Code != 200 || l.barriers != 1 || w.Header().Get(headerAge) != "0" {
		t.Errorf("status %d, %d barriers, age %q", w.Code, l.barriers, w.Header().Get(headerAge))
	}
	l.setLeader("")
	if w := l.ask("GET", "/api/queue?consistent=1", tokenViewer, ""); w.Code != 503 {
		t.Errorf("without a leader: status %d, want 503", w.Code)
	}
	if w := l.ask("GET", "/api/queue", tokenViewer, ""); w.Code != 200 {
		t.Errorf("the own replica without a leader: status %d, want 200", w.Code)
	}
}

func TestUpstreamShapes(t *testing.T) {
	l := story(t)
	list := decoded[map[string]any](t, l.ask("GET", "/api/queue/list?limit=2&offset=1&status=pending", tokenViewer, ""))
	jobs := list["jobs"].([]any)
	if list["total"] != 4.0 || len(jobs) != 2 || jobs[0].(map[string]any)["experiment_uid"] != "7" {
		t.Errorf("list: %v", list)
	}
	held := decoded[map[string]any](t, l.ask("GET", "/api/queue/list?status=paused", tokenViewer, ""))
	if held["total"] != 1.0 {
		t.Errorf("paused: %v", held)
	}
	stats := decoded[map[string]any](t, l.ask("GET", "/api/queue/stats", tokenViewer, ""))
	if stats["total_jobs"] != 8.0 || stats["running_jobs"] != 1.0 || stats["pending_jobs"] != 5.0 {
		t.Errorf("stats: %v", stats)
	}
	cats := decoded[map[string]any](t, l.ask("GET", "/api/projects/cats/experiments", tokenViewer, ""))
	if cats["project"] != "cats" || cats["experiment_count"] != 2.0 || len(cats["experiments"].([]any)) != 2 {
		t.Errorf("project: %v", cats)
	}
	beat := l.ask("POST", "/api/devices/heartbeat", tokenAna, "not even JSON", "Content-Type: text/plain")
	if beat.Code != 200 {
		t.Errorf("heartbeat: status %d, want 200", beat.Code)
	}
}
