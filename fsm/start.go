package fsm

import "fmt"

// Start is a node's promise that it is about to launch an attempt; it launches only after this was applied. From then on
// the attempt may be running and can be closed only by proof.
type Start struct {
	Token  Token  `json:"token"`
	Node   string `json:"node"`
	BootID string `json:"boot_id"`
}

// Kind implements Command.
func (*Start) Kind() string { return "start" }

func (c *Start) apply(t *tx) Result {
	a, refused := t.attemptOf(c.Token, c.Node)
	if a == nil {
		return refused
	}
	switch {
	case a.State == AttemptStarted && a.BootID == c.BootID:
		return ok() // repeated
	case a.State != AttemptAssigned:
		return refuse(Conflict, fmt.Sprintf("attempt %s is already %s", a.Token, a.State))
	}
	a.State, a.BootID, a.StartedAt = AttemptStarted, c.BootID, t.now
	t.put(tableAttempts, a)
	e := t.experiment(a.Experiment)
	if e.StartedAt.IsZero() {
		e.StartedAt = t.now
	}
	t.putExperiment(e)
	return ok()
}

// attemptOf gives a copy of the attempt to change, or the refusal for a node that has no business with it.
func (t *tx) attemptOf(token Token, node string) (*Attempt, Result) {
	a := t.view().Attempt(token)
	if a == nil {
		return nil, refuse(NotFound, fmt.Sprintf("attempt %s does not exist", token))
	}
	if a.Node != node {
		return nil, refuse(Forbidden, fmt.Sprintf("attempt %s belongs to another node", token))
	}
	c := *a
	return &c, Result{}
}
