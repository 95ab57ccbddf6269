package api

import (
	"cmp"
	"context"
	"net/http"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

// Checkpoint is one published checkpoint of an experiment. The files may be gone from their node since.
type Checkpoint struct {
	Attempt int       `json:"attempt"`
	Seq     uint64    `json:"seq"` // grows within the attempt
	Token   fsm.Token `json:"token"`
	Node    string    `json:"node"` // that wrote it
	NodeID  string    `json:"node_id"`
	Path    string    `json:"path"` // below the run directory
	Files   int       `json:"files"`
	Size    uint64    `json:"size"`   // bytes of all files
	Digest  string    `json:"digest"` // SHA-256, in hex, of the list of its files
	At      time.Time `json:"at"`
}

// CheckpointRef names a checkpoint that an attempt went on from.
type CheckpointRef struct {
	Attempt int       `json:"attempt"`
	Token   fsm.Token `json:"token"`
	Seq     uint64    `json:"seq"`
}

type checkpointsAnswer struct {
	Checkpoints []Checkpoint `json:"checkpoints"`
}

func (s *Server) checkpoints(w http.ResponseWriter, r *http.Request) error {
	sh := newShower(s.o.Cluster.State().View())
	e, err := sh.named(r)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, checkpointsAnswer{sh.checkpoints(e.ID)})
}

// checkpoints gives what the facts remember, newest first.
func (s *shower) checkpoints(experiment uint64) []Checkpoint {
	shown := []Checkpoint{}
	for _, k := range s.view.Checkpoints(experiment) {
		shown = append(shown, Checkpoint{
			Attempt: k.Attempt, Seq: k.Seq, Token: k.Token, Node: cmp.Or(s.nodeName(k.Node), k.Node), NodeID: k.Node, Path: k.Path,
			Files: k.Files, Size: k.Size, Digest: k.Digest, At: k.At,
		})
	}
	return shown
}

func (s *shower) resumed(r *fsm.Resumed) *CheckpointRef {
	if r == nil {
		return nil
	}
	ref := &CheckpointRef{Token: r.Token, Seq: r.Seq}
	if a := s.view.Attempt(r.Token); a != nil {
		ref.Attempt = a.Number
	}
	return ref
}

// Checkpoints lists the newest published checkpoints of an experiment, newest first.
func (c *Client) Checkpoints(ctx context.Context, id uint64) ([]Checkpoint, error) {
	var out checkpointsAnswer
	_, err := c.do(ctx, call{method: http.MethodGet, path: queuePath(id, "/checkpoints"), out: &out})
	return out.Checkpoints, err
}
