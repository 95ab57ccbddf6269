package fsm

import (
	"fmt"
	"slices"
	"time"
)

// MaxGang is the greatest number of machines of one attempt.
const MaxGang = 64

// Slot is what one machine gives to an attempt.
type Slot struct {
	Node string   `json:"node"`           // ID
	GPUs []string `json:"gpus,omitempty"` // UUIDs; none means one of the node's CPU slots
}

// Part is what one machine does of an attempt: all of it, or one rank of a gang.
type Part struct {
	Slot
	// BootID is of the node when it said Start, and StartedAt is when. A part of a gang is only ready then: it is launched
	// when the attempt is started, which is when all parts are ready.
	BootID    string    `json:"boot_id,omitempty"`
	StartedAt time.Time `json:"started_at,omitzero"`
	EndedAt   time.Time `json:"ended_at,omitzero"`
	ExitCode  *int      `json:"exit_code,omitempty"`
	Class     Class     `json:"class,omitempty"` // empty while it is open
	Message   string    `json:"message,omitempty"`
}

// Open says whether the part holds its GPUs or CPU slot.
func (p *Part) Open() bool { return p.Class == "" }

// State is where the part stands; AttemptStarted means for a part of a gang that it is ready.
func (p *Part) State() AttemptState {
	switch {
	case !p.Open():
		return AttemptEnded
	case p.StartedAt.IsZero():
		return AttemptAssigned
	}
	return AttemptStarted
}

// Parts gives what each machine does of the attempt, in the order of ranks; at least one. Never change them.
func (a *Attempt) Parts() []Part {
	if len(a.Gang) > 0 {
		return a.Gang
	}
	return []Part{{
		Slot: Slot{Node: a.Node, GPUs: a.GPUs}, BootID: a.BootID, StartedAt: a.StartedAt, EndedAt: a.EndedAt,
		ExitCode: a.ExitCode, Class: a.Class, Message: a.Message,
	}}
}

// Rank gives the rank of a node in the attempt, from 0; -1 when it has no part in it.
func (a *Attempt) Rank(node string) int {
	return slices.IndexFunc(a.Parts(), func(p Part) bool { return p.Node == node })
}

// On gives the part of a node, nil when it has none. Never change it.
func (a *Attempt) On(node string) *Part {
	if i := a.Rank(node); i >= 0 {
		return &a.Parts()[i]
	}
	return nil
}

// MayLaunch says whether a node may launch its part in this boot: the attempt is started, so all parts are ready, and
// this one was made ready in this boot.
func (a *Attempt) MayLaunch(node, boot string) bool {
	p := a.On(node)
	return a.State == AttemptStarted && p != nil && p.Open() && p.BootID == boot
}

// Stop says why what runs of the experiment's attempt is to be stopped, and the class its nodes report of what they have
// stopped; both are empty while it is to go on. What had ended by itself before is reported as it ended.
func (e *Experiment) Stop(a *Attempt) (why string, as Class) {
	switch {
	case e.Token != a.Token || !a.Open():
		return "", ""
	case e.Cancelling:
		return e.Message, ClassCancelled
	case a.Preempting != "":
		return a.Preempting, ClassPreempted
	case a.StoppedBy != "":
		return a.broken(), ClassCancelled
	}
	return "", ""
}

// broken says why the rest of a gang is stopped.
func (a *Attempt) broken() string {
	return fmt.Sprintf("rank %d of its gang ended: %s", a.Rank(a.StoppedBy), a.On(a.StoppedBy).Class)
}

// clone gives a copy to change; what it shares with the record is never changed.
func (a *Attempt) clone() *Attempt {
	c := *a
	c.Gang = slices.Clone(a.Gang)
	return &c
}

// blamed is the part that decided how the attempt ended: the only one, or the one on whose account its gang was stopped.
func (a *Attempt) blamed() *Part {
	if p := a.On(a.StoppedBy); p != nil {
		return p
	}
	return &a.Parts()[0]
}

// ending is how a part, or an attempt, ended.
type ending struct {
	class   Class
	exit    *int
	message string
}

// outcome is how a gang has ended all of whose parts have: as the part that is blamed, or as it was ordered to.
func (a *Attempt) outcome() ending {
	p := a.blamed()
	switch failed := func(p Part) bool { return p.Class != ClassCompleted }; {
	case !slices.ContainsFunc(a.Gang, failed):
		p = &a.Gang[0]
	case a.Preempting != "":
		return ending{class: ClassPreempted, message: a.Preempting}
	}
	return ending{class: p.Class, exit: p.ExitCode, message: p.Message}
}

// closePart ends one node's part of an open attempt. The attempt ends with its last part (rule R12); one that is not
// started ends with its first, since nothing of it runs anywhere.
func (t *tx) closePart(a *Attempt, node string, how ending) {
	if len(a.Gang) == 0 {
		a.ExitCode = how.exit
		t.closeAttempt(a, how.class, how.message)
		return
	}
	t.endPart(a.On(node), how)
	if a.blames(how.class) {
		a.StoppedBy = node
	}
	if a.State == AttemptAssigned {
		t.endParts(a, ending{class: ClassCancelled, message: a.broken()})
	}
	if slices.ContainsFunc(a.Gang, func(p Part) bool { return p.Open() }) {
		t.put(tableAttempts, a)
		t.putExperiment(t.experiment(a.Experiment)) // who follows the experiment learns of it
		return
	}
	all := a.outcome()
	a.ExitCode = all.exit
	t.closeAttempt(a, all.class, all.message)
}

// blames says whether a part that ends so decides how its gang ends: the first that fails does, unless it was ordered to
// stop before. A machine or card that fails is never the consequence of a part that crashed elsewhere, but such a crash is
// mostly the consequence of it and reported long before; so infrastructure is blamed even later.
func (a *Attempt) blames(class Class) bool {
	switch {
	case class == ClassCompleted || a.Preempting != "":
		return false
	case a.StoppedBy == "":
		return true
	}
	return class.Infrastructure() && !a.On(a.StoppedBy).Class.Infrastructure()
}

// endPart ends an open part of a gang and frees what it held.
func (t *tx) endPart(p *Part, how ending) {
	p.EndedAt, p.Class, p.ExitCode, p.Message = t.now, how.class, how.exit, how.message
	t.free(p.GPUs)
}

// endParts ends all parts of a gang that are open.
func (t *tx) endParts(a *Attempt, how ending) {
	for i := range a.Gang {
		if p := &a.Gang[i]; p.Open() {
			t.endPart(p, how)
		}
	}
}

func (t *tx) free(gpus []string) {
	for _, uuid := range gpus {
		t.drop(tableHolds, &hold{GPU: uuid})
	}
}
