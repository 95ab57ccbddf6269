package gpu

import (
	"context"
	"slices"
	"time"
)

// State is how one GPU feels. The zero value is not a state.
type State string

// The states of a GPU, from usable to gone.
const (
	// OK is a card that answers.
	OK State = "ok"
	// Suspect is a card that has not answered within the deadline. It should get no new work and end no running work.
	Suspect State = "suspect"
	// Bad is a card that answers with an error that needs a person or a reset.
	Bad State = "bad"
	// Lost is a card that was here earlier in this process's life and is not any more.
	Lost State = "lost"
)

// Process is a program that computes on a GPU. Programs that only draw, such as a desktop, are not listed.
type Process struct {
	PID int `json:"pid"`
	// Name is the kernel's short name of the program; empty when the process cannot be seen, such as from a container.
	Name string `json:"name"`
	// User is the owner's login name, or the number of the user ID if it has none; empty when the process cannot be seen.
	User string `json:"user"`
	// MemoryUsed is in bytes of the GPU's memory; 0 when the driver does not tell.
	MemoryUsed uint64 `json:"memory_used"`
}

// GPU is one card as it was measured last.
type GPU struct {
	// UUID names the card for as long as it exists, in every machine: "GPU-…".
	UUID string `json:"uuid"`
	// Index is the driver's number at the time the card was first seen. It stays, and no two cards of a Reading share
	// one, even when another card falls off the bus and the driver counts anew.
	Index       int    `json:"index"`
	Name        string `json:"name"`
	State       State  `json:"state"`
	MemoryUsed  uint64 `json:"memory_used"`  // bytes
	MemoryTotal uint64 `json:"memory_total"` // bytes
	// Utilization is the percentage of the last sample period in which a kernel ran, 0 to 100.
	Utilization int       `json:"utilization"`
	Temperature float64   `json:"temperature"` // degrees Celsius
	Power       float64   `json:"power"`       // watts
	Processes   []Process `json:"processes"`
}

// Host is the machine around the GPUs.
type Host struct {
	// CPU is the percentage of all cores together that was busy since the measurement before, 0 to 100; 0 at the first.
	CPU         float64 `json:"cpu"`
	MemoryUsed  uint64  `json:"memory_used"`  // bytes that are not available to new programs
	MemoryTotal uint64  `json:"memory_total"` // bytes
	DiskFree    uint64  `json:"disk_free"`    // bytes that an ordinary user may still write into the data directory
	DiskTotal   uint64  `json:"disk_total"`   // bytes of the file system of the data directory
	Cores       int     `json:"cores"`        // logical cores that this process may use
}

// Reading is what was known at one moment.
type Reading struct {
	// GPUs are ordered by Index and never nil, nor are their Processes.
	GPUs []GPU `json:"gpus"`
	Host Host  `json:"host"`
	// Source is "nvml", "nvidia-smi", "simulated" or "none".
	Source string `json:"source"`
	// Taken is when the measurement ended, on the monotonic clock of this process; zero before the first.
	Taken time.Time `json:"-"`
}

// Age is how long ago the reading was taken.
func (r Reading) Age() time.Duration { return time.Since(r.Taken) }

// clone makes a copy that shares nothing with r.
func (r Reading) clone() Reading {
	r.GPUs = cloneGPUs(r.GPUs)
	return r
}

func cloneGPUs(gpus []GPU) []GPU {
	out := make([]GPU, len(gpus))
	for i, g := range gpus {
		g.Processes = append(make([]Process, 0, len(g.Processes)), g.Processes...)
		out[i] = g
	}
	return out
}

func byIndex(gpus []GPU) {
	slices.SortFunc(gpus, func(a, b GPU) int { return a.Index - b.Index })
}

// Source is where measurements come from. The Monitor never calls it from two goroutines at once, so it needs no locks.
type Source interface {
	// Name is one of the words of Reading.Source.
	Name() string
	// Probe measures all GPUs. A source may ignore the end of ctx when it is stuck in the kernel. GPUs together with an
	// error mean that those answered and something else did not; no GPUs and an error mean silence. A card in a state
	// other than OK may come without values, the last known ones are then kept.
	Probe(ctx context.Context) ([]GPU, error)
	// Close gives back what the source holds. It is not called while a Probe is under way.
	Close() error
}

// none is the source of a machine without GPUs.
type none struct{}

func (none) Name() string                         { return "none" }
func (none) Probe(context.Context) ([]GPU, error) { return nil, nil }
func (none) Close() error                         { return nil }
