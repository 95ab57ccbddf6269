package fsm

import (
	"fmt"
	"time"
)

// Reign opens the rule of one leader over leases. Every leader commits one before it renews or expires anything, and
// View.Reign says whose is the newest. A leader whose reign is not the newest renews nothing; an Expire of an older reign
// is refused, also one that was proposed long ago and is offered again by somebody else.
type Reign struct {
	Node string `json:"node"`
}

// Kind implements Command.
func (*Reign) Kind() string { return "reign" }

func (c *Reign) apply(t *tx) Result {
	if n := t.view().Node(c.Node); n == nil || n.Removed {
		return refuse(Forbidden, "the node is no member")
	}
	t.meta.Reign = t.index
	return ok()
}

// Expire closes a started attempt whose node was not heard for so long that its lease has run out there and nothing of it
// executes any more. Of a gang it closes that node's part only. Attempts that hold (Lease 0) are never closed by time; one that is not started is taken back by Withdraw.
type Expire struct {
	Token Token `json:"token"`
	// Node is whose part it is; an attempt on one machine may leave it out.
	Node string `json:"node,omitempty"`
	// Reign is the log index of the proposer's Reign.
	Reign uint64 `json:"reign"`
	// Silent is how long the node was not heard by the proposer; it is told to people.
	Silent Duration `json:"silent"`
}

// Kind implements Command.
func (*Expire) Kind() string { return "expire" }

func (c *Expire) apply(t *tx) Result {
	old := t.view().Attempt(c.Token)
	if old == nil {
		return refuse(NotFound, fmt.Sprintf("attempt %s does not exist", c.Token))
	}
	e := t.view().Experiment(old.Experiment)
	node := c.Node
	if node == "" && len(old.Gang) == 0 {
		node = old.Node
	}
	p := old.On(node)
	switch {
	case p == nil:
		return refuse(Invalid, fmt.Sprintf("attempt %s has no part on node %q", c.Token, node))
	case c.Reign != t.meta.Reign:
		return refuse(Conflict, "another leader has come since")
	case !p.Open() || e.Token != c.Token:
		return refuse(Conflict, fmt.Sprintf("attempt %s has ended", c.Token))
	case old.Lease <= 0:
		return refuse(Conflict, fmt.Sprintf("attempt %s has no lease that could end", c.Token))
	case old.State != AttemptStarted:
		return refuse(Conflict, fmt.Sprintf("attempt %s is not started; nothing of it can have a lease", c.Token))
	}
	name := node
	if n := t.view().Node(node); n != nil {
		name = n.Name
	}
	t.closePart(old.clone(), node, ending{
		class: ClassNodeLost, message: fmt.Sprintf("node %s was not heard for %s", name, time.Duration(c.Silent).Round(time.Second)),
	})
	return ok()
}

// LeaseHold is how a spec says that its attempts are never taken from a silent node by time alone.
const LeaseHold = "hold"

// LeaseOr gives the lease of the experiment's attempts, 0 for none: what the spec says, else the cluster's own.
func (s *Spec) LeaseOr(normal time.Duration) Duration {
	switch {
	case s.OnContactLoss == "keep" || s.Lease == LeaseHold:
		return 0
	case s.Lease == "":
		return Duration(normal)
	}
	d, err := time.ParseDuration(s.Lease)
	if err != nil || d < 0 {
		return 0 // checked when it was submitted; what cannot be read is never cut short
	}
	return Duration(d)
}
