package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// told is one call of a made-up history; times in milliseconds.
type told struct {
	op           string
	called, back int
	r            reply
}

// TestAHistoryThatCannotBeIsRefusedAndDrawn is G5's own trial: what a correct cluster may answer is accepted, and each lie is
// refused.
func TestAHistoryThatCannotBeIsRefusedAndDrawn(t *testing.T) {
	saw := func(id uint64, attempt int, s stage, cancelled bool) reply {
		return reply{known: known{id: id, attempt: attempt, stage: s, cancelled: cancelled}}
	}
	one, unknown, missing := saw(7, 0, waiting, false), reply{unknown: true}, reply{missing: true}
	for _, c := range []struct {
		name  string
		calls []told
		lie   bool
	}{
		{"submitted and read", []told{{opSubmit, 0, 10, one}, {opGet, 20, 30, one}}, false},
		{"read before and after", []told{{opGet, 0, 5, missing}, {opSubmit, 10, 20, one}, {opGet, 30, 40, one}}, false},
		{"lost", []told{{opSubmit, 0, 10, one}, {opGet, 20, 30, missing}}, true},
		{"a read while it is submitted may see nothing", []told{{opSubmit, 0, 50, one}, {opGet, 20, 30, missing}}, false},
		{"two numbers", []told{{opSubmit, 0, 10, one}, {opSubmit, 20, 30, saw(8, 0, waiting, false)}}, true},
		{"the same number again", []told{{opSubmit, 0, 10, one}, {opSubmit, 20, 30, one}}, false},
		{"an unknown outcome happens late", []told{{opSubmit, 0, 10, unknown}, {opGet, 20, 30, missing}, {opSubmit, 40, 50, one}}, false},
		{"an unknown outcome is seen", []told{{opSubmit, 0, 10, unknown}, {opGet, 20, 30, one}}, false},
		{"out of nothing", []told{{opGet, 20, 30, one}}, true},
		{"it goes forward", []told{{opSubmit, 0, 10, one}, {opGet, 20, 30, saw(7, 1, running, false)}, {opGet, 40, 50, saw(7, 2, waiting, false)}, {opGet, 60, 70, saw(7, 2, ended, false)}}, false},
		{"it goes back", []told{{opSubmit, 0, 10, one}, {opGet, 20, 30, saw(7, 1, running, false)}, {opGet, 40, 50, one}}, true},
		{"an earlier attempt", []told{{opSubmit, 0, 10, one}, {opGet, 20, 30, saw(7, 2, running, false)}, {opGet, 40, 50, saw(7, 1, running, false)}}, true},
		{"after its end", []told{{opSubmit, 0, 10, one}, {opGet, 20, 30, saw(7, 1, ended, false)}, {opGet, 40, 50, saw(7, 2, running, false)}}, true},
		{"cancelled", []told{{opSubmit, 0, 10, one}, {opCancel, 20, 30, reply{}}, {opGet, 40, 50, saw(7, 0, ended, true)}}, false},
		{"a cancel is lost", []told{{opSubmit, 0, 10, one}, {opCancel, 20, 30, reply{}}, {opGet, 40, 50, one}}, true},
		{"nobody cancelled", []told{{opSubmit, 0, 10, one}, {opGet, 40, 50, saw(7, 0, ended, true)}}, true},
		{"an unknown cancel is seen late", []told{{opSubmit, 0, 10, one}, {opCancel, 20, 30, unknown}, {opGet, 40, 50, one}, {opGet, 60, 70, saw(7, 0, ended, true)}}, false},
		{"a cancel is undone", []told{{opSubmit, 0, 10, one}, {opCancel, 20, 30, unknown}, {opGet, 40, 50, saw(7, 0, waiting, true)}, {opGet, 60, 70, one}}, true},
		{"a cancel that came too late", []told{{opSubmit, 0, 10, one}, {opCancel, 20, 30, reply{already: true}}, {opGet, 40, 50, saw(7, 0, ended, false)}}, false},
		{"a cancel that came too late for what waits", []told{{opSubmit, 0, 10, one}, {opCancel, 20, 30, reply{already: true}}, {opGet, 40, 50, one}}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var o ops
			o.began = time.Now().Add(-time.Minute)
			for i, call := range c.calls {
				o.record(i, wish{call.op, "key"}, o.began.Add(time.Duration(call.called)*time.Millisecond), call.r)
				if !call.r.unknown {
					o.all[i].Return = int64(call.back) * 1e6
				}
			}
			// Another key does not matter.
			o.record(99, wish{opGet, "other"}, o.began, missing)
			picture := filepath.Join(t.TempDir(), "linear.html")
			err := o.check(picture)
			if c.lie != (err != nil) {
				t.Fatalf("got %v", err)
			}
			text, _ := os.ReadFile(picture)
			if c.lie && (!strings.Contains(err.Error(), "G5") || !strings.Contains(string(text), "<html")) {
				t.Errorf("%v, %d bytes are drawn", err, len(text))
			}
		})
	}
}
