package supervisor

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestLeaseSteps(t *testing.T) {
	const f = 5 * time.Minute
	l := NewLease(f, 0, "")
	for _, c := range []struct {
		at   time.Duration
		want LeaseStep
	}{
		{0, LeaseNothing}, {f - 30*time.Second - 1, LeaseNothing}, {f - 30*time.Second, LeaseWarn}, {f - 1, LeaseNothing},
		{f, LeaseFreeze}, {f + time.Hour, LeaseNothing},
	} {
		if got := l.Step(c.at); got != c.want {
			t.Errorf("at %s: step %d, want %d", c.at, got, c.want)
		}
	}
	if l.Renew(f-1, f+time.Hour) {
		t.Error("thawed by a question of before the freeze")
	}
	if l.Renew(f+time.Hour+1, f+time.Hour) {
		t.Error("thawed by a question of the future")
	}
	if !l.Renew(f+time.Minute, f+2*time.Minute) || l.Frozen() {
		t.Error("not thawed by a question of after it")
	}
	if got := l.Step(2*f + time.Minute - 30*time.Second); got != LeaseWarn {
		t.Errorf("step %d, want a second warning", got)
	}
	killer := NewLease(time.Minute, 0, ContactKill)
	if killer.Step(45*time.Second) != LeaseWarn || killer.Step(time.Minute) != LeaseKill {
		t.Error("the policy kill does not kill, or the warning of a short lease is not a quarter of it")
	}
	for _, hold := range []Lease{{}, NewLease(0, 0, ""), NewLease(time.Minute, 0, ContactKeep)} {
		if hold.Step(1000*time.Hour) != LeaseNothing || hold.Over(1000*time.Hour) {
			t.Error("a lease that holds has ended")
		}
	}
}

// Whatever comes in whatever order: nothing executes later than a lease after the newest question that was answered, and what
// was frozen only goes on after a question of after the freeze.
func TestLeaseNeverOutlivesItsWord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const f = time.Minute
		l := NewLease(f, 0, "")
		var now, word, froze time.Duration
		executes := true
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now += time.Duration(rapid.IntRange(0, 40).Draw(t, "seconds")) * time.Second
			if l.Step(now) == LeaseFreeze {
				executes, froze = false, now
			}
			if rapid.Bool().Draw(t, "answer") {
				sent := time.Duration(rapid.Int64Range(0, int64(now)).Draw(t, "sent"))
				word = max(word, sent)
				if l.Renew(sent, now) {
					if executes || sent <= froze {
						t.Fatalf("thawed at %s by a question of %s, frozen at %s", now, sent, froze)
					}
					executes = true
				}
			}
			if executes != !l.Frozen() || executes && now >= word+f {
				t.Fatalf("executes at %s, the newest question is of %s", now, word)
			}
		}
	})
}
