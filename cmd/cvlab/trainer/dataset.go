package trainer

import (
	"bufio"
	"compress/gzip"
	_ "embed"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
)

//go:embed data/digits.csv.gz
var digitsGz string

const (
	digitPixels  = 64
	digitClasses = 10
	digitMax     = 16 // the brightest pixel
	valShare     = 5  // one image in five is kept for validation
)

// Dataset is a set of labelled samples. It is read-only once made.
type Dataset struct {
	X        []float64 // sample i is X[i*Features : (i+1)*Features], scaled to 0..1
	Y        []int     // class of sample i, from 0 to Classes-1
	Features int
	Classes  int
}

// Len is the number of samples.
func (d Dataset) Len() int { return len(d.Y) }

// At returns sample i and its class. The slice belongs to the data set.
func (d Dataset) At(i int) ([]float64, int) {
	return d.X[i*d.Features : (i+1)*d.Features], d.Y[i]
}

// Pick returns a new data set of the samples with these indexes, in this order.
func (d Dataset) Pick(indexes []int) Dataset {
	out := Dataset{Features: d.Features, Classes: d.Classes}
	for _, i := range indexes {
		x, y := d.At(i)
		out.X = append(out.X, x...)
		out.Y = append(out.Y, y)
	}
	return out
}

// Digits returns the embedded handwritten digits, split into 1,438 samples to train on and 359 to validate with. The split is
// the same in every run, whatever its seed, so that the figures of two runs can be compared.
func Digits() (train, val Dataset, err error) {
	z, err := gzip.NewReader(strings.NewReader(digitsGz))
	if err != nil {
		return Dataset{}, Dataset{}, fmt.Errorf("unpack the digits: %w", err)
	}
	all, err := readDigits(z)
	if err != nil {
		return Dataset{}, Dataset{}, fmt.Errorf("read the digits: %w", err)
	}
	order := rand.New(rand.NewPCG(1998, 0)).Perm(all.Len())
	n := all.Len() / valShare
	return all.Pick(order[n:]), all.Pick(order[:n]), nil
}

// readDigits reads lines of 64 pixels (0 to 16) and a digit.
func readDigits(r io.Reader) (Dataset, error) {
	d := Dataset{Features: digitPixels, Classes: digitClasses}
	lines := bufio.NewScanner(r)
	for line := 1; lines.Scan(); line++ {
		fields := strings.Split(lines.Text(), ",")
		if len(fields) != digitPixels+1 {
			return Dataset{}, fmt.Errorf("line %d has %d fields, want %d", line, len(fields), digitPixels+1)
		}
		for i, field := range fields {
			limit := digitMax
			if i == digitPixels {
				limit = digitClasses - 1
			}
			v, err := strconv.Atoi(field)
			if err != nil || v < 0 || v > limit {
				return Dataset{}, fmt.Errorf("line %d, field %d: %q is not a whole number from 0 to %d", line, i+1, field, limit)
			}
			if i < digitPixels {
				d.X = append(d.X, float64(v)/digitMax)
			} else {
				d.Y = append(d.Y, v)
			}
		}
	}
	return d, lines.Err()
}
