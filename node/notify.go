package node

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notifier tells systemd that the node is ready, and that it is alive, where systemd has asked to be told.
type notifier struct {
	// ready is closed once the node answers.
	ready <-chan struct{}
	// alive says whether the node still makes progress; only then systemd is told so.
	alive  func(ctx context.Context) error
	logger *slog.Logger
}

// Run talks to systemd until ctx ends; without systemd it only waits.
func (n *notifier) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-n.ready:
	}
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		n.logger.Warn("systemd was not told that the node is ready", "error", err)
	}
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("systemd's watchdog: %w", err)
	}
	if interval > 0 {
		n.watchdog(ctx, interval/3)
	}
	<-ctx.Done()
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	return ctx.Err()
}

// watchdog reports life while the node is alive. When it is not, it stays silent and systemd starts the node anew; its
// jobs go on meanwhile.
func (n *notifier) watchdog(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		check, cancel := context.WithTimeout(ctx, every)
		if err := n.alive(check); err != nil && ctx.Err() == nil {
			n.logger.Error("the node is stuck; systemd is not told that it lives", "error", err)
		} else {
			_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog)
		}
		cancel()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
