package worker

import (
	"testing"
	"time"
)

// The supervisor decides what stands still; the worker tells it, with the time it began, until it is over.
func TestFrozenIsTold(t *testing.T) {
	tell(t, func(t *testing.T, l *lab) {
		l.start()
		token := l.seat.assignLeased(5 * time.Minute).Attempt.Token
		l.after(time.Minute)
		l.cluster.change(func() { l.cluster.away = true })
		l.after(5*time.Minute - 2*time.Second)
		if f := l.worker.Frozen(); len(f) != 0 {
			t.Errorf("frozen before its lease ended: %+v", f)
		}
		l.after(5 * time.Second)
		l.machine.change(func() { // now, as its supervisor decided by itself
			r := l.machine.records[token.String()]
			r.frozen, r.since = true, l.story.boottime()
		})
		since := time.Now()
		l.after(20 * time.Minute)
		f := l.worker.Frozen()
		if len(f) != 1 || f[0].Token != token || f[0].Experiment != 1 || !f[0].Since.Equal(since.Round(time.Second)) || f[0].Lease != 5*time.Minute {
			t.Fatalf("told %+v, frozen since %s", f, since)
		}
		l.machine.change(func() { l.machine.unkind = true })
		l.after(time.Minute)
		if f := l.worker.Frozen(); len(f) != 1 {
			t.Errorf("a supervisor that does not answer thaws nothing: %+v", f)
		}
		l.machine.change(func() { l.machine.unkind = false })
		l.cluster.change(func() { l.cluster.away = false })
		l.after(10 * time.Second)
		if f := l.worker.Frozen(); len(f) != 0 {
			t.Errorf("still told after the word came: %+v", f)
		}
	})
}
