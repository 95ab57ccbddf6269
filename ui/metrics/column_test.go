package metrics

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// walk makes a random walk with a few peaks that stand out by far.
func walk(n int, seed uint64) []Point {
	rnd := rand.New(rand.NewPCG(seed, 1))
	points := make([]Point, n)
	v := 0.0
	for i := range points {
		v += rnd.NormFloat64()
		points[i] = Point{Step: float64(i + 1), Wall: 1e9 + float64(i), Value: v}
		if rnd.IntN(1000) == 0 {
			points[i].Value += 1e6 * rnd.Float64()
		}
	}
	return points
}

// TestNoPeakIsLost draws columns that grew in random pieces and asks for random windows: the extremes, the number of points,
// the last value and the mean are those of the points themselves.
func TestNoPeakIsLost(t *testing.T) {
	dir := t.TempDir()
	id := 0
	rapid.Check(t, func(t *rapid.T) {
		id++
		points := walk(rapid.IntRange(1, 20_000).Draw(t, "points"), rapid.Uint64().Draw(t, "seed"))
		for range rapid.IntRange(0, 5).Draw(t, "holes") {
			points[rapid.IntRange(0, len(points)-1).Draw(t, "hole")].Value = math.Inf(1)
		}
		c := &column{dir: dir, id: id}
		defer c.remove()
		for rest := points; len(rest) > 0; {
			n := min(len(rest), rapid.IntRange(1, 9000).Draw(t, "piece"))
			if err := c.append(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		low := rapid.IntRange(1, len(points)).Draw(t, "low")
		high := rapid.IntRange(low, len(points)).Draw(t, "high")
		want := rapid.IntRange(1, 2000).Draw(t, "want")
		got, err := c.chart(new(scratch), float64(low), float64(high), want)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 || len(got) > want {
			t.Fatalf("%d buckets, want 1 to %d", len(got), want)
		}
		// The first and the last bucket may reach beyond the window, since a record stands for fan points.
		lo, hi := int(got[0].From), int(got[len(got)-1].To)
		if lo > low || hi < high {
			t.Fatalf("steps %d to %d for a window of %d to %d", lo, hi, low, high)
		}
		all := bucketOf(points[lo-1])
		for i := lo; i < hi; i++ {
			b := bucketOf(points[i])
			all.add(&b)
		}
		sum := got[0]
		for i := range got[1:] {
			if got[i+1].From != got[i].To+1 {
				t.Fatalf("a bucket ends at %v and the next begins at %v", got[i].To, got[i+1].From)
			}
			sum.add(&got[i+1])
		}
		if math.Abs(sum.Sum-all.Sum) > 1e-6*math.Abs(all.Sum)+1e-3 {
			t.Fatalf("sum %v, want %v", sum.Sum, all.Sum)
		}
		sum.Sum, all.Sum = 0, 0
		if diff := cmp.Diff(all, sum); diff != "" && all.Finite > 0 {
			t.Fatalf("(-points +chart)\n%s", diff)
		}
	})
}

// A window of a long series is as fine as its points when few are in it.
func TestNarrowWindowIsExact(t *testing.T) {
	c := &column{dir: t.TempDir()}
	points := walk(200_000, 7)
	if err := c.append(points); err != nil {
		t.Fatal(err)
	}
	got, err := c.chart(new(scratch), 150_000, 150_099, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 100 || got[0].From != 150_000 || got[99].Last != points[150_098].Value {
		t.Errorf("%d buckets from %v", len(got), got[0].From)
	}
	if got, err := c.chart(new(scratch), 300_000, 400_000, 10); err != nil || len(got) != 0 {
		t.Errorf("beyond the end: %d buckets, %v", len(got), err)
	}
}

// What was written after the last save is cut off; what is missing is noticed.
func TestTrim(t *testing.T) {
	c := &column{dir: t.TempDir()}
	points := walk(1000, 3)
	if err := c.append(points[:600]); err != nil {
		t.Fatal(err)
	}
	saved := *c
	if err := c.append(points[600:]); err != nil {
		t.Fatal(err)
	}
	again := saved
	if err := again.trim(); err != nil {
		t.Fatal(err)
	}
	if err := again.append(points[600:]); err != nil {
		t.Fatal(err)
	}
	got, err := again.chart(new(scratch), 0, 1e9, 1000)
	if err != nil || len(got) != 1000 {
		t.Fatalf("%d points, %v", len(got), err)
	}
	for i, b := range got {
		if b.Last != points[i].Value {
			t.Fatalf("point %d is %v, want %v", i, b.Last, points[i].Value)
		}
	}
	for level := range 3 {
		if err := os.Truncate(again.path(level), 8); err != nil {
			t.Fatal(err)
		}
		if err := again.trim(); err == nil {
			t.Errorf("level %d was cut and nobody saw it", level)
		}
	}
}

// BenchmarkChart answers 100 series of a million points with 1,000 buckets each.
func BenchmarkChart(b *testing.B) {
	dir := b.TempDir()
	points := walk(1_000_000, 1)
	columns := make([]column, 100)
	for i := range columns {
		columns[i] = column{dir: dir, id: i}
		if err := columns[i].append(points); err != nil {
			b.Fatal(err)
		}
	}
	for _, want := range []int{300, 1000} {
		b.Run(fmt.Sprintf("100_series/%d_buckets", want), func(b *testing.B) {
			var s scratch
			for b.Loop() {
				for i := range columns {
					if _, err := columns[i].chart(&s, math.Inf(-1), math.Inf(1), want); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
