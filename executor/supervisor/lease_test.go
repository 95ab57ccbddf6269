package supervisor

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
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

// The lease is in the record of an attempt, where a supervisor of any version finds it.
func TestLeaseInRecord(t *testing.T) {
	rec := sampleRecord()
	rec.Limits.Lease, rec.LeaseStart, rec.ContactLoss = 5*time.Minute, 1234567890123, ContactKill
	got, err := EncodeRecord(rec)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join("testdata", "attempt-lease.json.v1"))
	if err != nil || string(got) != string(want) {
		t.Errorf("%v, %s", err, cmp.Diff(string(want), string(got)))
	}
	back, err := DecodeRecord(want)
	if diff := cmp.Diff(rec, back); err != nil || diff != "" {
		t.Error(err, diff)
	}
	for _, spoil := range []func(*Record){
		func(r *Record) { r.Limits.Lease = -1 },
		func(r *Record) { r.LeaseStart = -1 },
		func(r *Record) { r.ContactLoss = "explode" },
	} {
		bad := rec
		spoil(&bad)
		if _, err := EncodeRecord(bad); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}
