package fsm

import (
	"cmp"
	"fmt"
)

// Withdraw takes an attempt back that is not started, a gang from all its nodes. It needs no proof: nothing of it was
// launched, and a Start that comes later is refused.
type Withdraw struct {
	Token  Token  `json:"token"`
	Reason string `json:"reason"` // one sentence
	// Node is on whose account, which the next attempt avoids; an attempt on one machine may leave it out.
	Node string `json:"node,omitempty"`
}

// Kind implements Command.
func (*Withdraw) Kind() string { return "withdraw" }

func (c *Withdraw) apply(t *tx) Result {
	old := t.view().Attempt(c.Token)
	if old == nil {
		return refuse(NotFound, fmt.Sprintf("attempt %s does not exist", c.Token))
	}
	if old.State != AttemptAssigned {
		return refuse(Conflict, fmt.Sprintf("attempt %s is already %s", old.Token, old.State))
	}
	node := cmp.Or(c.Node, old.Node)
	if old.On(node) == nil {
		return refuse(Invalid, fmt.Sprintf("attempt %s has no part on node %q", old.Token, node))
	}
	t.takeBack(old.clone(), node, c.Reason)
	return ok()
}

// takeBack ends an attempt that is not started, on account of one of its nodes.
func (t *tx) takeBack(a *Attempt, node, why string) {
	t.endAttempt(a, ClassNodeLost, why)
	e := t.experiment(a.Experiment)
	if e.Token == a.Token {
		// Nothing was lost by it, so it spends no budget and waits for nothing.
		e.Status, e.AvoidNode = Pending, node
		t.putExperiment(e)
	}
}
