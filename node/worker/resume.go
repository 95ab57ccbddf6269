package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/deveronica/cvlab/executor"
	"github.com/deveronica/cvlab/fsm"
)

// Checkpoints brings published checkpoints to this machine, from wherever a whole copy is.
type Checkpoints interface {
	// Fetch copies a checkpoint into the directory into, which it makes, and returns when every byte of the copy is what was
	// published. The copy is nobody else's: what any other process writes elsewhere never changes it. It gives up within
	// seconds on a machine that says nothing, and takes as long as it needs while bytes come. After an error into may be
	// there, half filled; the error wraps ErrWrite if the place is to blame and not the checkpoint.
	Fetch(ctx context.Context, k fsm.Checkpoint, into string) error
}

// Names in the run directory of an attempt that goes on from a checkpoint.
const (
	resumeDir  = "resume"
	resumeFile = "resume.json" // what it goes on from, as fsm.Resumed
)

// resume brings the newest published checkpoint of the experiment that can be read whole to the attempt's own directory and tells
// the job where it is. What is damaged or cannot be reached is passed over; if nothing is left, the attempt begins anew.
func (w *Worker) resume(ctx context.Context, o Order, job *executor.Job, t *task) error {
	if o.Attempt.Number <= 1 || w.o.Checkpoints == nil {
		return nil
	}
	token := o.Attempt.Token
	w.hold(token, job.Lease, w.o.Boottime()) // a copy may take long, and the leader takes back what says nothing
	g, ctx := errgroup.WithContext(ctx)
	fetched := make(chan struct{})
	g.Go(func() error { return w.whileWanted(ctx, token, fetched) })
	g.Go(func() error {
		defer close(fetched)
		at, from, err := w.fetchNewest(ctx, o, job.Dir)
		if at != "" {
			t.resumed = from
			job.Env = append(job.Env, "CVLAB_RESUME_FROM="+at)
		}
		return err
	})
	if err := g.Wait(); err != nil {
		// Half a checkpoint may be many GB, and nobody will come for it.
		return errors.Join(err, os.RemoveAll(filepath.Join(job.Dir, resumeDir)))
	}
	return nil
}

// whileWanted fails as soon as the attempt is closed before done.
func (w *Worker) whileWanted(ctx context.Context, token fsm.Token, done <-chan struct{}) error {
	for {
		changed := w.o.Cluster.State().Changed()
		if w.over(token) {
			return errClosed
		}
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// fetchNewest tries the checkpoints that the attempt may go on from. It gives where the copy is, "" for none.
func (w *Worker) fetchNewest(ctx context.Context, o Order, dir string) (at string, from *fsm.Resumed, err error) {
	list, must, err := w.origins(ctx, o)
	if err != nil {
		return "", nil, err
	}
	into := filepath.Join(dir, resumeDir)
	for _, k := range list {
		if err := makePlace(dir); err != nil {
			return "", nil, err
		}
		taken, err := w.fetch(ctx, o.Attempt.Token, k, into)
		if err != nil {
			return "", nil, err
		}
		if !taken {
			continue
		}
		from := &fsm.Resumed{Token: k.Token, Seq: k.Seq}
		if err := writeResumed(dir, from); err != nil {
			return "", nil, err
		}
		return filepath.Join(into, path.Base(k.Path)), from, nil
	}
	if must != nil {
		return "", nil, fmt.Errorf("rank 0 goes on from checkpoint %d of %s, which cannot be brought here", must.Seq, must.Token)
	}
	return "", nil, makePlace(dir)
}

// origins gives the checkpoints to try, newest first. Of a gang rank 0 decides, with its Start: the others go on from the same
// one, must, or not at all.
func (w *Worker) origins(ctx context.Context, o Order) (list []*fsm.Checkpoint, must *fsm.Resumed, err error) {
	// The order may be ahead of this machine's replica. A replica that has the Assign has everything before it: what the
	// attempts before have published, to the last.
	token, follows := o.Attempt.Token, o.Attempt.Rank(w.o.Cluster.ID()) > 0
	known := w.await(ctx, func(v fsm.View) bool {
		a := v.Attempt(token)
		return a != nil && (!follows || a.Parts()[0].State() != fsm.AttemptAssigned)
	})
	if !known {
		return nil, nil, context.Cause(ctx)
	}
	v := w.o.Cluster.State().View()
	if follows {
		if must = v.Attempt(token).Resumed; must == nil {
			return nil, nil, nil
		}
	}
	for _, k := range v.Checkpoints(o.Experiment.ID) {
		if k.Token.Less(token) && (must == nil || *must == fsm.Resumed{Token: k.Token, Seq: k.Seq}) {
			list = append(list, k)
		}
	}
	return list, must, nil
}

// fetch tries one checkpoint and says whether it is here now. An error means that none should be tried.
func (w *Worker) fetch(ctx context.Context, token fsm.Token, k *fsm.Checkpoint, into string) (taken bool, err error) {
	begun := time.Now()
	err = w.o.Checkpoints.Fetch(ctx, *k, into)
	about := []any{"checkpoint", k.Path, "of_attempt", k.Attempt, "seq", k.Seq, "node", k.Node, "bytes", k.Size}
	switch {
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case errors.Is(err, ErrWrite):
		// To begin anew because of a full disk would cost more than to wait for its owner.
		return false, fmt.Errorf("copy the checkpoint %s of attempt %d: %w", k.Path, k.Attempt, err)
	case err != nil:
		w.log(ctx, token, "cannot resume from this checkpoint, trying the one before", append(about, "why", err)...)
		return false, nil
	}
	w.log(ctx, token, "resumes", append(about, "took", time.Since(begun).Round(time.Millisecond))...)
	return true, nil
}

// makePlace removes what an earlier try or daemon has left.
func makePlace(dir string) error {
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, resumeDir)), remove(filepath.Join(dir, resumeFile))); err != nil {
		return fmt.Errorf("make place for a checkpoint: %w", err)
	}
	return nil
}

// await waits until this machine's replica shows something, and says whether it does.
func (w *Worker) await(ctx context.Context, shows func(fsm.View) bool) bool {
	for {
		changed := w.o.Cluster.State().Changed()
		if shows(w.o.Cluster.State().View()) {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-changed:
		}
	}
}

func writeResumed(dir string, from *fsm.Resumed) error {
	data, err := json.Marshal(from)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, resumeFile), data, 0o644)
	}
	if err != nil {
		return fmt.Errorf("write what it resumes from: %w", err)
	}
	return nil
}

// resumedFrom is what a prepared attempt goes on from, for a daemon that has not prepared it itself. Its job has not run, so
// the file is ours.
func (w *Worker) resumedFrom(experiment uint64, attempt int) *fsm.Resumed {
	data, err := os.ReadFile(filepath.Join(w.runDir(experiment, attempt), resumeFile))
	var from fsm.Resumed
	if err != nil || json.Unmarshal(data, &from) != nil || from.Seq == 0 || from.Token.IsZero() {
		return nil
	}
	return &from
}

// dropCopy removes what an ended attempt began from: it is as large as a checkpoint, and the original is elsewhere. It stays if the job
// has published something out of it.
func (w *Worker) dropCopy(ctx context.Context, token fsm.Token) {
	v := w.o.Cluster.State().View()
	a := v.Attempt(token)
	if a == nil || a.Resumed == nil {
		return
	}
	if p := a.On(w.o.Cluster.ID()); p == nil || p.Open() {
		return
	}
	for _, k := range v.Checkpoints(a.Experiment) {
		if k.Token == token && (k.Path == resumeDir || strings.HasPrefix(k.Path, resumeDir+"/")) {
			return
		}
	}
	if err := os.RemoveAll(filepath.Join(w.runDir(a.Experiment, a.Number), resumeDir)); err != nil {
		w.log(ctx, token, "the checkpoint it began from could not be removed", "error", err)
	}
}

func (w *Worker) runDir(experiment uint64, attempt int) string {
	return filepath.Join(w.o.RunsDir, strconv.FormatUint(experiment, 10), strconv.Itoa(attempt))
}
