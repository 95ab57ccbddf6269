package gpu

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func describe(t *testing.T, path, text string) {
	t.Helper()
	// Put in place at once, as an editor would: a probe must never see half a description.
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func openSimulated(t *testing.T, o Options, l *logbook) *Monitor {
	t.Helper()
	o.NodeID, o.Logger = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", l.logger()
	m, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestAPretendedGPUIsBusyWhileAJobHoldsIt(t *testing.T) {
	var held []string
	m := openSimulated(t, Options{Simulated: 2, Held: func() []string { return held }}, &logbook{})

	idle := m.Measure(t.Context())
	want := []GPU{
		{UUID: "GPU-sim-ABCDEFGH-0", Index: 0, Name: "Simulated GPU", State: OK, MemoryTotal: 24 << 30, Temperature: 34, Power: 25, Processes: []Process{}},
		{UUID: "GPU-sim-ABCDEFGH-1", Index: 1, Name: "Simulated GPU", State: OK, MemoryTotal: 24 << 30, Temperature: 34, Power: 25, Processes: []Process{}},
	}
	if diff := cmp.Diff(want, idle.GPUs); diff != "" || idle.Source != "simulated" {
		t.Errorf("idle, source %s (-want +got):\n%s", idle.Source, diff)
	}

	held = []string{"GPU-sim-ABCDEFGH-1"}
	var before uint64
	for i := range 5 {
		r := m.Measure(t.Context())
		if got := r.GPUs[1].MemoryUsed; got <= before || got-before > 8<<30 {
			t.Errorf("probe %d of the job: memory went from %d to %d, want a smooth rise", i, before, got)
		}
		before = r.GPUs[1].MemoryUsed
		if r.GPUs[0].MemoryUsed != 0 || r.GPUs[0].Utilization != 0 {
			t.Errorf("the other card is busy too: %+v", r.GPUs[0])
		}
	}
	for range 20 {
		m.Measure(t.Context())
	}
	if g := m.Reading().GPUs[1]; g.Utilization < 80 || g.MemoryUsed < 16<<30 || g.Temperature < 60 || g.Power < 200 {
		t.Errorf("long held: got %+v, want a busy card", g)
	}

	held = nil
	m.Measure(t.Context())
	if g := m.Reading().GPUs[1]; g.MemoryUsed == 0 || g.MemoryUsed > 6<<30 {
		t.Errorf("just released: got %d bytes, want a steep fall", g.MemoryUsed)
	}
	for range 3 {
		m.Measure(t.Context())
	}
	if diff := cmp.Diff(want, m.Reading().GPUs); diff != "" {
		t.Errorf("released (-want +got):\n%s", diff)
	}
}

func TestEditingTheFileBreaksGPUs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gpus.json")
	var log logbook
	m := openSimulated(t, Options{Simulated: 2, SimulatedFile: path}, &log)
	measure := func(text string) []GPU {
		if text != "" {
			describe(t, path, text)
		}
		return m.Measure(t.Context()).GPUs
	}
	const a, b, c = "GPU-sim-ABCDEFGH-0", "GPU-sim-ABCDEFGH-1", "GPU-sim-ABCDEFGH-2"

	steps := []struct {
		name, text string
		want       map[string]State
	}{
		{"no file yet", "", map[string]State{a: OK, b: OK}},
		{"one bad", `{"gpus": [{"index": 1, "state": "bad"}]}`, map[string]State{a: OK, b: Bad}},
		{"one missing", `{"gpus": [{"index": 0, "missing": true}]}`, map[string]State{a: Lost, b: OK}},
		{"half a file", `{"gpus": [{"index": 0`, map[string]State{a: Lost, b: Suspect}},
		{"half a file, again", "", map[string]State{a: Lost, b: Suspect}},
		{"three", `{"count": 3}`, map[string]State{a: OK, b: OK, c: OK}},
		{"one", `{"count": 1}`, map[string]State{a: OK, b: Lost, c: Lost}},
		{"back", `{}`, map[string]State{a: OK, b: OK, c: Lost}},
	}
	for _, s := range steps {
		if diff := cmp.Diff(s.want, states(measure(s.text))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", s.name, diff)
		}
	}
	if n := log.count("description of simulated GPUs"); n != 1 {
		t.Errorf("the broken file was logged %d times, want once", n)
	}

	got := measure(`{"gpus": [{"index": 0, "name": "A100", "memory_total": 1000, "memory_used": 900, "utilization": 50,
		"temperature": 80, "power": 300, "processes": [{"pid": 9, "name": "python", "user": "bob", "memory_used": 100}]}]}`)[0]
	want := GPU{
		UUID: a, Name: "A100", State: OK, MemoryUsed: 900, MemoryTotal: 1000, Utilization: 50, Temperature: 80, Power: 300,
		Processes: []Process{{PID: 9, Name: "python", User: "bob", MemoryUsed: 100}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("all values (-want +got):\n%s", diff)
	}
}

func TestAPretendedHangEndsWhenTheFileSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "gpus.json")
		describe(t, path, `{"count": 1}`)
		m := openSimulated(t, Options{SimulatedFile: path}, &logbook{})
		stop := run(t, m)
		time.Sleep(1500 * time.Millisecond)
		describe(t, path, `{"count": 1, "hang": true}`)
		time.Sleep(4 * time.Second)
		if got := m.Reading().GPUs[0].State; got != Suspect {
			t.Errorf("hanging: got %s, want suspect", got)
		}
		describe(t, path, `{"count": 1}`)
		time.Sleep(time.Second)
		if got := m.Reading().GPUs[0].State; got != OK {
			t.Errorf("after the hang: got %s, want ok", got)
		}
		describe(t, path, `{"hang": true}`)
		time.Sleep(1500 * time.Millisecond)
		stop()
	})
}

func TestOpenRefusesPretendedGPUsThatMakeNoSense(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken.json")
	describe(t, broken, `{"gpus": [{"index": 0, "stat": "bad"}]}`)
	tests := []struct {
		name string
		o    Options
		want string
	}{
		{"too many", Options{Simulated: 65}, "ask for 0 to 64"},
		{"negative", Options{Simulated: -1}, "ask for 0 to 64"},
		{"no file and no number", Options{SimulatedFile: filepath.Join(dir, "none.json")}, "is not there"},
		{"misspelt word", Options{Simulated: 1, SimulatedFile: broken}, `unknown field "stat"`},
		{"a directory", Options{Simulated: 1, SimulatedFile: dir}, "is a directory"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.o.Logger = (&logbook{}).logger()
			m, err := Open(t.Context(), tt.o)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, %v; want an error with %q", m, err, tt.want)
			}
		})
	}
	if _, err := Open(t.Context(), Options{Simulated: 1}); err == nil {
		t.Error("open without a logger: want an error")
	}
}

func TestAFileWithCountZeroMeansNoGPUOnAnyMachine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gpus.json")
	describe(t, path, `{"count": 0}`)
	m := openSimulated(t, Options{SimulatedFile: path}, &logbook{})
	if r := m.Measure(t.Context()); len(r.GPUs) != 0 || r.GPUs == nil || r.Taken.IsZero() {
		t.Errorf("got %+v, want a reading without GPUs", r)
	}
}

func TestDescriptionsThatAreRefused(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"empty", ``, "not the JSON"},
		{"two objects", `{} {}`, "something follows"},
		{"count", `{"count": 65}`, "0 to 64"},
		{"index", `{"gpus": [{"index": 64}]}`, "0 to 63"},
		{"same index", `{"gpus": [{"index": 1}, {"index": 1}]}`, "twice"},
		{"same uuid", `{"gpus": [{"index": 1, "uuid": "GPU-1"}, {"index": 2, "uuid": "GPU-1"}]}`, "its own"},
		{"uuid", `{"gpus": [{"uuid": "MIG-1"}]}`, "begins with GPU-"},
		{"state", `{"gpus": [{"state": "broken"}]}`, "ok, suspect, bad or lost"},
		{"use", `{"gpus": [{"utilization": 101}]}`, "0 to 100"},
		{"negative memory", `{"gpus": [{"memory_used": -1}]}`, "not the JSON"},
		{"huge", strings.Repeat(" ", maxSimFile+1), "larger"},
	}
	for _, tt := range tests {
		if _, err := decodeSimFile([]byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", tt.name, err, tt.want)
		}
	}
}

func FuzzSimulatedFile(f *testing.F) {
	f.Add([]byte(`{"count": 2, "hang": false, "gpus": [{"index": 1, "state": "bad", "processes": [{"pid": 1}]}]}`))
	f.Add([]byte(`{"gpus": [{"index": 63, "memory_total": 18446744073709551615, "temperature": -1e300}]}`))
	f.Add([]byte(`{"gpus": [{"uuid": "GPU-sim-x-1", "index": 0}]}`))
	dir := f.TempDir()
	path := filepath.Join(dir, "gpus.json")
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := decodeSimFile(data)
		if err != nil || d.Hang {
			return
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := newSimulated(Options{Simulated: 2, SimulatedFile: path, NodeID: "x"})
		if err != nil {
			t.Fatalf("a description that decodes is refused: %v", err)
		}
		gpus, err := s.Probe(context.Background())
		if err != nil || len(gpus) > MaxSimulated {
			t.Fatalf("got %d GPUs, %v", len(gpus), err)
		}
		for _, g := range gpus {
			if g.MemoryUsed > g.MemoryTotal || g.Utilization < 0 || g.Utilization > 100 || g.UUID == "" {
				t.Errorf("impossible GPU: %+v", g)
			}
		}
	})
}
