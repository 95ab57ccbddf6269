package fsm

import (
	"fmt"
	"strings"
	"time"
)

// Cancel ends experiments: waiting ones at once, running ones as soon as their node has stopped them.
type Cancel struct {
	Experiments []uint64 `json:"experiments"`
	// Reason is told to people; empty means that a person asked.
	Reason string `json:"reason,omitempty"`
}

// Kind implements Command.
func (*Cancel) Kind() string { return "cancel" }

func (c *Cancel) apply(t *tx) Result {
	return t.each(c.Experiments, func(e *Experiment) string {
		if e.Status.Ended() {
			return fmt.Sprintf("experiment %d is already %s", e.ID, e.Status)
		}
		reason := c.Reason
		if reason == "" {
			reason = "cancelled by " + t.by
		}
		if a := t.view().Attempt(e.Token); a != nil && a.State == AttemptStarted {
			e.Cancelling, e.Message = true, reason
			t.putExperiment(e)
			return ""
		}
		t.cancelUnstarted(e, reason)
		return ""
	})
}

// cancelUnstarted ends an experiment of which nothing can be running: no Start was applied, and none can be any more.
func (t *tx) cancelUnstarted(e *Experiment, reason string) {
	if a := t.view().Attempt(e.Token); a != nil && a.Open() {
		t.closeAttempt(a.clone(), ClassCancelled, reason)
		return
	}
	e.Class, e.Message = ClassCancelled, reason
	t.end(e, Cancelled)
	t.putExperiment(e)
}

// Hold keeps waiting experiments from starting until they are released.
type Hold struct {
	Experiments []uint64 `json:"experiments"`
	Reason      string   `json:"reason,omitempty"`
}

// Kind implements Command.
func (*Hold) Kind() string { return "hold" }

func (c *Hold) apply(t *tx) Result {
	return t.each(c.Experiments, func(e *Experiment) string {
		if e.Status != Pending {
			return fmt.Sprintf("experiment %d is %s; only waiting ones can be held", e.ID, e.Status)
		}
		e.Status, e.Message = Held, c.Reason
		if e.Message == "" {
			e.Message = "held by " + t.by
		}
		t.putExperiment(e)
		return ""
	})
}

// Release lets held experiments wait for their turn again.
type Release struct {
	Experiments []uint64 `json:"experiments"`
}

// Kind implements Command.
func (*Release) Kind() string { return "release" }

func (c *Release) apply(t *tx) Result {
	return t.each(c.Experiments, func(e *Experiment) string {
		if e.Status != Held {
			return fmt.Sprintf("experiment %d is %s, not held", e.ID, e.Status)
		}
		e.Status, e.Message, e.NotBefore = Pending, "", time.Time{}
		e.Downed = nil
		t.putExperiment(e)
		return ""
	})
}

// Retry sends failed or cancelled experiments back to the queue with fresh retry budgets; old attempts stay.
type Retry struct {
	Experiments []uint64 `json:"experiments"`
}

// Kind implements Command.
func (*Retry) Kind() string { return "retry" }

func (c *Retry) apply(t *tx) Result {
	return t.each(c.Experiments, func(e *Experiment) string {
		if e.Status != Failed && e.Status != Cancelled {
			return fmt.Sprintf("experiment %d is %s; only failed and cancelled ones can be retried", e.ID, e.Status)
		}
		e.Status, e.Message, e.Class, e.ExitCode = Pending, "", "", nil
		e.Failures, e.Losses, e.Downed, e.NotBefore, e.AvoidNode = 0, 0, nil, time.Time{}, ""
		e.StartedAt, e.EndedAt = time.Time{}, time.Time{}
		t.putExperiment(e)
		return ""
	})
}

// Annotate changes what people may change of experiments at any time; nil means unchanged.
type Annotate struct {
	Experiments []uint64  `json:"experiments"`
	Priority    *Priority `json:"priority,omitempty"`
	Name        *string   `json:"name,omitempty"`
	Tags        *[]string `json:"tags,omitempty"`
	Notes       *string   `json:"notes,omitempty"`
}

// Kind implements Command.
func (*Annotate) Kind() string { return "annotate" }

func (c *Annotate) apply(t *tx) Result {
	return t.each(c.Experiments, func(e *Experiment) string {
		if c.Priority != nil {
			e.Priority = *c.Priority
		}
		if c.Name != nil {
			e.Name = *c.Name
		}
		if c.Tags != nil {
			e.Tags = *c.Tags
		}
		if c.Notes != nil {
			e.Notes = *c.Notes
		}
		t.putExperiment(e)
		return ""
	})
}

// each changes many experiments; do answers why one cannot be changed. The result is OK when at least one was changed
// and its message names the others; when none was, nothing has changed and the result is the first refusal.
func (t *tx) each(ids []uint64, do func(*Experiment) string) Result {
	if len(ids) == 0 {
		return refuse(Invalid, "no experiment is named")
	}
	r := Result{}
	var others []string
	for _, id := range ids {
		e := t.experiment(id)
		why, code := "", Conflict
		if e == nil {
			why, code = fmt.Sprintf("experiment %d does not exist", id), NotFound
		} else {
			why = do(e)
		}
		if why == "" {
			r.Experiments = append(r.Experiments, id)
			continue
		}
		others = append(others, why)
		if r.Code == "" {
			r.Code = code
		}
	}
	if len(r.Experiments) > 0 {
		r.Code = OK
	}
	r.Message = strings.Join(others[:min(len(others), maxNamed)], "; ")
	if n := len(others) - maxNamed; n > 0 {
		r.Message += fmt.Sprintf("; and %d more", n)
	}
	return r
}

// maxNamed is how many refusals one answer names, so that a bulk action on thousands stays readable.
const maxNamed = 5
