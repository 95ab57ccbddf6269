package executor

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/deveronica/cvlab/executor/supervisor"
)

// playClock is a job that writes the time since boot into a file every few milliseconds, and so does a child of it in a
// session of its own.
func playClock(file string, child bool) {
	if child {
		c := exec.Command(os.Args[0], "play", "clock", file+".child", "")
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := c.Start(); err != nil {
			fmt.Println(err)
		}
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		fmt.Println(err)
		return
	}
	for {
		f.Write(binary.LittleEndian.AppendUint64(nil, uint64(supervisor.Boottime())))
		time.Sleep(5 * time.Millisecond)
	}
}

// stamped gives the newest time in the file.
func stamped(file string) time.Duration {
	data, _ := os.ReadFile(file)
	if len(data) < 8 {
		return 0
	}
	data = data[:len(data)/8*8]
	return time.Duration(binary.LittleEndian.Uint64(data[len(data)-8:]))
}

// clockJob is a job under a lease that shows when it executes.
type clockJob struct {
	*bench
	token string
	files []string
}

func newClock(b *bench, lease time.Duration, policy string) *clockJob {
	b.t.Helper()
	file := filepath.Join(b.t.TempDir(), "clock")
	c := &clockJob{bench: b, token: "1-1", files: []string{file, file + ".child"}}
	j := b.job(c.token, os.Args[0], "play", "clock", file, "child")
	j.Lease, j.ContactLoss = lease, policy
	b.start(j)
	until(b.t, "the clocks to run", func() bool { return stamped(c.files[0]) > 0 && stamped(c.files[1]) > 0 })
	return c
}

// newest is when any process of the job last executed.
func (c *clockJob) newest() time.Duration { return max(stamped(c.files[0]), stamped(c.files[1])) }

// stands says whether nothing of the job has executed for a while.
func (c *clockJob) stands() bool { return Boottime()-c.newest() > 400*time.Millisecond }

// runs waits until both processes have executed again.
func (c *clockJob) runs() {
	c.t.Helper()
	now := Boottime()
	until(c.t, "both clocks to go on", func() bool { return stamped(c.files[0]) > now && stamped(c.files[1]) > now })
}

func (c *clockJob) renew(sent time.Duration) {
	c.t.Helper()
	if err := c.Renew(c.t.Context(), c.token, sent); err != nil {
		c.t.Fatal(err)
	}
}

// ofBoth runs a test with a cgroup for the job, where there is one, and without.
func ofBoth(t *testing.T, test func(t *testing.T, b *bench)) {
	t.Helper()
	for _, without := range []bool{false, true} {
		t.Run(fmt.Sprintf("without cgroup %t", without), func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.withoutCgroup = without
			test(t, b)
		})
	}
}

// lateness is what a busy machine may add to the 100 ms that are promised.
const lateness = 700 * time.Millisecond

// A job executes until its lease ends, then nothing of it does, whatever session it is in. An answer to a question of before
// the freeze changes nothing; one to a later question lets the same processes go on.
func TestFreezeAndThaw(t *testing.T) {
	ofBoth(t, func(t *testing.T, b *bench) {
		const lease = 1500 * time.Millisecond
		c := newClock(b, lease, "")
		pid := c.life(c.token).Job.PID
		c.runs()
		sent := Boottime()
		c.renew(sent)
		until(t, "the job to stand still", c.stands)
		if last := c.newest(); last < sent+lease-200*time.Millisecond || last > sent+lease+lateness {
			t.Errorf("it executed until %s after the renewal, want until its lease of %s ended", last-sent, lease)
		}
		last := c.newest()
		c.renew(sent + lease/2) // the answer was late, or a second one came
		now := Boottime()
		until(t, "time to pass", func() bool { return Boottime() > now+500*time.Millisecond })
		if c.newest() != last {
			t.Fatalf("an answer to a question of before the freeze thawed it")
		}
		c.renew(Boottime())
		c.runs()
		if got := c.life(c.token).Job.PID; got != pid || c.state(c.token) != Running {
			t.Errorf("process %d is now %d, attempt %s", pid, got, c.state(c.token))
		}
	})
}

func (b *bench) state(token string) State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.attempts[token].state
}

func TestRenewedJobIsNeverFrozen(t *testing.T) {
	b := newBench(t)
	c := newClock(b, time.Second, "freeze")
	var gap, before time.Duration
	for end := Boottime() + 4*time.Second; Boottime() < end; {
		c.renew(Boottime())
		before = c.newest()
		c.runs()
		gap = max(gap, c.newest()-before)
	}
	if gap > 900*time.Millisecond {
		t.Errorf("it stood still for %s while it was renewed", gap)
	}
}

// Nobody is left who could tell the supervisor anything.
func TestDeadDaemonsJobIsFrozen(t *testing.T) {
	b := newBench(t)
	c := newClock(b, time.Second, "freeze")
	b.stop()
	until(t, "the job to stand still", c.stands)
	n, found := b.again()
	c.bench = n
	if f := found[c.token]; f.State != Running || f.Lease != time.Second || f.LeaseStart == 0 {
		t.Errorf("found %+v", f)
	}
	c.renew(Boottime())
	c.runs()
	until(t, "the job to stand still", c.stands)
	last := c.newest()
	if err := n.Revoke(t.Context(), c.token, "it runs elsewhere"); err != nil {
		t.Fatal(err)
	}
	e := n.wait(c.token)
	if e.Reason != supervisor.ReasonRevoked || e.Message != "it runs elsewhere" || e.Signal != 9 {
		t.Errorf("ended as %+v", e)
	}
	if c.newest() != last {
		t.Error("it executed between the freeze and its end")
	}
	if !supervisor.Buried(n.dir(c.token)) {
		t.Error("a revoked attempt has no tombstone")
	}
	if err := n.Forget(t.Context(), c.token); err != nil {
		t.Errorf("forget: %v", err)
	}
	if left := n.living(); len(left) != 0 {
		t.Errorf("processes %v are left", left)
	}
}

// What is frozen is not let go to end in order.
func TestStopOfFrozenJob(t *testing.T) {
	ofBoth(t, func(t *testing.T, b *bench) {
		c := newClock(b, 500*time.Millisecond, "")
		until(t, "the job to stand still", c.stands)
		last := c.newest()
		if err := b.Stop(t.Context(), c.token, "cancelled"); err != nil {
			t.Fatal(err)
		}
		if e := b.wait(c.token); e.Reason != supervisor.ReasonStopped || e.Signal != 9 || c.newest() != last {
			t.Errorf("ended as %+v, executed %s longer", e, c.newest()-last)
		}
	})
}

func TestPolicies(t *testing.T) {
	t.Run("kill", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		c := newClock(b, 700*time.Millisecond, "kill")
		e := b.wait(c.token)
		if e.Reason != supervisor.ReasonLeaseExpired || e.Signal != 9 || e.Message == "" {
			t.Errorf("ended as %+v", e)
		}
	})
	t.Run("keep", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		c := newClock(b, 300*time.Millisecond, "keep")
		began := Boottime()
		until(t, "three leases to pass", func() bool { return Boottime() > began+time.Second })
		c.runs()
	})
}

func TestWarningBeforeTheEnd(t *testing.T) {
	b := newBench(t)
	j := b.job("1-1", os.Args[0], "play", "listener")
	j.Lease = 2 * time.Second
	b.start(j)
	began := Boottime()
	b.untilLog("1-1", "ready")
	b.untilLog("1-1", "got user defined signal 1")
	if d := Boottime() - began; d < time.Second || d > 2*time.Second+lateness {
		t.Errorf("told after %s, want a quarter of 2 s before the end", d)
	}
}

// Between leave to start and the start a machine may sleep for hours.
func TestLateLaunch(t *testing.T) {
	b := newBench(t)
	for i, renewed := range []bool{false, true} {
		j := b.job(fmt.Sprintf("1-%d", i+1), "sleep", "1000")
		j.Lease = 300 * time.Millisecond
		if err := b.Prepare(t.Context(), j); err != nil {
			t.Fatal(err)
		}
		began := Boottime()
		until(t, "the lease to pass", func() bool { return Boottime() > began+j.Lease })
		if renewed {
			if err := b.Renew(t.Context(), j.Token, Boottime()); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Launch(t.Context(), j.Token); err != nil {
			t.Fatal(err)
		}
		if renewed {
			continue // it runs; the bench ends it
		}
		if e := b.wait(j.Token); e.Reason != supervisor.ReasonLeaseExpired || len(bytes.TrimSpace([]byte(e.Message))) == 0 {
			t.Errorf("ended as %+v", e)
		}
	}
	if got := b.Running(); len(got) != 1 || got[0] != "1-2" {
		t.Errorf("%v run, want 1-2", got)
	}
}

// An attempt that nobody vouches for stands still, whatever is renewed, until somebody ends it.
func TestFrozenForGood(t *testing.T) {
	for _, lease := range []time.Duration{0, 2 * time.Second} {
		t.Run(fmt.Sprintf("lease %s", lease), func(t *testing.T) {
			ofBoth(t, func(t *testing.T, b *bench) {
				c := newClock(b, lease, "")
				if s, err := b.Standing(t.Context(), c.token); err != nil || s != (Standing{}) {
					t.Errorf("before: %+v, %v", s, err)
				}
				if err := b.Freeze(t.Context(), c.token, "experiment 1 runs elsewhere"); err != nil {
					t.Fatal(err)
				}
				until(t, "the job to stand still", c.stands)
				last, end := c.newest(), Boottime()+lease
				until(t, "its lease to end, too", func() bool { return Boottime() > end })
				c.renew(Boottime())
				n, _ := b.again()
				c.bench = n
				if err := n.Freeze(t.Context(), c.token, "asked again"); err != nil {
					t.Fatal(err)
				}
				now := Boottime()
				until(t, "time to pass", func() bool { return Boottime() > now+500*time.Millisecond })
				if c.newest() != last {
					t.Fatal("a renewal or a new daemon let it go on")
				}
				if s, err := n.Standing(t.Context(), c.token); err != nil || !s.Frozen || s.Held != "experiment 1 runs elsewhere" || s.For < 500*time.Millisecond {
					t.Errorf("it stands as %+v, %v", s, err)
				}
				if err := n.Revoke(t.Context(), c.token, "killed by ana"); err != nil {
					t.Fatal(err)
				}
				if e := n.wait(c.token); e.Reason != supervisor.ReasonRevoked || e.Message != "killed by ana" || c.newest() != last {
					t.Errorf("ended as %+v, executed %s longer", e, c.newest()-last)
				}
			})
		})
	}
}
