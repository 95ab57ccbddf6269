package gpu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
)

// MaxSimulated is how many GPUs can be pretended at most.
const MaxSimulated = 64

// Options say where measurements come from. The zero value looks for real GPUs.
type Options struct {
	// Simulated makes that many pretended GPUs, 0 to MaxSimulated; real ones are not looked for then.
	Simulated int
	// SimulatedFile describes pretended GPUs, see DESIGN.md. It is read again at every measurement, so that editing it
	// breaks a GPU. It may be missing if Simulated is given; its "count" wins over Simulated.
	SimulatedFile string
	// NodeID makes the UUIDs of pretended GPUs differ between machines; the first 8 characters count.
	NodeID string
	// Held returns the UUIDs of GPUs that jobs hold now. Pretended GPUs are busy then. It must be quick and may be nil.
	Held func() []string
	// DataDir is the directory whose disk is measured; empty measures none.
	DataDir string
	// Logger must not be nil.
	Logger *slog.Logger
}

// Open picks a source and says in the log which: pretended GPUs when asked for, else NVML, else nvidia-smi, else none.
// It does not ask the driver anything yet, so it does not hang; nothing runs until Run or Measure. The caller closes the
// Monitor. A description of pretended GPUs that cannot be read is an error here, later it only makes them suspect.
func Open(ctx context.Context, o Options) (*Monitor, error) {
	if o.Logger == nil {
		return nil, errors.New("open gpu monitor: no logger given")
	}
	log := o.Logger.With("component", "gpu")
	s, err := pick(o, log, openNVML)
	if err != nil {
		return nil, fmt.Errorf("open gpu monitor: %w", err)
	}
	m := newMonitor(s, newHost(o.DataDir), log)
	m.measureHost(ctx)
	return m, nil
}

func pick(o Options, log *slog.Logger, nvml func() (Source, error)) (Source, error) {
	if o.Simulated != 0 || o.SimulatedFile != "" {
		s, err := newSimulated(o)
		if err != nil {
			return nil, err
		}
		log.Info("GPUs are simulated", "file", o.SimulatedFile)
		return s, nil
	}
	s, why := nvml()
	if why == nil {
		log.Info("GPUs are measured by NVML")
		return s, nil
	}
	path, err := exec.LookPath("nvidia-smi")
	if err == nil {
		log.Info("GPUs are measured by nvidia-smi", "path", path, "nvml", why)
		return newSMI(path), nil
	}
	log.Info("no NVIDIA GPU on this machine: neither NVML nor nvidia-smi is here; it runs experiments without a GPU", "nvml", why)
	return none{}, nil
}
