package metrics

import "math"

// Point is one value of one series.
type Point struct {
	// Step is the run's own count: epochs or batches, whatever the file says.
	Step float64
	// Wall is in seconds since 1970 UTC, NaN where the file tells no time.
	Wall float64
	// Value may be an infinity; what is no number is left out by the readers.
	Value float64
}

// Sink takes what a Reader has read. A key is a series' name within its file.
type Sink func(key string, p Point)

// noTime marks a file that tells no time.
func noTime() float64 { return math.NaN() }

// Limits of what one file may make.
const (
	// MaxKeys is how many series one file may have; a config dumped into a metrics file by mistake has more.
	MaxKeys = 1000
	// MaxKey is the length of a series' name in bytes.
	MaxKey = 256
	// maxLine is the length of a line in bytes. A longer one is skipped whole.
	maxLine = 1 << 20
)

// keySet lets in the first MaxKeys keys.
type keySet struct {
	known   map[string]bool
	dropped int
}

func (k *keySet) allows(key string) bool {
	if k.known[key] {
		return true
	}
	if key == "" || len(key) > MaxKey || len(k.known) >= MaxKeys {
		k.dropped++
		return false
	}
	if k.known == nil {
		k.known = map[string]bool{}
	}
	k.known[key] = true
	return true
}
