package main

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSummaries(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i) // 100 down to 1: order must not matter
	}
	for _, c := range []struct {
		name    string
		samples []float64
		want    summary
	}{
		{"nothing", nil, summary{}},
		{"one is everything", []float64{7}, summary{1, 7, 7, 7, 7}},
		{"the middle of two is between them", []float64{4, 2}, summary{2, 2, 3, 4, 4}},
		{"the middle of three is one of them", []float64{9, 1, 2}, summary{3, 1, 2, 9, 9}},
		{"one of a hundred may exceed p99", hundred, summary{100, 1, 50.5, 99, 100}},
		{"of fewer, none may", hundred[:99], summary{99, 2, 51, 100, 100}},
	} {
		before := append([]float64(nil), c.samples...)
		if diff := cmp.Diff(c.want, summarize(c.samples)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if !cmp.Equal(before, c.samples) {
			t.Errorf("%s: the samples were reordered", c.name)
		}
	}
}

func TestPercentilesWereReallySeen(t *testing.T) {
	s := []float64{10, 20, 30, 40}
	for _, c := range []struct{ p, want float64 }{{0, 10}, {25, 10}, {25.1, 20}, {50, 20}, {75, 30}, {99, 40}, {100, 40}} {
		if got := percentile(s, c.p); got != c.want {
			t.Errorf("percentile %v of %v is %v, want %v", c.p, s, got, c.want)
		}
	}
}

// at makes a mark from milliseconds.
func at(node, slot string, start, end int64) mark {
	return mark{Node: node, Slot: slot, Start: start * int64(time.Millisecond), End: end * int64(time.Millisecond)}
}

func TestGapsAreCountedOnEachSlot(t *testing.T) {
	const msec = time.Millisecond
	for _, c := range []struct {
		name  string
		marks []mark
		want  refillResult
	}{
		{"no job", nil, refillResult{}},
		{"one job leaves no gap", []mark{at("a", "0", 0, 500)}, refillResult{Slots: 1}},
		{
			"one slot, three jobs, told in no order: 1000 of 1050 ms are busy until the last one starts",
			[]mark{at("a", "0", 520, 1020), at("a", "0", 0, 500), at("a", "0", 1050, 1550)},
			refillResult{Slots: 1, Gaps: []time.Duration{20 * msec, 30 * msec}, Busy: 1000.0 / 1050},
		},
		{
			"the same card number on two nodes is two cards",
			[]mark{at("a", "0", 0, 500), at("b", "0", 100, 600), at("b", "0", 610, 1110), at("a", "0", 540, 1040)},
			refillResult{Slots: 2, Gaps: []time.Duration{40 * msec, 10 * msec}, Busy: (500 + 70 + 500) / (2 * 610.0)},
		},
		{
			"two jobs at once on one card are told, not averaged away",
			[]mark{at("a", "0", 0, 500), at("a", "0", 450, 950)},
			refillResult{Slots: 1, Gaps: []time.Duration{-50 * msec}, Busy: 1, Overlaps: 1},
		},
	} {
		near := cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) < 1e-9 })
		if diff := cmp.Diff(c.want, refills(c.marks), near); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestProcessStatIsReadPastAnyName(t *testing.T) {
	const tail = " S 1 2 2 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 12345 1000000 5000 18446744073709551615"
	want := usageOf{cpu: 3 * time.Second, rss: 20.48}
	for _, name := range []string{"(cvlab)", "(a) b (c))", "(1 2 3)"} {
		got, err := parseStat("77 "+name+tail, 4096)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v; want %+v", name, got, err, want)
		}
	}
	for _, bad := range []string{"", "77 (cvlab) S 1 2", "no bracket at all", "77 (x)" + " S 1 2 2 0 -1 4194304 100 0 0 0 many 50 0 0 20 0 9 0 12345 1000000 5000 1"} {
		if got, err := parseStat(bad, 4096); err == nil {
			t.Errorf("%q was read as %+v", bad, got)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("77 (cvlab) S 1 2 2 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 12345 1000000 5000 1")
	f.Add(") ) )")
	f.Fuzz(func(t *testing.T, text string) {
		if u, err := parseStat(text, 4096); err == nil && u.rss < 0 {
			t.Errorf("%q: negative memory %v", text, u.rss)
		}
	})
}
