package worker

import (
	"context"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

// preemptWait is how long a checkpoint may take that was asked for because the attempt is to go on elsewhere: time to write
// some tens of GB to a local disk, and no more than a person with a hand on the plug waits for.
const preemptWait = 60 * time.Second

// untilCheckpoint asks the attempt for a checkpoint and waits until one that is newer is published, until preemptWait is
// over, or until a cancel asks for less. It says in words what became of it.
func (w *Worker) untilCheckpoint(ctx context.Context, token fsm.Token, t *task) string {
	w.log(ctx, token, "preempted, asking for a checkpoint", "why", t.why)
	limit := time.NewTimer(preemptWait)
	defer limit.Stop()
	before := w.published(token, t)
	for {
		reached, err := w.o.Processes.Signal(ctx, token.String(), "SIGUSR1")
		if err == nil && reached == 0 {
			return "it has no handler for SIGUSR1, so no checkpoint was asked for"
		}
		if err == nil {
			break
		}
		w.log(ctx, token, "the supervisor was not reached; asking again", "error", err)
		select {
		case <-ctx.Done():
			return ""
		case <-t.cancel:
			return ""
		case <-limit.C:
			return "no checkpoint was written, since its supervisor did not answer"
		case <-time.After(time.Second):
		}
	}
	for {
		changed := w.o.Cluster.State().Changed()
		if w.published(token, t) > before {
			return "a checkpoint was written"
		}
		select {
		case <-ctx.Done():
			return ""
		case <-t.cancel:
			return ""
		case <-limit.C:
			return "no checkpoint was written within " + preemptWait.String()
		case <-changed:
		}
	}
}

// published gives the number of the attempt's newest checkpoint that this machine's replica knows, 0 for none.
func (w *Worker) published(token fsm.Token, t *task) uint64 {
	for _, c := range w.o.Cluster.State().View().Checkpoints(t.about.experiment) {
		if c.Token == token {
			return c.Seq
		}
	}
	return 0
}
