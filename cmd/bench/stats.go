package main

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"
)

// summary condenses samples of one kind, in one unit. The zero value means that there were none.
type summary struct {
	N      int     `json:"n"`
	Min    float64 `json:"min"`
	Median float64 `json:"median"`
	P99    float64 `json:"p99"` // with fewer than 100 samples, the greatest one
	Max    float64 `json:"max"`
}

// summarize condenses samples; it leaves their order alone.
func summarize(samples []float64) summary {
	if len(samples) == 0 {
		return summary{}
	}
	s := slices.Sorted(slices.Values(samples))
	return summary{N: len(s), Min: s[0], Median: median(s), P99: percentile(s, 99), Max: s[len(s)-1]}
}

// median of sorted samples: the middle one, or the mean of the middle two.
func median(sorted []float64) float64 {
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// percentile gives the smallest sample that at least p percent of the sorted samples do not exceed (nearest rank): a value
// that was really seen, never an interpolation.
func percentile(sorted []float64, p float64) float64 {
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// millis gives durations in milliseconds.
func millis(ds []time.Duration) []float64 {
	out := make([]float64, 0, len(ds))
	for _, d := range ds {
		out = append(out, ms(d))
	}
	return out
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// refillResult says how well slots were kept busy.
type refillResult struct {
	Slots int
	Gaps  []time.Duration // on each slot, from each end to the next start
	// Busy is the share of slot time in which a job ran, from the first start to the last: later no job waits any more,
	// and an empty queue is nobody's fault.
	Busy float64
	// Overlaps counts jobs that began on a slot before the previous one there had ended; it must be 0.
	Overlaps int
}

// refills computes the gaps between the jobs of each slot. Two slots are the same when node and GPUs are.
func refills(marks []mark) refillResult {
	type slot struct{ node, gpus string }
	slots := map[slot][]mark{}
	for _, m := range marks {
		k := slot{m.Node, m.Slot}
		slots[k] = append(slots[k], m)
	}
	r := refillResult{Slots: len(slots)}
	if len(marks) == 0 {
		return r
	}
	byStart := func(a, b mark) int { return cmp.Compare(a.Start, b.Start) }
	from, to := slices.MinFunc(marks, byStart).Start, slices.MaxFunc(marks, byStart).Start
	var busy int64
	order := slices.SortedFunc(maps.Keys(slots), func(a, b slot) int {
		return cmp.Or(cmp.Compare(a.node, b.node), cmp.Compare(a.gpus, b.gpus))
	})
	for _, k := range order {
		jobs := slices.SortedFunc(slices.Values(slots[k]), byStart)
		for i, m := range jobs {
			busy += max(min(m.End, to)-m.Start, 0)
			if i == 0 {
				continue
			}
			gap := time.Duration(m.Start - jobs[i-1].End)
			if gap < 0 {
				r.Overlaps++
			}
			r.Gaps = append(r.Gaps, gap)
		}
	}
	if to > from {
		r.Busy = float64(busy) / (float64(to-from) * float64(len(slots)))
	}
	return r
}
