package sched

import (
	"time"

	"github.com/deveronica/cvlab/fsm"
)

// The states of a card, as its machine's monitor reports them. Only an ok card gets work.
const (
	StateOK      = "ok"
	StateSuspect = "suspect" // it does not answer just now
	StateBad     = "bad"     // it has reported a fault
	StateLost    = "lost"    // it is no longer there
)

// GPUHealth is how one card feels.
type GPUHealth struct {
	UUID  string
	State string // one of the State constants; anything else counts as not ok
	// MemoryUsed and MemoryTotal are bytes; a total of 0 means that the inventory's figure counts.
	MemoryUsed, MemoryTotal uint64
	// Utilization is 0 to 100 per cent.
	Utilization int
	// Foreign says that a process which is not ours has the card open; ForeignUser is whose, if known.
	Foreign     bool
	ForeignUser string
}

// Health is what one machine last said of itself.
type Health struct {
	Node string // ID
	// Heard is the time since its last beacon, by the leader's monotonic clock.
	Heard time.Duration
	GPUs  []GPUHealth
	// CPU is the part of all cores in use, 0 to 1.
	CPU float64
}

// Limits are the planner's few settings; a zero field means its default.
type Limits struct {
	// MaxHeard is how old the last beacon of a machine that gets work may be; 3 s by default.
	MaxHeard time.Duration
	// AvoidFor is how long after its NotBefore an experiment waits for another machine than the one that lost it; after
	// that it goes back there rather than wait. 10 min by default.
	AvoidFor time.Duration
}

func (l Limits) orDefault() Limits {
	if l.MaxHeard <= 0 {
		l.MaxHeard = 3 * time.Second
	}
	if l.AvoidFor <= 0 {
		l.AvoidFor = 10 * time.Minute
	}
	return l
}

// Input is all that a plan depends on.
type Input struct {
	View fsm.View
	// Now is compared with NotBefore. It should come from a clock that does not jump, since a back-off of seconds must
	// not become a year: the leader adds its monotonic clock to the View.Time of the start of its term. A Now before
	// View.Time counts as View.Time.
	Now time.Time
	// Leading is how long this leader has led. Until it has led for Limits.MaxHeard, a machine it has never heard may just
	// not have spoken to it yet.
	Leading time.Duration
	// Health has the machines that were ever heard, by node ID.
	Health map[string]Health
	Limits Limits
}

// Assignment gives one experiment its slot, or all its slots.
type Assignment struct {
	Experiment uint64   `json:"experiment"`
	Node       string   `json:"node"`           // ID
	GPUs       []string `json:"gpus,omitempty"` // UUIDs; none means a CPU slot
	// Others are the slots of the further ranks of a gang; Node and GPUs are rank 0's.
	Others []fsm.Slot `json:"others,omitempty"`
}

// Cancel ends an experiment that can never start, because one it should start after did not complete.
type Cancel struct {
	Experiment uint64 `json:"experiment"`
	Reason     string `json:"reason"`
}

// Withdrawal takes back an attempt that is not started, because a machine that was given it is too silent to start it.
type Withdrawal struct {
	Token fsm.Token `json:"token"`
	// Node is the silent machine of a gang; empty for an attempt on one machine.
	Node   string `json:"node,omitempty"`
	Reason string `json:"reason"`
}

// Plan is what to do now. Assignments stand in the order of the queue.
type Plan struct {
	Assignments []Assignment `json:"assignments,omitempty"`
	Cancels     []Cancel     `json:"cancels,omitempty"`
	Withdrawals []Withdrawal `json:"withdrawals,omitempty"`
	// Wake is when to plan again although nothing has changed; 0 means never.
	Wake time.Duration `json:"wake,omitempty"`
}

// Make plans once over all waiting experiments. It never gives one card, or one CPU slot, twice.
func Make(in Input) Plan {
	p := newPass(in)
	p.run()
	return p.plan
}
