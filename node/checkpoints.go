package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/node/worker"
)

// checkpoints brings published checkpoints to this machine, from the first of its sources that has a whole copy.
type checkpoints struct {
	sources []checkpointSource
	logger  *slog.Logger
}

// checkpointSource is one place where copies of checkpoints are.
type checkpointSource interface {
	// Fetch is that of worker.Checkpoints. An error wraps errElsewhere if the checkpoint is none of this source's.
	Fetch(ctx context.Context, k fsm.Checkpoint, into string, progress func(bytes int64)) error
}

var errElsewhere = errors.New("the checkpoint is not in this place")

func newCheckpoints(self string, stored worker.Store, p *peers, logger *slog.Logger) *checkpoints {
	return &checkpoints{sources: []checkpointSource{ownCheckpoints{self, stored}, writersCheckpoints{self, p}}, logger: logger}
}

// tellProgress is how often a long copy says how far it is.
const tellProgress = 10 * time.Second

// Fetch implements worker.Checkpoints.
func (c *checkpoints) Fetch(ctx context.Context, k fsm.Checkpoint, into string) error {
	var errs []error
	for _, s := range c.sources {
		done, told := int64(0), time.Now()
		err := s.Fetch(ctx, k, into, func(n int64) {
			if done += n; time.Since(told) >= tellProgress {
				told = time.Now()
				c.logger.InfoContext(ctx, "copying a checkpoint", "token", k.Token, "seq", k.Seq, "bytes", done, "of", k.Size)
			}
		})
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errElsewhere):
			continue
		case ctx.Err() != nil || errors.Is(err, worker.ErrWrite):
			return err
		}
		errs = append(errs, err)
		if err := os.RemoveAll(into); err != nil { // the next source begins anew
			return fmt.Errorf("make place for a checkpoint: %w: %w", worker.ErrWrite, err)
		}
	}
	if len(errs) == 0 {
		return fmt.Errorf("fetch checkpoint %d of %s: %w", k.Seq, k.Token, errElsewhere)
	}
	return errors.Join(errs...)
}

// ownCheckpoints are those that attempts of this machine have written.
type ownCheckpoints struct {
	self   string
	stored worker.Store
}

// Fetch implements checkpointSource.
func (o ownCheckpoints) Fetch(ctx context.Context, k fsm.Checkpoint, into string, progress func(int64)) error {
	if k.Node != o.self {
		return errElsewhere
	}
	return o.stored.Copy(ctx, k, into, progress)
}

// writersCheckpoints asks the machine that wrote a checkpoint.
type writersCheckpoints struct {
	self  string
	peers *peers
}

// How long another machine may be silent: before it answers, which needs nothing but a small file, and between two pieces of what
// it sends, while its disk may be busy. The start of the attempt waits for it.
const (
	checkpointAnswer = 3 * time.Second
	checkpointStall  = 10 * time.Second
)

var errSilent = errors.New("the machine that wrote it does not answer")

// Fetch implements checkpointSource.
func (w writersCheckpoints) Fetch(ctx context.Context, k fsm.Checkpoint, into string, progress func(int64)) error {
	if k.Node == w.self {
		return errElsewhere
	}
	asked, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(checkpointAnswer, func() { cancel(errSilent) })
	defer silence.Stop()
	question, err := json.Marshal(k)
	if err != nil {
		return fmt.Errorf("fetch a checkpoint: %w", err)
	}
	resp, err := w.peers.get(asked, k.Node, "/checkpoint", url.Values{"checkpoint": {string(question)}})
	if err != nil {
		return silent(asked, err)
	}
	defer resp.Body.Close()
	silence.Reset(checkpointStall)
	size, err := strconv.ParseInt(resp.Header.Get("X-Manifest"), 10, 64)
	if err != nil {
		return fmt.Errorf("fetch a checkpoint from node %s: read the size of its manifest: %w", k.Node, err)
	}
	err = worker.Receive(asked, k, size, resp.Body, into, func(n int64) {
		silence.Reset(checkpointStall)
		progress(n)
	})
	if err != nil {
		return silent(asked, fmt.Errorf("fetch a checkpoint from node %s: %w", k.Node, err))
	}
	return nil
}

// silent says so when an error comes from nothing but silence.
func silent(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errSilent) {
		return fmt.Errorf("%w: %w", errSilent, err)
	}
	return err
}

// checkpoint answers another node's question: the manifest, then the files in its order. The length is said in advance, so a
// file that has become shorter or unreadable breaks the answer off; one that has changed is seen by the one who asked.
func (s *peerServer) checkpoint(w http.ResponseWriter, r *http.Request) {
	var k fsm.Checkpoint
	if err := json.Unmarshal([]byte(r.URL.Query().Get("checkpoint")), &k); err != nil {
		http.Error(w, "checkpoint: "+err.Error(), http.StatusBadRequest)
		return
	}
	stored, err := s.stored.Open(k)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	defer stored.Close()
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("X-Manifest", strconv.Itoa(len(stored.Encoded)))
	h.Set("Content-Length", strconv.FormatUint(uint64(len(stored.Encoded))+stored.Manifest.Size(), 10))
	if _, err := w.Write(stored.Encoded); err != nil {
		return // the one who asked has gone
	}
	for _, f := range stored.Manifest.Files {
		if err := sendFile(w, stored, f); err != nil {
			s.logger.InfoContext(r.Context(), "a checkpoint was not sent to its end", "token", k.Token, "seq", k.Seq, "error", err)
			return
		}
	}
}

func sendFile(w io.Writer, stored *worker.Stored, f worker.ManifestFile) error {
	file, err := stored.File(f)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := io.CopyN(w, file, int64(f.Size)); err != nil {
		return fmt.Errorf("send %s: %w", f.Path, err)
	}
	return nil
}
