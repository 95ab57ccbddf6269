package leader

import (
	"time"

	"github.com/deveronica/cvlab/fsm"
)

// clock gives the time that decisions are compared with: the facts' own time, moved on by this machine's monotonic clock.
// The facts' time comes from the clocks of all who propose, so that one wrong clock could make a back-off of seconds
// last a year if it were compared with this machine's own.
type clock struct {
	facts time.Time // the newest time seen in the facts
	seen  time.Time // when it was seen first; holds a monotonic reading
}

// now gives the facts' time as of the moment mono, which must come from time.Now.
func (c *clock) now(v fsm.View, mono time.Time) time.Time {
	if t := v.Time(); !t.Equal(c.facts) || c.seen.IsZero() {
		c.facts, c.seen = t, mono
	}
	return c.facts.Add(mono.Sub(c.seen))
}
