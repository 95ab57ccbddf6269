package gpu

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/shirou/gopsutil/v4/cpu"
)

func TestTheHostIsMeasured(t *testing.T) {
	h := newHost(t.TempDir())
	if _, err := h.measure(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 20_000_000 { // some work, so that the kernel's clock moves
		h.cores ^= 0
	}
	got, err := h.measure(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.CPU < 0 || got.CPU > 100 || got.Cores < 1 {
		t.Errorf("cpu: got %+v", got)
	}
	if got.MemoryTotal == 0 || got.MemoryUsed == 0 || got.MemoryUsed > got.MemoryTotal {
		t.Errorf("memory: got %+v", got)
	}
	if got.DiskTotal == 0 || got.DiskFree > got.DiskTotal {
		t.Errorf("disk: got %+v", got)
	}
}

func TestAVanishedDirectoryKeepsTheLastValues(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	h := newHost(dir)
	before, err := h.measure(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	got, err := h.measure(t.Context())
	if err == nil || got.DiskTotal != before.DiskTotal || got.MemoryTotal == 0 {
		t.Errorf("got %+v, %v; want the last disk, fresh memory and an error", got, err)
	}
}

func TestHowBusyTheCoresWere(t *testing.T) {
	busy, total := cpuSeconds(cpu.TimesStat{User: 4, System: 2, Nice: 1, Idle: 10, Iowait: 3, Irq: 0.5, Softirq: 0.25, Steal: 0.25, Guest: 2})
	if busy != 8 || total != 21 {
		t.Errorf("got %g of %g, want 8 of 21: a guest is counted as user already", busy, total)
	}
	for _, tt := range []struct{ part, whole, want float64 }{
		{1, 4, 25}, {0, 1, 0}, {0, 0, 33}, {-1, 2, 0}, {3, 2, 100},
	} {
		if got := percent(tt.part, tt.whole, 33); got != tt.want {
			t.Errorf("percent(%g, %g): got %g, want %g", tt.part, tt.whole, got, tt.want)
		}
	}
}
