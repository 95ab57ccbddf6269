package leader

import (
	"cmp"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

// LeaseTimes are the times of leases. A shorter Length or Margin is for tests only; the rules are the same.
type LeaseTimes struct {
	// Length is how long an attempt may execute without a word from the cluster, if its spec says nothing. Default 5 min.
	Length time.Duration
	// Margin is how long its machine may take to stop it after that. Default 20 s.
	Margin time.Duration
}

const (
	defaultLease  = 5 * time.Minute
	defaultMargin = 20 * time.Second
	// slack is for what has no name: the leader's scheduler, the granularity of its clock.
	slack = 5 * time.Second
	// drift is twice the 1 % by which the clocks of two machines may differ in rate.
	drift = 0.02
	// leaseTick is how often silence is looked for.
	leaseTick = time.Second
)

func (l LeaseTimes) withDefaults() LeaseTimes {
	return LeaseTimes{Length: cmp.Or(l.Length, defaultLease), Margin: cmp.Or(l.Margin, defaultMargin)}
}

// wait is W: how long a node must be silent before a lease of this length has certainly ended there, whatever its clock says.
func (l LeaseTimes) wait(lease time.Duration) time.Duration {
	return lease + time.Duration(float64(lease)*drift) + l.Margin + slack
}

// reign is one leader's rule over leases, rules R4, R5 and R10. It begins when the leader's fsm.Reign was applied, and
// everything it knows begins then too: a new leader gives every lease its full grace. All times are of one monotonic clock.
//
// An answer takes two steps with a commit between them, so that it is true for the whole cluster and not only for whoever
// believes that it leads:
//
//	r.heard(node, now)                   // receipt
//	… commit an entry, view the facts …  // proof
//	r.answer(tokens, attempts, …)        // valid, revoked, unknown, or nothing
type reign struct {
	index uint64 // of its fsm.Reign
	times LeaseTimes
	began time.Time

	mu       sync.Mutex
	last     map[string]time.Time    // node: its newest renewal
	since    map[fsm.Token]time.Time // started attempts with a lease: when they were first seen as that
	settled  map[string]bool         // nodes of which an answer has known everything they run
	revoking map[fsm.Token]time.Time // proposed to be expired, perhaps applied, silent since then: not valid again in this reign
}

func newReign(index uint64, times LeaseTimes, now time.Time) *reign {
	return &reign{
		index: index, times: times, began: now,
		last: map[string]time.Time{}, settled: map[string]bool{}, since: map[fsm.Token]time.Time{}, revoking: map[fsm.Token]time.Time{},
	}
}

// heard notes that a renewal of the node has come in.
func (r *reign) heard(node string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last[node] = now
}

// answer says which of a node's tokens are valid, which are over and which are not known. current is the newest reign and
// attempt gives an attempt (nil if there is none), both as of an entry that was committed after the renewal had come in. A
// token that is none of these is left as it is: its lease ends by itself.
func (r *reign) answer(node string, tokens []fsm.Token, current uint64, attempt func(fsm.Token) *fsm.Attempt) (v Verdict) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range tokens {
		a := attempt(t)
		if a == nil {
			v.Unknown = append(v.Unknown, t)
			continue
		}
		p := a.On(node)
		switch _, doomed := r.revoking[t]; {
		case p == nil:
		case !a.Open() || !p.Open():
			v.Revoked = append(v.Revoked, t)
		case current == r.index && !doomed:
			v.Valid = append(v.Valid, t)
		}
	}
	r.settled[node] = len(v.Unknown) == 0
	return v
}

// overdue gives the Expire commands that are due at now, and marks their attempts before anybody can propose them. open are
// the open attempts of the whole cluster; what is not started is left to fsm.Withdraw, which needs no wait. An attempt once
// marked is asked for until it is closed, and the mark stays: an answer that is under way may still be about facts of before.
func (r *reign) overdue(open []*fsm.Attempt, now time.Time) []*fsm.Expire {
	r.mu.Lock()
	defer r.mu.Unlock()
	var due []*fsm.Expire
	seen := make(map[fsm.Token]time.Time, len(open))
	for _, a := range open {
		if a.Lease <= 0 || a.State != fsm.AttemptStarted {
			continue
		}
		first, known := r.since[a.Token]
		if !known {
			first = now // its node counts the lease from before the start
		}
		seen[a.Token] = first
		silent, doomed := r.revoking[a.Token]
		if !doomed {
			silent = latest(r.began, r.last[a.Node], first)
			if now.Sub(silent) < r.times.wait(time.Duration(a.Lease)) {
				continue
			}
			r.revoking[a.Token] = silent
		}
		due = append(due, &fsm.Expire{Token: a.Token, Reign: r.index, Silent: fsm.Duration(now.Sub(silent))})
	}
	r.since = seen
	return due
}

// accounted says whether all these machines have said what they run, or this reign is so old that a lease which nobody
// renewed has ended everywhere.
func (r *reign) accounted(nodes iter.Seq[*fsm.Node], lease time.Duration, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.began) >= r.times.wait(lease) {
		return true
	}
	for n := range nodes {
		if !n.NoExec && !r.settled[n.ID] {
			return false
		}
	}
	return true
}

func latest(times ...time.Time) time.Time {
	return slices.MaxFunc(times, time.Time.Compare)
}
