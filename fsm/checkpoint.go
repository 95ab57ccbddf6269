package fsm

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Checkpoint is one whole checkpoint of an experiment. Its files lie in the run directory of the attempt that wrote it; the
// facts say where, and how to tell that a copy of them is whole.
type Checkpoint struct {
	Experiment uint64 `json:"experiment"`
	Token      Token  `json:"token"`
	Attempt    int    `json:"attempt"`
	Seq        uint64 `json:"seq"`  // grows within the attempt
	Node       string `json:"node"` // that wrote it
	// Path is the file or directory below the run directory, with slashes.
	Path string `json:"path"`
	// Files and Size (bytes) are those of everything below Path.
	Files int    `json:"files"`
	Size  uint64 `json:"size"`
	// Digest is the SHA-256, in hex, of the manifest of those files.
	Digest string    `json:"digest"`
	At     time.Time `json:"at"`
}

// Publish makes a checkpoint known that an attempt has written whole. Only the current attempt may publish, while it is
// started: what a replaced one writes is never resumed from (rule R8).
type Publish struct {
	Token  Token  `json:"token"`
	Node   string `json:"node"`
	Seq    uint64 `json:"seq"`
	Path   string `json:"path"`
	Files  int    `json:"files"`
	Size   uint64 `json:"size"`
	Digest string `json:"digest"`
}

// Limits of published checkpoints.
const (
	// KeptCheckpoints is how many of an experiment the facts remember: the newest may turn out unreadable.
	KeptCheckpoints = 8
	// MaxCheckpointPath is the length of a path in bytes.
	MaxCheckpointPath = 512
)

// Kind implements Command.
func (*Publish) Kind() string { return "publish" }

func (c *Publish) apply(t *tx) Result {
	if why := c.malformed(); why != "" {
		return refuse(Invalid, why)
	}
	a, refused := t.attemptOf(c.Token, c.Node)
	if a == nil {
		return refused
	}
	if a.Rank(c.Node) > 0 {
		return refuse(Forbidden, fmt.Sprintf("rank 0 publishes the checkpoints of attempt %s", a.Token))
	}
	e := t.experiment(a.Experiment)
	state := a.State
	if !a.On(c.Node).Open() {
		state = AttemptEnded // rank 0 of a gang has, the others go on
	}
	if state != AttemptStarted || e.Token != c.Token {
		return refuse(Conflict, fmt.Sprintf("attempt %s is %s; only the one that runs may publish a checkpoint", a.Token, state))
	}
	p := &Checkpoint{
		Experiment: e.ID, Token: c.Token, Attempt: a.Number, Seq: c.Seq, Node: c.Node, Path: c.Path, Files: c.Files, Size: c.Size,
		Digest: c.Digest, At: t.now,
	}
	known := t.view().Checkpoints(e.ID)
	if len(known) > 0 && known[0].Token == c.Token && known[0].Seq >= c.Seq {
		return c.repeated(known)
	}
	t.put(tableCheckpoints, p)
	for _, old := range known[min(len(known), KeptCheckpoints-1):] {
		t.drop(tableCheckpoints, old)
	}
	t.putExperiment(e) // who follows the experiment learns of it
	return ok()
}

// repeated answers for a number that is not newer than the newest of the attempt.
func (c *Publish) repeated(known []*Checkpoint) Result {
	i := slices.IndexFunc(known, func(p *Checkpoint) bool { return p.Token == c.Token && p.Seq == c.Seq })
	if i >= 0 && known[i].Digest == c.Digest && known[i].Path == c.Path {
		return ok()
	}
	return refuse(Conflict, fmt.Sprintf("checkpoint %d of attempt %s comes after number %d", c.Seq, c.Token, known[0].Seq))
}

func (c *Publish) malformed() string {
	digest, err := hex.DecodeString(c.Digest)
	switch {
	case c.Seq == 0:
		return "checkpoints are counted from 1"
	case c.Files < 1:
		return "a checkpoint has at least one file"
	case err != nil || len(digest) != 32:
		return "the digest of a checkpoint is a SHA-256 in hex"
	case c.Path == "" || len(c.Path) > MaxCheckpointPath || strings.Contains(c.Path, "\x00"):
		return fmt.Sprintf("the path of a checkpoint has 1 to %d bytes", MaxCheckpointPath)
	}
	for part := range strings.SplitSeq(c.Path, "/") {
		if part == "" || part == "." || part == ".." {
			return fmt.Sprintf("%q is no path below the run directory", c.Path)
		}
	}
	return ""
}

// Checkpoints gives the newest published checkpoints of an experiment, newest first, at most KeptCheckpoints.
func (v View) Checkpoints(experiment uint64) []*Checkpoint {
	list := slices.Collect(all[Checkpoint](v.txn, tableCheckpoints, "id_prefix", be(experiment)))
	slices.Reverse(list)
	return list
}
