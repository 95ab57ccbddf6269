package supervisor

import (
	"cmp"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// leaseLook is how often the lease is looked at. Go's timers stand still while the machine sleeps, so a lease that ended
// during the sleep is seen at most this long after it.
const leaseLook = 50 * time.Millisecond

// keepLease does what the lease asks for at now (CLOCK_BOOTTIME). It needs nobody: the daemon may be dead.
func (j *job) keepLease(now time.Duration) {
	switch j.lease.Step(now) {
	case LeaseWarn:
		if j.phase == running {
			n := j.hand(unix.SIGUSR1)
			j.log.Warn("no word from the cluster, the job is told to write a checkpoint", "lease", j.lease.String(), "left", j.lease.Warning(), "reached", n)
		}
	case LeaseFreeze:
		j.log.Warn("no word from the cluster for the whole lease, the job is frozen", "lease", j.lease.String())
		j.freeze(now)
	case LeaseKill:
		j.fence(ReasonLeaseExpired, fmt.Sprintf("no word from the cluster for its lease of %s", j.lease.String()))
	}
	if j.ice == nil || j.still || j.phase == killing {
		return
	}
	switch {
	case j.ice.round():
		j.still = true
		j.log.Info("frozen")
	case time.Now().After(j.ice.limit) && j.held != "":
		j.fence(ReasonRevoked, "it could not be frozen: "+j.held)
	case time.Now().After(j.ice.limit):
		j.fence(ReasonLeaseExpired, fmt.Sprintf("no word from the cluster for its lease of %s, and it could not be frozen", j.lease.String()))
	}
}

// freeze begins to let nothing of the job execute. What is frozen already stays as it is.
func (j *job) freeze(now time.Duration) {
	if j.phase != killing && j.ice == nil {
		j.ice, j.still, j.since = newFreezer(j.group, os.Getpid()), false, now
	}
}

// opFreeze freezes an attempt that nobody in the cluster vouches for. Only a person can end that, by ending the attempt.
func opFreeze(j *job, r Request) Answer {
	if j.held == "" {
		j.held = cmp.Or(r.Why, "somebody asked for it")
		j.log.Warn("frozen for good", "why", j.held)
	}
	j.freeze(Boottime())
	j.look.Reset(leaseLook)
	return Answer{OK: true}
}

// fence ends the job without any grace.
func (j *job) fence(reason, message string) {
	if j.reason == "" && j.status == nil {
		j.reason, j.message = reason, message
	}
	if j.phase != killing {
		j.kill()
	}
}

// opRenew takes the cluster's word that the attempt is still the one, asked for at SentNS.
func opRenew(j *job, r Request) Answer {
	now := Boottime()
	j.keepLease(now) // what is over is frozen first: only a question sent after that thaws
	if j.lease.Renew(time.Duration(r.SentNS), now) && j.ice != nil && j.held == "" && j.phase != killing {
		j.log.Info("the cluster has answered, the job goes on")
		j.ice.thaw()
		j.ice = nil
	}
	return Answer{OK: true}
}

// opRevoke ends an attempt that the cluster has given up, at once and for ever.
func opRevoke(j *job, r Request) Answer {
	j.fence(ReasonRevoked, r.Why)
	return Answer{OK: true}
}
