package node

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/node/gpu"
)

// announcer keeps this node's entry in the registry equal to what the machine is.
type announcer struct {
	// announce writes the entry if it differs.
	announce func(ctx context.Context) error
	// changed gives a channel that is closed when the inventory changes.
	changed func() <-chan struct{}
	logger  *slog.Logger
}

// Run announces whenever the inventory has changed, until ctx ends. The seat itself does so after every start.
func (a *announcer) Run(ctx context.Context) error {
	for {
		changed := a.changed()
		var again <-chan time.Time
		if err := a.announce(ctx); err != nil && ctx.Err() == nil {
			a.logger.DebugContext(ctx, "the inventory was not announced; trying again", "error", err)
			again = time.After(time.Second)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-again:
		}
	}
}

// inventory is what the registry knows of the GPUs.
func inventory(r gpu.Reading) []fsm.GPU {
	var gpus []fsm.GPU
	for _, g := range r.GPUs {
		gpus = append(gpus, fsm.GPU{UUID: g.UUID, Index: g.Index, Name: g.Name, Memory: g.MemoryTotal})
	}
	return gpus
}

// bootID names this boot of the machine: after a restart it is another one, and nothing that ran before runs any more.
func bootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot ID: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}
