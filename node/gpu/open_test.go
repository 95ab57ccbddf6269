package gpu

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func noNVML() (Source, error) { return nil, errors.New("no library") }

func TestNVMLComesFirst(t *testing.T) {
	fakeSMI(t, `exit 1`)
	want := &scripted{}
	got, err := pick(Options{}, (&logbook{}).logger(), func() (Source, error) { return want, nil })
	if err != nil || got != Source(want) {
		t.Errorf("got %v, %v; want the NVML source", got, err)
	}
}

// The real library may or may not be on the machine that tests; both must open, close, and never need a GPU.
func TestOpenWorksOnThisMachine(t *testing.T) {
	m, err := Open(t.Context(), Options{DataDir: t.TempDir(), Logger: (&logbook{}).logger()})
	if err != nil {
		t.Fatal(err)
	}
	if r := m.Reading(); r.Host.MemoryTotal == 0 || r.Host.DiskTotal == 0 || r.Source == "" {
		t.Errorf("got %+v, want the machine measured", r)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

func TestWithoutNVMLNvidiaSMIIsAsked(t *testing.T) {
	fakeSMI(t, `case "$1" in *apps*) ;; *) echo "GPU-1, 0, Card, 1, 1024, 5, 30, 9.5" ;; esac`)
	var log logbook
	source, err := pick(Options{}, log.logger(), noNVML)
	if err != nil {
		t.Fatal(err)
	}
	m := monitorOf(source, &log)
	if r := m.Reading(); r.Source != "nvidia-smi" || len(r.GPUs) != 0 || !r.Taken.IsZero() {
		t.Errorf("before the first measurement: got %+v", r)
	}
	if r := m.Measure(t.Context()); len(r.GPUs) != 1 || r.GPUs[0].UUID != "GPU-1" || m.every != smiEvery {
		t.Errorf("got %+v", r)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

func TestAMachineWithoutGPUSaysSoOnce(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	var log logbook
	source, err := pick(Options{}, log.logger(), noNVML)
	if err != nil {
		t.Fatal(err)
	}
	m := monitorOf(source, &log)
	changed := watch(m)
	for range 3 {
		if r := m.Measure(t.Context()); r.Source != "none" || len(r.GPUs) != 0 || r.GPUs == nil {
			t.Errorf("got %+v", r)
		}
	}
	if n := log.count("level="); n != 1 || log.count("no NVIDIA GPU") != 1 || changed() {
		t.Errorf("got %d log lines, want one that says it plainly", n)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

func TestWhoseProcessItIs(t *testing.T) {
	proc := t.TempDir()
	p := &people{proc: proc, names: map[uint32]string{uint32(os.Getuid()): "ann"}}
	if err := os.Mkdir(filepath.Join(proc, "12"), 0o700); err != nil {
		t.Fatal(err)
	}
	if got, want := p.describe(12, 5), (Process{PID: 12, User: "ann", MemoryUsed: 5}); got != want {
		t.Errorf("process that just ended: got %+v, want %+v", got, want)
	}
	if err := os.WriteFile(filepath.Join(proc, "12", "comm"), []byte("py\xffthon\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := p.describe(12, 5).Name; got != "py?thon" {
		t.Errorf("name: got %q, want valid text", got)
	}
	if got, want := p.describe(13, 5), (Process{PID: 13, MemoryUsed: 5}); got != want {
		t.Errorf("unseen process: got %+v, want %+v", got, want)
	}
	if got := p.name(4_000_000_000); got != "4000000000" {
		t.Errorf("user without a name: got %q, want the number", got)
	}
}

// BenchmarkMeasure is one second's work of a daemon at rest.
func BenchmarkMeasure(b *testing.B) {
	m, err := Open(b.Context(), Options{Simulated: 8, NodeID: "benchmark", DataDir: b.TempDir(), Logger: (&logbook{}).logger()})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		m.Measure(b.Context())
	}
	if err := m.Close(); err != nil {
		b.Fatal(err)
	}
}
