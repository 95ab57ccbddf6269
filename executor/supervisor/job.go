package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// drain is how long processes left behind by a finished job may finish by themselves, before they are told to end:
// enough for the "tee" at the end of a pipeline to write what it holds.
const drain = 250 * time.Millisecond

// phase is how far the job is on its way out. It only grows.
type phase int

const (
	running   phase = iota
	draining        // the main process has ended, others live, nobody has told them anything yet
	lingering       // those others have got SIGTERM
	stopping        // everything has got SIGTERM because somebody asked
	killing         // everything gets SIGKILL, again and again until nothing is left
)

func (p phase) String() string {
	return [...]string{"running", "draining", "lingering", "stopping", "killing"}[p]
}

// job is the state of the one job, owned by loop: no lock, one thing at a time.
type job struct {
	rec   Record
	main  Proc
	group *cgroup
	log   *slog.Logger

	phase   phase
	reason  string
	message string
	status  *syscall.WaitStatus // of the main process, nil while it lives
	timer   *time.Timer         // next step of the phase
	due     time.Time           // when timer fires
	pause   time.Duration       // between two rounds of killing
	lease   Lease
	ice     *freezer         // set while the job is frozen, or on its way there
	still   bool             // everything of it stands still
	since   time.Duration    // CLOCK_BOOTTIME of the freeze
	held    string           // why it is frozen for good; "" if it is not
	look    *time.Ticker     // at the lease and at a freeze that is not complete
	spent   <-chan time.Time // its time limit
	warning <-chan time.Time // a little before that
}

func newJob(rec Record, main Proc, group *cgroup, log *slog.Logger) *job {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	return &job{rec: rec, main: main, group: group, log: log, timer: timer, pause: 10 * time.Millisecond}
}

// loop stands over the job until nothing of it lives. The end of ctx means stop.
func (j *job) loop(ctx context.Context, asks <-chan ask, deaths <-chan death) {
	if limit := j.rec.Limits.TimeLimit; limit > 0 {
		j.spent, j.warning = time.After(limit), time.After(limit-limitWarning(limit))
	}
	j.look = time.NewTicker(leaseLook)
	defer j.look.Stop()
	if j.lease.Holds() {
		j.look.Stop()
	}
	told := ctx.Done()
	ops := operations()
	for {
		select {
		case d := <-deaths:
			if d.all {
				return
			}
			j.mainEnded(d.status)
		case <-told:
			told = nil
			j.stop(ReasonStopped, "its supervisor was told to end", j.rec.Limits.Grace)
		case <-j.warning:
			j.warnLimit()
		case <-j.spent:
			j.stop(ReasonTimeLimit, fmt.Sprintf("ran longer than its time limit of %s", j.rec.Limits.TimeLimit), j.rec.Limits.Grace)
		case <-j.timer.C:
			j.next()
		case <-j.look.C:
			j.keepLease(Boottime())
		case q := <-asks:
			q.reply <- j.do(ops, q.req)
		}
	}
}

// limitWarning is how long before its time limit a job is told to write a checkpoint: enough for one of a few GB, and little
// beside what it had.
func limitWarning(limit time.Duration) time.Duration { return min(longestWarning, limit/10) }

func (j *job) warnLimit() {
	if j.phase != running || j.ice != nil {
		return
	}
	n := j.hand(unix.SIGUSR1)
	j.log.Info("its time limit is near, the job is told to write a checkpoint", "limit", j.rec.Limits.TimeLimit, "reached", n)
}

// operation acts on the job inside its loop, so it must not wait for anything.
type operation func(j *job, r Request) Answer

// operations is the table of what can be asked.
func operations() map[string]operation {
	return map[string]operation{
		OpStatus: func(*job, Request) Answer { return Answer{OK: true} },
		OpStop:   opStop,
		OpSignal: opSignal,
		OpRenew:  opRenew,
		OpRevoke: opRevoke,
		OpFreeze: opFreeze,
	}
}

func (j *job) do(ops map[string]operation, r Request) Answer {
	op, ok := ops[r.Op]
	if !ok {
		return Answer{Error: fmt.Sprintf("unknown operation %q", r.Op)}
	}
	a := op(j, r)
	a.PID, a.Phase, a.Frozen, a.Held = j.main.PID, j.phase.String(), j.ice != nil, j.held
	if a.Frozen {
		a.FrozenNS = int64(Boottime() - j.since)
	}
	return a
}

func opStop(j *job, r Request) Answer {
	grace := j.rec.Limits.Grace
	if r.GraceS != nil {
		grace = time.Duration(*r.GraceS * float64(time.Second))
	}
	j.stop(ReasonStopped, r.Why, grace)
	return Answer{OK: true}
}

// opSignal gives the signal to the topmost processes that have a handler for it and to nobody else: a shell or a launcher
// in front of the training has none and would die of it, and the data loaders behind it have inherited one that is not
// meant for them.
func opSignal(j *job, r Request) Answer {
	sig := unix.SignalNum(r.Signal)
	if sig == 0 {
		return Answer{Error: fmt.Sprintf("unknown signal %q, use a name like SIGUSR1", r.Signal)}
	}
	return Answer{OK: true, Reached: j.hand(sig)}
}

// hand gives the signal to those who wait for it and says how many they were.
func (j *job) hand(sig unix.Signal) int {
	decided := map[int]bool{}
	n := 0
	for _, s := range descendants(os.Getpid()) { // nearest first, so a parent is decided before its children
		if decided[s.parent] {
			decided[s.PID] = true
			continue
		}
		if catches(s.PID, sig) && signalProc(s.Proc, sig) == nil {
			decided[s.PID] = true
			n++
		}
	}
	return n
}

// stop begins the end, or hastens it. Only the first reason counts, and none if the main process ended by itself.
func (j *job) stop(reason, message string, grace time.Duration) {
	if j.reason == "" && j.status == nil {
		j.reason, j.message = reason, message
	}
	switch {
	case j.phase == killing:
	case grace == 0 || j.ice != nil: // what is frozen may not execute, not even to end in order
		j.kill()
	case j.phase == stopping:
		j.hasten(grace)
	default:
		switch j.phase {
		case running:
			j.set(grace)
		case draining:
			j.set(min(grace, j.rec.Limits.Linger))
		default:
			j.hasten(grace)
		}
		j.log.Info("stopping", "reason", reason, "message", message, "grace", grace)
		j.phase = stopping
		j.signal(unix.SIGTERM)
		j.signal(unix.SIGCONT) // a stopped process would not see it
	}
}

func (j *job) mainEnded(status syscall.WaitStatus) {
	j.status = &status
	switch j.phase {
	case running:
		j.phase = draining
		j.set(min(drain, j.rec.Limits.Linger))
	case stopping:
		j.hasten(j.rec.Limits.Linger)
	}
}

// next does what is due.
func (j *job) next() {
	if j.phase != draining || j.ice != nil {
		j.kill()
		return
	}
	j.phase = lingering
	j.log.Info("the job left processes behind", "count", len(descendants(os.Getpid())))
	j.signal(unix.SIGTERM)
	j.signal(unix.SIGCONT)
	j.set(j.rec.Limits.Linger)
}

// kill is one round of SIGKILL. Rounds go on because a process may fork between being listed and being killed, and
// because one that hangs in the kernel has to be waited for.
func (j *job) kill() {
	if j.phase != killing {
		j.log.Info("killing", "reason", j.reason)
	}
	j.phase = killing
	j.group.kill()
	j.signal(unix.SIGKILL)
	j.set(j.pause)
	j.pause = min(2*j.pause, time.Second)
}

func (j *job) signal(sig unix.Signal) {
	for _, s := range descendants(os.Getpid()) {
		_ = signalProc(s.Proc, sig) // it has ended meanwhile, or a later round meets it
	}
}

func (j *job) set(d time.Duration) {
	j.timer.Reset(d)
	j.due = time.Now().Add(d)
}

func (j *job) hasten(d time.Duration) {
	if j.due.After(time.Now().Add(d)) {
		j.set(d)
	}
}

// exit says how it ended, once loop has returned.
func (j *job) exit() Exit {
	e := Exit{Token: j.rec.Token, Reason: j.reason, Message: j.message}
	if e.Reason == "" {
		e.Reason = ReasonExited
	}
	switch {
	case j.status == nil: // nobody waited for it: the kernel says that no child is left, so it has ended
		e.Code, e.Message = -1, "its exit code was taken by somebody else"
	case j.status.Signaled():
		e.Signal = int(j.status.Signal())
		e.Code = 128 + e.Signal
	default:
		e.Code = j.status.ExitStatus()
	}
	return e
}
