package metrics

import (
	"encoding/binary"
	"math"
)

// Bucket is what stands on one spot of a chart: some points of a series that follow each other. No peak is lost in it.
type Bucket struct {
	// From and To are the steps of its first and last point; Wall is the time of the last, NaN if unknown.
	From, To, Wall float64
	// Min and Max are NaN when no value in it is finite; MinStep and MaxStep say where they are.
	Min, MinStep, Max, MaxStep float64
	Last                       float64
	Sum                        float64 // of the finite values
	Finite, N                  uint32
}

// Mean is of the finite values, NaN if there are none.
func (b *Bucket) Mean() float64 {
	if b.Finite == 0 {
		return math.NaN()
	}
	return b.Sum / float64(b.Finite)
}

func bucketOf(p Point) Bucket {
	b := Bucket{From: p.Step, To: p.Step, Wall: p.Wall, Min: math.NaN(), MinStep: p.Step, Max: math.NaN(), MaxStep: p.Step, Last: p.Value, N: 1}
	if !math.IsInf(p.Value, 0) && !math.IsNaN(p.Value) {
		b.Min, b.Max, b.Sum, b.Finite = p.Value, p.Value, p.Value, 1
	}
	return b
}

// add joins what follows.
func (b *Bucket) add(o *Bucket) {
	b.To, b.Wall, b.Last = o.To, o.Wall, o.Last
	b.N += o.N
	if o.Finite == 0 {
		return
	}
	if b.Finite == 0 || o.Min < b.Min {
		b.Min, b.MinStep = o.Min, o.MinStep
	}
	if b.Finite == 0 || o.Max > b.Max {
		b.Max, b.MaxStep = o.Max, o.MaxStep
	}
	b.Sum += o.Sum
	b.Finite += o.Finite
}

// The records of the columns' files, little-endian.
const (
	pointSize  = 3 * 8
	bucketSize = 10 * 8
)

func putPoint(to []byte, p Point) []byte {
	for _, v := range []float64{p.Step, p.Wall, p.Value} {
		to = binary.LittleEndian.AppendUint64(to, math.Float64bits(v))
	}
	return to
}

func getPoint(b []byte) Point {
	return Point{Step: getFloat(b), Wall: getFloat(b[8:]), Value: getFloat(b[16:])}
}

func getFloat(b []byte) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(b)) }

func putBucket(to []byte, b *Bucket) []byte {
	for _, v := range []float64{b.From, b.To, b.Wall, b.Min, b.MinStep, b.Max, b.MaxStep, b.Last, b.Sum} {
		to = binary.LittleEndian.AppendUint64(to, math.Float64bits(v))
	}
	return binary.LittleEndian.AppendUint64(to, uint64(b.Finite)<<32|uint64(b.N))
}

func getBucket(b []byte) Bucket {
	counts := binary.LittleEndian.Uint64(b[72:])
	return Bucket{
		From: getFloat(b), To: getFloat(b[8:]), Wall: getFloat(b[16:]), Min: getFloat(b[24:]), MinStep: getFloat(b[32:]),
		Max: getFloat(b[40:]), MaxStep: getFloat(b[48:]), Last: getFloat(b[56:]), Sum: getFloat(b[64:]),
		Finite: uint32(counts >> 32), N: uint32(counts),
	}
}
