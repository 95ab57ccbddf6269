package fsm

import (
	"fmt"
	"time"
)

// NewEpoch follows facts that may have gone back in time: a cluster that was recovered from one machine or restored from a
// backup. Log indexes may come again in it, tokens do not, since they begin with the epoch.
type NewEpoch struct {
	Node string `json:"node"` // that goes on alone
}

// Kind implements Command.
func (*NewEpoch) Kind() string { return "epoch" }

func (c *NewEpoch) apply(t *tx) Result {
	if n := t.view().Node(c.Node); n == nil || n.Removed {
		return refuse(Forbidden, "the node is no member")
	}
	t.meta.Epoch++
	t.meta.EpochExperiments = t.meta.Experiments
	return ok()
}

// Adopt brings an attempt back into facts that have forgotten it (rule R11): a node runs it with a token of an earlier epoch.
// It is taken when its experiment waits and has no attempt as new as this one. Otherwise another may run or have run, and
// the node keeps the old one from executing until a person decides.
type Adopt struct {
	Token      Token    `json:"token"`
	Experiment uint64   `json:"experiment"`
	Number     int      `json:"number"` // of the attempt
	Node       string   `json:"node"`
	GPUs       []string `json:"gpus,omitempty"`
	Lease      Duration `json:"lease,omitempty"`
	BootID     string   `json:"boot_id"`
	// StartedAt is when its process began, by the node's clock; it is told to people.
	StartedAt time.Time `json:"started_at,omitzero"`
}

// Kind implements Command.
func (*Adopt) Kind() string { return "adopt" }

func (c *Adopt) apply(t *tx) Result {
	if a := t.view().Attempt(c.Token); a != nil {
		if a.Node == c.Node && a.State == AttemptStarted && a.BootID == c.BootID {
			return ok() // repeated
		}
		return refuse(Conflict, fmt.Sprintf("attempt %s is known as %s", a.Token, a.State))
	}
	e := t.experiment(c.Experiment)
	switch {
	case c.Token.Epoch >= t.meta.Epoch:
		return refuse(Conflict, fmt.Sprintf("attempt %s is not from before epoch %d", c.Token, t.meta.Epoch))
	case e == nil || e.ID > t.meta.EpochExperiments:
		return refuse(Conflict, fmt.Sprintf("experiment %d of then is not known any more", c.Experiment))
	case e.Status != Pending || e.Attempts >= c.Number:
		return refuse(Conflict, fmt.Sprintf("experiment %d is %s and has %d attempts", e.ID, e.Status, e.Attempts))
	case t.view().Spec(e).Device.Nodes > 1:
		// Its token would be valid for parts of which nobody knows whether they run.
		return refuse(Conflict, fmt.Sprintf("experiment %d runs as a gang, and one node cannot speak for the others", e.ID))
	case c.Lease < 0 || c.BootID == "":
		return refuse(Invalid, "an attempt is adopted with the boot ID it runs in, and a lease that is not negative")
	}
	// A draining node keeps what runs on it.
	if why := t.slotTaken(Slot{Node: c.Node, GPUs: c.GPUs}, true); why != "" {
		return refuse(Conflict, why)
	}
	a := &Attempt{
		Token: c.Token, Experiment: e.ID, Number: c.Number, Node: c.Node, GPUs: c.GPUs, State: AttemptStarted, Lease: c.Lease,
		BootID: c.BootID, AssignedAt: t.now, StartedAt: t.now, Adopted: true,
	}
	if !c.StartedAt.IsZero() && c.StartedAt.Before(t.now) {
		a.StartedAt = c.StartedAt.UTC()
	}
	t.openAttempt(e, a)
	if e.StartedAt.IsZero() {
		e.StartedAt = a.StartedAt
	}
	t.putExperiment(e)
	return ok()
}
