package api

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deveronica/cvlab/fsm"
)

func lossOf(values ...Number) []MetricSeries {
	return []MetricSeries{
		{Key: "acc", Count: 1, Last: 0.5, Steps: []Number{1}, Values: []Number{0.5}},
		{Key: "loss", Count: uint64(len(values)), Last: values[len(values)-1], Steps: make([]Number, len(values)), Values: values},
	}
}

func TestMetricsOfAnExperiment(t *testing.T) {
	l := story(t)
	token := l.state.View().Experiment(3).Token
	l.series = map[fsm.Token][]MetricSeries{token: lossOf(3, Number(math.Inf(1)), 1)}

	m := decoded[Metrics](t, l.ask("GET", "/api/queue/3/metrics", tokenViewer, ""))
	if len(m.Series) != 2 || m.Attempt != 1 || len(m.Series[1].Values) != 3 || !math.IsNaN(float64(m.Series[1].Values[1])) {
		t.Errorf("got %+v", m)
	}
	m = decoded[Metrics](t, l.ask("GET", "/api/queue/3/metrics?keys=loss&points=0", tokenViewer, ""))
	if len(m.Series) != 1 || m.Series[0].Key != "loss" || len(m.Series[0].Values) != 0 || m.Series[0].Last != 1 {
		t.Errorf("got %+v", m)
	}
	// One that has not begun has none; one whose files are gone says so.
	if m := decoded[Metrics](t, l.ask("GET", "/api/queue/4/metrics", tokenViewer, "")); len(m.Series) != 0 || m.Error != "" {
		t.Errorf("got %+v", m)
	}
	if m := decoded[Metrics](t, l.ask("GET", "/api/queue/2/metrics", tokenViewer, "")); !strings.Contains(m.Error, "ran on gpu1") {
		t.Errorf("got %+v", m)
	}
	for path, want := range map[string]int{
		"/api/queue/99/metrics": 404, "/api/queue/3/metrics?attempt=2": 404, "/api/queue/3/metrics?points=-1": 400, "/api/queue/3/metrics?points=20001": 400,
		"/api/queue/3/metrics?from=x": 400, "/api/queue/3/metrics?to=NaN": 400, "/api/metrics": 400, "/api/metrics?id=x": 400, "/api/metrics?id=99": 404,
		"/api/metrics?id=" + strings.Repeat("1,", 10) + "1": 200,
	} {
		if w := l.ask("GET", path, tokenViewer, ""); w.Code != want {
			t.Errorf("%s: %d, want %d: %s", path, w.Code, want, w.Body)
		}
	}
}

// One machine that does not answer costs a comparison only its own runs.
func TestComparison(t *testing.T) {
	l := story(t)
	l.apply(&fsm.Grant{Access: fsm.Access{ID: "j", Kind: fsm.AccessJoin, Secret: secretOf("j"), Uses: 1}})
	l.apply(&fsm.Admit{Node: fsm.Node{ID: nodeB, Name: "gpu2", CPUSlots: 1}, Access: "j"})
	away := l.submit("ana", fsm.Spec{Device: fsm.Device{Kind: fsm.DeviceCPU}})
	token := l.apply(&fsm.Assign{Experiment: away, Node: nodeB}).Token
	l.apply(&fsm.Start{Token: token, Node: nodeB, BootID: "b"})
	l.series = map[fsm.Token][]MetricSeries{
		l.state.View().Experiment(1).Token: lossOf(2), l.state.View().Experiment(3).Token: lossOf(3),
	}
	got := decoded[comparison](t, l.ask("GET", "/api/metrics?id=3,1&id=9&id=4&keys=loss&points=10", tokenViewer, ""))
	if len(got.Runs) != 4 || got.Runs[0].Experiment != 3 || got.Runs[0].Series[0].Last != 3 || got.Runs[1].Series[0].Last != 2 {
		t.Fatalf("got %+v", got)
	}
	if !strings.Contains(got.Runs[2].Error, "gpu2") || got.Runs[3].Error != "" || len(got.Runs[3].Series) != 0 {
		t.Errorf("got %+v", got.Runs[2:])
	}
}

func TestProgressOfWhatRuns(t *testing.T) {
	l := newLab(t)
	id := l.submit("ana", fsm.Spec{Device: fsm.Device{Kind: fsm.DeviceCPU}, Epochs: 10})
	if d := decoded[Detail](t, l.ask("GET", "/api/queue/1", tokenViewer, "")); d.Progress != nil {
		t.Errorf("waiting and at %+v", d.Progress)
	}
	l.start(id)
	want := &Progress{Epoch: 5, Epochs: 10, Fraction: 0.5}
	if d := decoded[Detail](t, l.ask("GET", "/api/queue/1", tokenViewer, "")); !cmp.Equal(d.Progress, want) {
		t.Errorf("got %+v", d.Progress)
	}
	if q := decoded[Queue](t, l.ask("GET", "/api/queue", tokenViewer, "")); !cmp.Equal(q.Experiments[0].Progress, want) {
		t.Errorf("got %+v", q.Experiments[0].Progress)
	}
}

func TestNumber(t *testing.T) {
	data, err := json.Marshal([]Number{1, 0.1, Number(math.NaN()), Number(math.Inf(-1)), 1e300})
	if err != nil || string(data) != "[1,0.1,null,null,1e+300]" {
		t.Errorf("%s, %v", data, err)
	}
	var back []Number
	if err := json.Unmarshal(data, &back); err != nil || back[1] != 0.1 || !math.IsNaN(float64(back[2])) {
		t.Errorf("%v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`["x"]`), &back); err == nil {
		t.Error("text was read as a number")
	}
}
