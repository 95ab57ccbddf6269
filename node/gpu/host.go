package gpu

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/disk"
	"github.com/shirou/gopsutil/v4/mem"
)

// host measures the machine. It keeps the CPU times of the measurement before, because the library would keep them in a
// variable of its own that all monitors of a process share.
type host struct {
	dataDir string
	cores   int

	mu          sync.Mutex
	last        Host
	busy, total float64 // CPU seconds since boot
}

func newHost(dataDir string) *host {
	return &host{dataDir: dataDir, cores: runtime.NumCPU()}
}

// measure returns what could be learned; what could not keeps its last value, and the error says why.
func (h *host) measure(ctx context.Context) (Host, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last.Cores = h.cores
	err := errors.Join(h.measureCPU(ctx), h.measureMemory(ctx), h.measureDisk(ctx))
	return h.last, err
}

func (h *host) measureCPU(ctx context.Context) error {
	times, err := cpu.TimesWithContext(ctx, false)
	if err != nil {
		return fmt.Errorf("measure cpu: %w", err)
	}
	if len(times) == 0 {
		return errors.New("measure cpu: the kernel tells no times")
	}
	busy, total := cpuSeconds(times[0])
	if h.total > 0 {
		h.last.CPU = percent(busy-h.busy, total-h.total, h.last.CPU)
	}
	h.busy, h.total = busy, total
	return nil
}

// cpuSeconds sums up like top does: waiting for a disk is idle, and guests are already counted as user.
func cpuSeconds(t cpu.TimesStat) (busy, total float64) {
	busy = t.User + t.System + t.Nice + t.Irq + t.Softirq + t.Steal
	return busy, busy + t.Idle + t.Iowait
}

// percent is part of whole between 0 and 100, or before when no time has passed by the kernel's coarse clock.
func percent(part, whole, before float64) float64 {
	if whole <= 0 {
		return before
	}
	return min(max(100*part/whole, 0), 100)
}

func (h *host) measureMemory(ctx context.Context) error {
	v, err := mem.VirtualMemoryWithContext(ctx)
	if err != nil {
		return fmt.Errorf("measure memory: %w", err)
	}
	h.last.MemoryTotal = v.Total
	h.last.MemoryUsed = v.Total - min(v.Available, v.Total)
	return nil
}

func (h *host) measureDisk(ctx context.Context) error {
	if h.dataDir == "" {
		return nil
	}
	u, err := disk.UsageWithContext(ctx, h.dataDir)
	if err != nil {
		return fmt.Errorf("measure disk of %s: %w", h.dataDir, err)
	}
	h.last.DiskFree, h.last.DiskTotal = u.Free, u.Total
	return nil
}
