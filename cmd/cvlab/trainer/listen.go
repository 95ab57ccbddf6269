package trainer

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"
)

// stopError says that the run was told to stop and by whom.
type stopError struct {
	by   string
	code int // 128 + the signal's number
}

func (e *stopError) Error() string { return "stopped by " + e.by }

// listen waits for d and does what signals ask for meanwhile; with d at or below zero it only does what has come already.
// It is called between two batches only, so a checkpoint is always of a whole step.
func (r *run) listen(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(max(d, 0))
	defer timer.Stop()
	for {
		select { // what has come goes before the time that is over
		case s := <-r.signals:
			if err := r.handle(s); err != nil {
				return err
			}
			continue
		default:
		}
		if ctx.Err() != nil {
			return r.stop(&stopError{by: context.Cause(ctx).Error(), code: 128 + int(syscall.SIGTERM)})
		}
		if d <= 0 {
			return nil
		}
		select {
		case s := <-r.signals:
			if err := r.handle(s); err != nil {
				return err
			}
		case <-ctx.Done():
		case <-timer.C:
			return nil
		}
	}
}

func (r *run) handle(s os.Signal) error {
	switch s {
	case syscall.SIGUSR1:
		fmt.Fprintln(r.stderr) // the bar's line is open
		return r.save()
	case os.Interrupt:
		return r.stop(&stopError{by: "SIGINT", code: 128 + int(syscall.SIGINT)})
	case syscall.SIGTERM:
		return r.stop(&stopError{by: "SIGTERM", code: 128 + int(syscall.SIGTERM)})
	}
	return nil
}

// stop saves and returns why the run ends. A checkpoint that cannot be written is said, but does not keep the run from ending.
func (r *run) stop(why *stopError) error {
	fmt.Fprintln(r.stderr)
	if err := r.save(); err != nil {
		fmt.Fprintf(r.stderr, "RuntimeError: %v\n", err)
	}
	return why
}
