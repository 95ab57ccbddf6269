package worker

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deveronica/cvlab/executor"
	"github.com/deveronica/cvlab/fsm"
)

// cluster answers questions about leases as a test wants.
type cluster struct {
	story *story
	seat  *seat

	mu      sync.Mutex
	asked   []time.Duration // when, on the machine's clock
	about   [][]fsm.Token
	takes   time.Duration
	away    bool
	revoked map[fsm.Token]bool
	facts   bool // a token that the leader's facts do not know is told
}

// Renew implements Renewals.
func (c *cluster) Renew(ctx context.Context, tokens []fsm.Token) (v Verdict, err error) {
	c.mu.Lock()
	c.asked, c.about = append(c.asked, c.story.boottime()), append(c.about, tokens)
	takes, away := c.takes, c.away
	c.mu.Unlock()
	if !pause(ctx, takes) {
		return Verdict{}, ctx.Err()
	}
	if away {
		return Verdict{}, errors.New("nobody answers")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range tokens {
		switch {
		case c.revoked[t]:
			v.Revoked = append(v.Revoked, t)
		case c.facts && c.seat.leader.View().Attempt(t) == nil:
			v.Unknown = append(v.Unknown, t)
		default:
			v.Valid = append(v.Valid, t)
		}
	}
	return v, nil
}

func (c *cluster) change(do func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	do()
}

func (c *cluster) revoke(t fsm.Token) { c.change(func() { c.revoked = map[fsm.Token]bool{t: true} }) }

// questions gives how far apart the questions were since the last call.
func (c *cluster) questions() []time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	var gaps []time.Duration
	for i := 1; i < len(c.asked); i++ {
		gaps = append(gaps, c.asked[i]-c.asked[i-1])
	}
	c.asked = nil
	return gaps
}

func TestRenewals(t *testing.T) {
	for _, c := range []struct {
		name         string
		lease, takes time.Duration
		away         bool
		want         time.Duration
	}{
		{"usual", 5 * time.Minute, 0, false, 10 * time.Second},
		{"short", time.Minute, 0, false, 6 * time.Second},
		{"slow answers", 5 * time.Minute, 3 * time.Second, false, 13 * time.Second},
		{"no answers", 5 * time.Minute, 0, true, 2500 * time.Millisecond},
		{"answers that never come", 5 * time.Minute, time.Hour, false, 22500 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			tell(t, func(t *testing.T, l *lab) {
				l.start()
				l.cluster.change(func() { l.cluster.takes, l.cluster.away = c.takes, c.away })
				o := l.seat.assignLeased(c.lease)
				l.after(2 * time.Minute) // the attempt's first one comes early
				l.cluster.questions()
				l.after(3 * time.Minute)
				gaps := l.cluster.questions()
				if len(gaps) < 3 || slices.Min(gaps) != c.want || slices.Max(gaps) != c.want {
					t.Errorf("asked every %v, want %s", gaps, c.want)
				}
				l.cluster.mu.Lock()
				defer l.cluster.mu.Unlock()
				if got := l.cluster.about[len(l.cluster.about)-1]; !cmp.Equal(got, []fsm.Token{o.Attempt.Token}) {
					t.Errorf("asked about %v", got)
				}
			})
		})
	}
}

// A lease counts from when the question was sent, not from when the answer came.
func TestLeaseCountsFromTheQuestion(t *testing.T) {
	tell(t, func(t *testing.T, l *lab) {
		l.start()
		l.cluster.questions() // the one of the start
		l.cluster.change(func() { l.cluster.takes = 3 * time.Second })
		o := l.seat.assignLeased(5 * time.Minute)
		l.after(time.Minute)
		told := l.machine.renewed(o.Attempt.Token)
		l.cluster.mu.Lock()
		defer l.cluster.mu.Unlock()
		if len(told) < 3 || !cmp.Equal(told, l.cluster.asked[:len(told)]) {
			t.Errorf("the supervisor was told %v, asked at %v", told, l.cluster.asked)
		}
	})
}

// An attempt that holds cannot end by silence, but a person may have closed it: it is asked about, slowly, and nobody but
// an end comes of it.
func TestHoldingAttemptIsAskedAbout(t *testing.T) {
	tell(t, func(t *testing.T, l *lab) {
		l.start()
		token := l.seat.assign(command()).Attempt.Token
		l.after(time.Minute)
		l.cluster.questions()
		l.after(time.Minute)
		if gaps := l.cluster.questions(); len(gaps) < 5 || slices.Min(gaps) != renewAtMost || slices.Max(gaps) != renewAtMost {
			t.Errorf("asked every %v, want %s", gaps, renewAtMost)
		}
		if told := l.machine.renewed(token); len(told) != 0 {
			t.Errorf("its supervisor was told %v", told)
		}
		l.stop()
		l.seat.must(&fsm.Remove{Node: here, Off: true}) // a person was wrong
		l.cluster.revoke(token)
		l.start()
		l.wantEnd(token, fsm.ClassNodeLost, "was removed by ana")
		if state, settled := l.machine.state(token.String()); state != executor.Ended || !settled || l.machine.revokes != 1 {
			t.Errorf("it is %s, settled %t, after %d revokes", state, settled, l.machine.revokes)
		}
	})
}

func TestNothingIsAskedOnceNothingRuns(t *testing.T) {
	tell(t, func(t *testing.T, l *lab) {
		l.start()
		l.after(time.Hour)
		l.cluster.mu.Lock()
		defer l.cluster.mu.Unlock()
		if len(l.cluster.asked) != 1 || len(l.cluster.about[0]) != 0 {
			t.Errorf("asked %d times, about %v; want once, about nothing", len(l.cluster.asked), l.cluster.about)
		}
	})
}

// Leave to start comes when the lease, counted from before it was asked for, has ended: by a slow cluster, or because the
// machine slept meanwhile. Nothing is launched before the cluster has confirmed the attempt anew.
func TestLateLeaveToStart(t *testing.T) {
	for _, c := range []struct {
		name    string
		late    func(l *lab)
		revoked bool
	}{
		{"slow cluster, then confirmed", func(l *lab) { l.after(6 * time.Minute) }, false},
		{"slow cluster, then revoked", func(l *lab) { l.after(6 * time.Minute) }, true},
		{"a machine that slept", func(l *lab) { l.story.sleep(6 * time.Minute) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			tell(t, func(t *testing.T, l *lab) {
				l.start()
				l.cluster.change(func() { l.cluster.away = true })
				release := l.seat.hold()
				token := l.seat.assignLeased(5 * time.Minute).Attempt.Token
				synctest.Wait()
				c.late(l)
				release()
				l.after(time.Second)
				l.wantLaunches(token, 0)
				if c.revoked {
					l.cluster.revoke(token)
				}
				l.cluster.change(func() { l.cluster.away = false })
				l.after(10 * time.Second)
				if c.revoked {
					l.wantLaunches(token, 0)
					if _, settled := l.machine.state(token.String()); !settled {
						t.Error("the record was kept")
					}
					return
				}
				l.wantLaunches(token, 1)
			})
		})
	}
}

// A machine comes back and finds a job running that runs elsewhere by now.
func TestRevokedAttemptIsKilled(t *testing.T) {
	tell(t, func(t *testing.T, l *lab) {
		l.start()
		token := l.seat.assignLeased(5 * time.Minute).Attempt.Token
		l.after(time.Second)
		l.wantLaunches(token, 1)
		l.stop()
		l.seat.must(&fsm.Reign{Node: elsewhere})
		l.seat.must(&fsm.Expire{Token: token, Reign: l.seat.leader.View().Reign(), Silent: fsm.Duration(time.Hour)})
		l.cluster.revoke(token)
		l.machine.change(func() { l.machine.deaf = 2 })
		l.start() // asks at once, for what was found on disk
		if state, _ := l.machine.state(token.String()); state != executor.Running {
			t.Fatalf("it is %s although nobody heard the revoke", state)
		}
		l.after(30 * time.Second)
		if state, settled := l.machine.state(token.String()); state != executor.Ended || !settled {
			t.Errorf("it is %s, settled %t", state, settled)
		}
		if l.machine.revokes != 3 {
			t.Errorf("revoked %d times, want until it was heard", l.machine.revokes)
		}
		l.wantEnd(token, fsm.ClassNodeLost, "was not heard")
		l.wantLaunches(token, 1)
	})
}
