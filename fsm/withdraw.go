package fsm

import "fmt"

// Withdraw takes an attempt back from a node that was given it and has not started it. It needs no proof: without a Start
// nothing was launched, and a Start that comes later is refused.
type Withdraw struct {
	Token  Token  `json:"token"`
	Reason string `json:"reason"` // one sentence
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
	a := *old
	t.endAttempt(&a, ClassNodeLost, c.Reason)
	e := t.experiment(a.Experiment)
	if e.Token == a.Token {
		// Nothing was lost by it, so it spends no budget and waits for nothing.
		e.Status, e.AvoidNode = Pending, a.Node
		t.putExperiment(e)
	}
	return ok()
}
