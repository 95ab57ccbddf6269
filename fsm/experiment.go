package fsm

import "time"

// Status is where an experiment stands.
type Status string

// The states of an experiment: pending → running → completed | failed | cancelled. A retry or a lost machine takes it
// back to pending with a new attempt; held waits for a person.
const (
	Pending   Status = "pending"
	Running   Status = "running"
	Completed Status = "completed"
	Failed    Status = "failed"
	Cancelled Status = "cancelled"
	Held      Status = "held"
)

// Statuses lists all of them in the order people read them.
func Statuses() []Status { return []Status{Pending, Running, Completed, Failed, Cancelled, Held} }

// Ended says whether nothing more happens by itself.
func (s Status) Ended() bool { return s == Completed || s == Failed || s == Cancelled }

// Class is the one reason why an attempt ended.
type Class string

// The classes. UserError, the two out-of-memory classes, TimeLimit and StartFailed spend the experiment's own retries;
// GPUFault, NodeLost, Preempted and SupervisorLost are the infrastructure's and have a budget of their own.
const (
	ClassCompleted      Class = "completed"
	ClassUserError      Class = "user error"
	ClassHostOOM        Class = "host OOM"
	ClassGPUOOM         Class = "GPU OOM"
	ClassGPUFault       Class = "GPU fault"
	ClassTimeLimit      Class = "time limit"
	ClassCancelled      Class = "cancelled"
	ClassPreempted      Class = "preempted"
	ClassNodeLost       Class = "node lost"
	ClassSupervisorLost Class = "supervisor lost"
	ClassStartFailed    Class = "start failed"
)

// Infrastructure says whether the class is no fault of the user's.
func (c Class) Infrastructure() bool {
	switch c {
	case ClassGPUFault, ClassNodeLost, ClassPreempted, ClassSupervisorLost:
		return true
	}
	return false
}

// Valid says whether the class is one of the list.
func (c Class) Valid() bool {
	switch c {
	case ClassCompleted, ClassUserError, ClassHostOOM, ClassGPUOOM, ClassGPUFault, ClassTimeLimit, ClassCancelled,
		ClassPreempted, ClassNodeLost, ClassSupervisorLost, ClassStartFailed:
		return true
	}
	return false
}

// Batch is one submission: the spec its experiments share.
type Batch struct {
	// ID is the number of its first experiment; the others follow without a gap.
	ID    uint64 `json:"id"`
	Count int    `json:"count"`
	User  string `json:"user"`
	Spec  Spec   `json:"spec"`
}

// Experiment is one thing to run, numbered 1, 2, 3 … by the state machine.
type Experiment struct {
	ID      uint64 `json:"id"`
	Batch   uint64 `json:"batch"`
	Ordinal int    `json:"ordinal"` // position in the batch, from 0

	Name     string   `json:"name"`
	Project  string   `json:"project"`
	User     string   `json:"user"`
	Tags     []string `json:"tags,omitempty"`
	Notes    string   `json:"notes,omitempty"`
	Status   Status   `json:"status"`
	Priority Priority `json:"priority"`

	// Attempts is the number of the newest attempt, which counts those made; Token names it.
	Attempts int   `json:"attempts,omitempty"`
	Token    Token `json:"token,omitzero"`
	// Cancelling is set from a cancel of a running experiment until its attempt has ended.
	Cancelling bool `json:"cancelling,omitempty"`
	// Failures and Losses are the spent parts of the user's and the infrastructure's retry budgets.
	Failures int `json:"failures,omitempty"`
	Losses   int `json:"losses,omitempty"`
	// Downed are the nodes, and the GPUs that failed under it, that were lost with one of its attempts on them, each once.
	Downed []string `json:"downed,omitempty"`
	// NotBefore is the earliest time of the next attempt; AvoidNode is where the last one was lost.
	NotBefore time.Time `json:"not_before,omitzero"`
	AvoidNode string    `json:"avoid_node,omitempty"`

	ExitCode *int   `json:"exit_code,omitempty"`
	Class    Class  `json:"class,omitempty"`
	Message  string `json:"message,omitempty"` // one sentence on how it ended, or why it is held

	CreatedAt time.Time `json:"created_at"`
	StartedAt time.Time `json:"started_at,omitzero"`
	EndedAt   time.Time `json:"ended_at,omitzero"`

	// ModifyIndex is the log index of the last change, unique to the entry; lists of changes are read by it.
	ModifyIndex uint64 `json:"modify_index"`
}

// AttemptState is where an attempt stands.
type AttemptState string

// An attempt is assigned by the leader, started by its node, then ended with a class. Only assigned and started are open.
const (
	AttemptAssigned AttemptState = "assigned"
	AttemptStarted  AttemptState = "started"
	AttemptEnded    AttemptState = "ended"
)

// Attempt is one try of an experiment: on one node, or on several as a gang.
type Attempt struct {
	Token      Token        `json:"token"`
	Experiment uint64       `json:"experiment"`
	Number     int          `json:"number"`         // 1, 2, 3 … within its experiment
	Node       string       `json:"node"`           // of a gang: rank 0's
	GPUs       []string     `json:"gpus,omitempty"` // UUIDs; empty means a CPU slot; of a gang: rank 0's
	State      AttemptState `json:"state"`
	// Gang has what each machine does, in the order of ranks, when there are several; Parts gives it for one machine too.
	Gang []Part `json:"gang,omitempty"`
	// Port is the TCP port of rank 0's node at which a gang meets, known once rank 0 is ready.
	Port int `json:"port,omitempty"`
	// StoppedBy is the node on whose account a gang is stopped: whose part failed, or which is drained. Empty while all of it
	// goes on.
	StoppedBy string `json:"stopped_by,omitempty"`
	// Lease is how long it may go on without a word from the cluster before it is frozen; 0 holds for ever.
	Lease  Duration `json:"lease,omitempty"`
	BootID string   `json:"boot_id,omitempty"` // of the node when it started; of a gang: in its parts
	// Resumed is the checkpoint it went on from, nil if it began anew.
	Resumed *Resumed `json:"resumed,omitempty"`
	// Preempting is why its node is to stop it, "" if it is not: the experiment goes on elsewhere.
	Preempting string `json:"preempting,omitempty"`
	// Adopted says that facts of an earlier epoch made it, and these took it up again.
	Adopted    bool      `json:"adopted,omitempty"`
	AssignedAt time.Time `json:"assigned_at"`
	StartedAt  time.Time `json:"started_at,omitzero"` // of a gang: when its last part was ready
	EndedAt    time.Time `json:"ended_at,omitzero"`
	ExitCode   *int      `json:"exit_code,omitempty"`
	Class      Class     `json:"class,omitempty"`
	Message    string    `json:"message,omitempty"`
}

// Open says whether any of its parts holds GPUs or a CPU slot.
func (a *Attempt) Open() bool { return a.State != AttemptEnded }
