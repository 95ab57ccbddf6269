package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

// Experiment is an experiment as every route shows it. Fields that have no value yet are null or empty, never absent.
type Experiment struct {
	ID       uint64       `json:"id"`
	Name     string       `json:"name"`
	Project  string       `json:"project"`
	User     string       `json:"user"`
	Status   fsm.Status   `json:"status"`
	Priority fsm.Priority `json:"priority"`
	// Reason says in one sentence why it waits, also while it is frozen in the middle of a run; empty when it does not.
	Reason string `json:"reason"`
	// Sweep is the number of the first experiment of its submission; null when it was submitted alone.
	Sweep  *uint64 `json:"sweep"`
	Params Params  `json:"params"`
	// Node is the name of the node of its newest attempt while that runs or after the end; NodeID its ID.
	Node   string   `json:"node"`
	NodeID string   `json:"node_id"`
	GPUs   []string `json:"gpus"` // UUIDs
	// Attempt is the number of the newest attempt, 0 before the first.
	Attempt  int       `json:"attempt"`
	Progress *Progress `json:"progress"`
	// ExitCode is that of the newest attempt, 128+n for signal n; null while there is none.
	ExitCode   *int       `json:"exit_code"`
	Class      fsm.Class  `json:"class"`
	Message    string     `json:"message"` // one sentence on how it ended, or why it is held
	Cancelling bool       `json:"cancelling"`
	Tags       []string   `json:"tags"`
	CreatedAt  time.Time  `json:"created_at"`
	StartedAt  *time.Time `json:"started_at"`
	EndedAt    *time.Time `json:"ended_at"`
	// FrozenSince is since when it stands still because its node has no word from the cluster; null when it does not.
	// Reason says so in a sentence then.
	FrozenSince *time.Time `json:"frozen_since"`
	// Index is the log index of its last change; it only grows.
	Index uint64 `json:"index"`
}

// Progress is how far a run is; Fraction is between 0 and 1.
type Progress struct {
	Epoch    int     `json:"epoch"`
	Epochs   int     `json:"epochs"`
	Fraction float64 `json:"fraction"`
}

// Detail is one experiment with everything that is known of it.
type Detail struct {
	Experiment
	Notes    string    `json:"notes"`
	Config   string    `json:"config"` // as submitted
	Spec     Spec      `json:"spec"`
	Attempts []Attempt `json:"attempts"`
	// Checkpoints are the newest published ones, newest first.
	Checkpoints []Checkpoint `json:"checkpoints"`
	Timeline    []Moment     `json:"timeline"`
}

// Spec is what an experiment asks for, in words people use.
type Spec struct {
	Command   []string          `json:"command"` // exec'ed as it is; empty for cvlab-kit and for a shell line
	Shell     string            `json:"shell"`
	Device    string            `json:"device"` // "auto", "cpu", "2 GPUs", with " on NODE" where one is named
	GPUs      int               `json:"gpus"`
	GPUMemory uint64            `json:"gpu_memory"` // bytes each
	Where     map[string]string `json:"where"`
	After     []uint64          `json:"after"`
	// TimeLimit is in seconds, 0 for none.
	TimeLimit     float64  `json:"time_limit_s"`
	Retries       int      `json:"retries"`
	MaxParallel   int      `json:"max_parallel"` // 0: no limit
	Env           []string `json:"env"`          // names only: values may be secrets
	Launcher      string   `json:"launcher"`
	OnContactLoss string   `json:"on_contact_loss"`
	Epochs        int      `json:"epochs"`
	Code          string   `json:"code"`
}

// Attempt is one try of an experiment.
type Attempt struct {
	Number     int              `json:"number"`
	Token      fsm.Token        `json:"token"`
	State      fsm.AttemptState `json:"state"`
	Node       string           `json:"node"`
	NodeID     string           `json:"node_id"`
	GPUs       []string         `json:"gpus"`
	AssignedAt time.Time        `json:"assigned_at"`
	StartedAt  *time.Time       `json:"started_at"`
	EndedAt    *time.Time       `json:"ended_at"`
	ExitCode   *int             `json:"exit_code"`
	Class      fsm.Class        `json:"class"`
	// Resumed is the checkpoint it went on from, null if it began anew.
	Resumed  *CheckpointRef `json:"resumed"`
	Sentence string         `json:"sentence"` // how it ended, or that it has not
	// FrozenSince is since when it stands still; null when it does not.
	FrozenSince *time.Time `json:"frozen_since"`
}

// Moment is one line of an experiment's timeline.
type Moment struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
}

// Params are the swept values of one experiment, in the order of the config; in JSON an object.
type Params []fsm.Param

// MarshalJSON writes an object whose keys keep their order.
func (p Params) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, v := range p {
		if i > 0 {
			b.WriteByte(',')
		}
		key, err := json.Marshal(v.Key)
		if err != nil {
			return nil, fmt.Errorf("encode parameter %q: %w", v.Key, err)
		}
		b.Write(key)
		b.WriteByte(':')
		b.Write(v.Value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// UnmarshalJSON reads an object and keeps the order of its keys.
func (p *Params) UnmarshalJSON(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return fmt.Errorf("decode parameters: want an object (%w)", errOr(err))
	}
	*p = Params{}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return fmt.Errorf("decode parameters: %w", err)
		}
		name, _ := key.(string)
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return fmt.Errorf("decode parameter %q: %w", name, err)
		}
		*p = append(*p, fsm.Param{Key: name, Value: value})
	}
	return nil
}

// AddRequest is the body of POST /api/queue/add and /api/queue/preview. Either Config or Command is needed; what is set
// here wins over the same thing in the config.
type AddRequest struct {
	Config   string `json:"config,omitempty"` // YAML text
	Priority string `json:"priority,omitempty"`
	Device   string `json:"device,omitempty"` // "any" is the same as empty
	Project  string `json:"project,omitempty"`
	Name     string `json:"name,omitempty"`
	Code     string `json:"code,omitempty"`
	// Key makes a repeat harmless; the header Idempotency-Key says the same.
	Key         string            `json:"key,omitempty"`
	Command     []string          `json:"command,omitempty"`
	Set         []string          `json:"set,omitempty"` // "key=value"
	GPUs        *int              `json:"gpus,omitempty"`
	Env         map[string]string `json:"env,omitempty"`
	After       []uint64          `json:"after,omitempty"`
	TimeLimit   Duration          `json:"time_limit,omitempty"`
	Retries     *int              `json:"retries,omitempty"`
	MaxParallel int               `json:"max_parallel,omitempty"`
	Hold        bool              `json:"hold,omitempty"`
}

// Added is the answer to an AddRequest. A preview has no Experiments but says what would be made.
type Added struct {
	Experiments []Experiment `json:"experiments"`
	// Sweep is set when more than one experiment was made: the number of the first.
	Sweep    *uint64   `json:"sweep,omitempty"`
	Warnings []Problem `json:"warnings,omitempty"`
	// Index is the log index of the submission (header X-Cvlab-Index).
	Index uint64 `json:"-"`
}

// Preview says what an AddRequest would make; nothing is stored.
type Preview struct {
	Count   int    `json:"count"`
	Name    string `json:"name"`
	Project string `json:"project"`
	// Experiments shows the first ones, without numbers.
	Experiments []PreviewItem `json:"experiments"`
	Spec        Spec          `json:"spec"`
	Warnings    []Problem     `json:"warnings"`
}

// PreviewItem is one experiment that would be made.
type PreviewItem struct {
	Ordinal int    `json:"ordinal"` // from 0
	Params  Params `json:"params"`
	// Config is the text that would be handed on; Command what would be started, empty where cvlab-kit runs.
	Config  string   `json:"config"`
	Command []string `json:"command"`
}

// Problem is one error or warning at a place of a config; Line and Column count from 1, 0 when there is no place.
type Problem struct {
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Key     string `json:"key"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// QueueQuery selects experiments for a list; the zero value lists all, newest first.
type QueueQuery struct {
	Status  []fsm.Status
	Project string
	User    string
	Node    string // name or ID
	Sweep   uint64
	Text    string // in name, project, user, tags, notes, number and params; case does not matter
	// Sort is one of id, name, project, user, status, priority, created, started, ended, queue (what runs and waits, in the
	// order of the planner); a leading "-" turns it round. Empty is "-id".
	Sort   string
	Limit  int // 1 to 1000; 0 is 50
	Cursor string
}

// Queue is one page of experiments.
type Queue struct {
	Experiments []Experiment `json:"experiments"`
	// Next is the cursor of the next page, empty on the last.
	Next string `json:"next"`
	// Counts are the experiments in each status that match everything but the status asked for.
	Counts map[fsm.Status]int `json:"counts"`
}

// Patch changes what people may change; nil means unchanged.
type Patch struct {
	Priority *string   `json:"priority,omitempty"`
	Name     *string   `json:"name,omitempty"`
	Tags     *[]string `json:"tags,omitempty"`
	Notes    *string   `json:"notes,omitempty"`
}

// BulkRequest does one thing to many experiments: those numbered in IDs, or else those that Select finds.
type BulkRequest struct {
	// Action is cancel, retry, hold, release or patch.
	Action string      `json:"action"`
	IDs    []uint64    `json:"ids,omitempty"`
	Select *BulkSelect `json:"select,omitempty"`
	Patch  *Patch      `json:"patch,omitempty"`
	Reason string      `json:"reason,omitempty"` // of a cancel or hold
}

// BulkSelect finds experiments; at least one field must be set.
type BulkSelect struct {
	Project string       `json:"project,omitempty"`
	Status  []fsm.Status `json:"status,omitempty"`
	User    string       `json:"user,omitempty"`
	Sweep   uint64       `json:"sweep,omitempty"`
}

// Changed is the answer to an action on experiments.
type Changed struct {
	// Experiments are the numbers of those that were changed.
	Experiments []uint64 `json:"experiments"`
	// Message names the others and why they were not; empty when all were.
	Message string `json:"message"`
	Index   uint64 `json:"-"`
}

// Explanation says why an experiment waits and what would start it.
type Explanation struct {
	ID     uint64     `json:"id"`
	Status fsm.Status `json:"status"`
	// Sentence is the whole answer in one sentence.
	Sentence string `json:"sentence"`
	// Nodes says for each node why it does not take the experiment now.
	Nodes []NodeReason `json:"nodes"`
	// Blocking are the numbers of experiments that it waits for.
	Blocking []uint64 `json:"blocking"`
	// Start says what would start it now; empty when nothing has to happen.
	Start string `json:"start"`
}

// NodeReason is why one node does not take an experiment.
type NodeReason struct {
	Node     string `json:"node"` // ID
	Name     string `json:"name"`
	Sentence string `json:"sentence"`
}
