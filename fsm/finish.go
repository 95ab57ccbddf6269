package fsm

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Finish reports how an attempt ended on a node. The first report counts; repeats are ignored.
type Finish struct {
	Token    Token  `json:"token"`
	Node     string `json:"node"`
	Class    Class  `json:"class"`
	ExitCode *int   `json:"exit_code,omitempty"` // nil when the process left none; 128+n for signal n
	Message  string `json:"message,omitempty"`   // one sentence
}

// Kind implements Command.
func (*Finish) Kind() string { return "finish" }

func (c *Finish) apply(t *tx) Result {
	if !c.Class.Valid() {
		return refuse(Invalid, fmt.Sprintf("class %q is not known", c.Class))
	}
	a, refused := t.attemptOf(c.Token, c.Node)
	if a == nil {
		return refused
	}
	p := a.On(c.Node)
	switch {
	case !p.Open() && p.Class != c.Class:
		return refuse(Conflict, fmt.Sprintf("attempt %s ended before: %s", a.Token, p.Class))
	case !p.Open():
		return ok() // repeated
	case len(a.Gang) > 0 && a.State == AttemptAssigned && c.Class == ClassCompleted:
		return refuse(Conflict, fmt.Sprintf("attempt %s is not started; nothing of it can have completed", a.Token))
	}
	t.closePart(a, c.Node, ending{class: c.Class, exit: c.ExitCode, message: c.Message})
	return ok()
}

// The infrastructure's retry budget of one experiment, and its back-off: 10 s, 20 s, 40 s … up to 10 min, so that a
// broken node does not burn the budget of every experiment within a minute.
const (
	maxLosses    = 10
	firstBackoff = 10 * time.Second
	maxBackoff   = 10 * time.Minute
)

// closeAttempt ends an open attempt, frees what it held, and moves its experiment on.
func (t *tx) closeAttempt(a *Attempt, class Class, message string) {
	t.endAttempt(a, class, message)
	e := t.experiment(a.Experiment)
	if e.Token == a.Token {
		t.afterAttempt(e, a, t.view().Spec(e))
		t.putExperiment(e)
	}
}

// endAttempt ends an open attempt and frees what it held.
func (t *tx) endAttempt(a *Attempt, class Class, message string) {
	if len(a.Gang) == 0 {
		t.free(a.GPUs)
	}
	t.endParts(a, ending{class: class, message: message})
	a.State, a.EndedAt, a.Class, a.Message = AttemptEnded, t.now, class, message
	t.put(tableAttempts, a)
}

// afterAttempt decides what becomes of the experiment whose newest attempt just ended.
func (t *tx) afterAttempt(e *Experiment, a *Attempt, spec *Spec) {
	e.ExitCode, e.Class = a.ExitCode, a.Class
	node := a.blamed().Node
	if !e.Cancelling || a.Class == ClassCompleted {
		e.Message = a.Message // else the reason of the cancel stays; the attempt keeps how it ended
	}
	switch {
	case a.Class == ClassCompleted:
		t.end(e, Completed)
	case a.Class == ClassCancelled || e.Cancelling:
		e.Class = ClassCancelled
		t.end(e, Cancelled)
	case a.Class == ClassPreempted && a.Preempting != "":
		e.Status, e.AvoidNode = Pending, node // it was asked for, and spends nothing
	case t.poisons(e, a):
		e.Status, e.Message = Held, poisoned(t.view(), e)
	case a.Class.Infrastructure() && e.Losses < maxLosses:
		e.Losses++
		e.Status, e.AvoidNode = Pending, node
		e.NotBefore = t.now.Add(backoff(e.Losses))
	case !a.Class.Infrastructure() && e.Failures < spec.Retries:
		e.Failures++
		e.Status = Pending
	default:
		t.end(e, Failed)
	}
}

// maxDowned is how many machines or GPUs may be lost under one experiment before it is taken for the cause.
const maxDowned = 3

// poisons notes what was lost with the attempt, and says whether the experiment has now taken down too much.
func (t *tx) poisons(e *Experiment, a *Attempt) bool {
	p, lost := a.blamed(), ""
	switch a.Class {
	case ClassNodeLost, ClassSupervisorLost:
		lost = p.Node
	case ClassGPUFault:
		lost = p.Node // nobody said which of several cards it was
		if len(p.GPUs) == 1 {
			lost = p.GPUs[0]
		}
	default:
		return false
	}
	if !slices.Contains(e.Downed, lost) {
		e.Downed = append(slices.Clone(e.Downed), lost) // the record in the database is shared
	}
	return len(e.Downed) >= maxDowned
}

func poisoned(v View, e *Experiment) string {
	names := make([]string, 0, len(e.Downed))
	for _, x := range e.Downed {
		if n := v.Node(x); n != nil {
			x = n.Name
		}
		names = append(names, x)
	}
	last := len(names) - 1
	return fmt.Sprintf("held: %s and %s were lost while it ran there; if that was not its fault, release it", strings.Join(names[:last], ", "), names[last])
}

func (t *tx) end(e *Experiment, s Status) {
	e.Status, e.EndedAt, e.Cancelling = s, t.now, false
}

func backoff(losses int) time.Duration {
	d := firstBackoff
	for range losses - 1 {
		d = min(2*d, maxBackoff)
	}
	return d
}
