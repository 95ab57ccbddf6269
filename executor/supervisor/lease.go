package supervisor

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Boottime is the time since the machine's boot, with the time it was suspended. Leases are kept by it: Go's own clock
// stands still during a suspend, so that a machine that slept would believe in a lease that ended long ago.
func Boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 1<<63 - 1 // no clock, no lease: everything has ended (Linux has had this clock since 2.6.39)
	}
	return time.Duration(ts.Nano())
}

// What a job does when its lease has ended.
const (
	ContactFreeze = "freeze" // it stands still until the lease is renewed
	ContactKill   = "kill"   // it is killed
	ContactKeep   = "keep"   // it goes on; only with a lease that never ends
)

// LeaseStep is what a lease asks of whoever keeps it.
type LeaseStep int

// The steps.
const (
	LeaseNothing LeaseStep = iota
	LeaseWarn              // a little time is left: write a checkpoint
	LeaseFreeze            // time is up: let nothing of the job execute
	LeaseKill              // time is up, and the job is to end by it
)

// longestWarning is the longest time between the warning and the end of a lease.
const longestWarning = 30 * time.Second

// Lease is rule R6: how long a job may execute without a word from the cluster. It holds no clock; every time handed in
// is the machine's CLOCK_BOOTTIME. The zero value never ends. It is not safe for use by several goroutines.
type Lease struct {
	length time.Duration
	start  time.Duration // when the newest valid answer was asked for
	kill   bool
	warned bool
	frozen bool
	since  time.Duration // of the freeze
}

// NewLease makes a lease that ends length after start. A length of 0, and the policy keep, never end.
func NewLease(length, start time.Duration, policy string) Lease {
	if policy == ContactKeep || length <= 0 {
		return Lease{}
	}
	return Lease{length: length, start: start, kill: policy == ContactKill}
}

// Holds says that the lease never ends.
func (l *Lease) Holds() bool { return l.length == 0 }

// Over says whether the lease has ended at now.
func (l *Lease) Over(now time.Duration) bool { return !l.Holds() && now >= l.End() }

// End is when it ends if nothing more is heard.
func (l *Lease) End() time.Duration { return l.start + l.length }

// Frozen says whether the last step was to freeze.
func (l *Lease) Frozen() bool { return l.frozen }

// Warning is how long before the end the job is told to write a checkpoint.
func (l *Lease) Warning() time.Duration { return min(longestWarning, l.length/4) }

// Step says what is to be done at now. Each step is asked for once.
func (l *Lease) Step(now time.Duration) LeaseStep {
	switch {
	case l.Holds() || l.frozen:
		return LeaseNothing
	case l.Over(now) && l.kill:
		return LeaseKill
	case l.Over(now):
		l.frozen, l.since = true, now
		return LeaseFreeze
	case !l.warned && now >= l.End()-l.Warning():
		l.warned = true
		return LeaseWarn
	}
	return LeaseNothing
}

// Renew takes a valid answer to a question that was sent at sent, and says whether a frozen job may go on. A question sent
// before the freeze says nothing about the time since; and the order of answers does not matter.
func (l *Lease) Renew(sent, now time.Duration) (thaw bool) {
	if l.Holds() || sent > now || sent <= l.start {
		return false
	}
	l.start = sent
	if l.Over(now) {
		return false
	}
	if now < l.End()-l.Warning() {
		l.warned = false
	}
	if !l.frozen || sent <= l.since {
		return false
	}
	l.frozen = false
	return true
}

// String says how long the lease is.
func (l *Lease) String() string {
	if l.Holds() {
		return "hold"
	}
	return fmt.Sprint(l.length)
}
