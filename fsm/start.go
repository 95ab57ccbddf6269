package fsm

import (
	"fmt"
	"slices"
	"time"
)

// Start is a node's promise that it is about to launch its part of an attempt. An attempt on one machine is started by it;
// a gang by the last of its nodes, those before are ready. A node launches only when the attempt is started: from then on it
// may be running and can be closed only by proof.
type Start struct {
	Token  Token  `json:"token"`
	Node   string `json:"node"`
	BootID string `json:"boot_id"`
	// Port is the TCP port at which a gang meets, 1 to 65535; its rank 0 says it, nobody else.
	Port int `json:"port,omitempty"`
	// Resumed is the checkpoint that the attempt goes on from; nil for a fresh start.
	Resumed *Resumed `json:"resumed,omitempty"`
}

// Resumed names a published checkpoint of an earlier attempt of the same experiment.
type Resumed struct {
	Token Token  `json:"token"`
	Seq   uint64 `json:"seq"`
}

// Kind implements Command.
func (*Start) Kind() string { return "start" }

func (c *Start) apply(t *tx) Result {
	a, refused := t.attemptOf(c.Token, c.Node)
	if a == nil {
		return refused
	}
	p := a.On(c.Node)
	switch {
	case p.State() == AttemptStarted && p.BootID == c.BootID:
		return ok() // repeated
	case p.State() != AttemptAssigned:
		return refuse(Conflict, fmt.Sprintf("attempt %s is already %s", a.Token, p.State()))
	case (c.Port != 0) != (len(a.Gang) > 0 && a.Rank(c.Node) == 0) || c.Port < 0 || c.Port > 65535:
		return refuse(Invalid, fmt.Sprintf("%d is no port to meet at: rank 0 of a gang says one, nobody else", c.Port))
	}
	if c.Resumed != nil {
		// What it goes on from is told to people. It may be older than what the facts remember.
		from := t.view().Attempt(c.Resumed.Token)
		if c.Resumed.Seq == 0 || from == nil || from.Experiment != a.Experiment || !from.Token.Less(a.Token) {
			return refuse(Invalid, fmt.Sprintf("%s is no earlier attempt of the same experiment to resume from", c.Resumed.Token))
		}
		if a.Rank(c.Node) == 0 { // which decides for its gang
			a.Resumed = c.Resumed
		}
	}
	e := t.experiment(a.Experiment)
	if a.start(c, t.now); a.State == AttemptStarted && e.StartedAt.IsZero() {
		e.StartedAt = t.now
	}
	t.put(tableAttempts, a)
	t.putExperiment(e)
	return ok()
}

// start notes that a part is ready, and starts the attempt with the last one.
func (a *Attempt) start(c *Start, now time.Time) {
	if len(a.Gang) == 0 {
		a.State, a.BootID, a.StartedAt = AttemptStarted, c.BootID, now
		return
	}
	p := a.On(c.Node)
	p.BootID, p.StartedAt = c.BootID, now
	if c.Port != 0 {
		a.Port = c.Port
	}
	if !slices.ContainsFunc(a.Gang, func(p Part) bool { return p.State() == AttemptAssigned }) {
		a.State, a.StartedAt = AttemptStarted, now
	}
}

// attemptOf gives a copy of the attempt to change, or the refusal for a node that has no business with it.
func (t *tx) attemptOf(token Token, node string) (*Attempt, Result) {
	a := t.view().Attempt(token)
	if a == nil {
		return nil, refuse(NotFound, fmt.Sprintf("attempt %s does not exist", token))
	}
	if a.On(node) == nil {
		return nil, refuse(Forbidden, fmt.Sprintf("attempt %s belongs to another node", token))
	}
	return a.clone(), Result{}
}
