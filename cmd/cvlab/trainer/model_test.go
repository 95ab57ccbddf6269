package trainer

import (
	"math"
	"math/rand/v2"
	"testing"
)

// noise is a small data set without meaning: enough to take slopes of.
func noise(rng *rand.Rand, n, features, classes int) Dataset {
	d := Dataset{Features: features, Classes: classes}
	for range n {
		for range features {
			d.X = append(d.X, rng.NormFloat64())
		}
		d.Y = append(d.Y, rng.IntN(classes))
	}
	return d
}

func TestGradientAgreesWithFiniteDifferences(t *testing.T) {
	for _, widths := range [][]int{{5, 3}, {5, 7, 3}, {5, 7, 6, 3}, {4, 6, 5, 4, 3}} {
		rng := rand.New(rand.NewPCG(3, 1))
		d := noise(rng, 11, widths[0], 3)
		m := NewModel(widths, rng)
		for _, p := range m.Params() { // biases too should be off zero
			for i := range p {
				p[i] += 0.1 * rng.NormFloat64()
			}
		}
		grads := zerosLike(m.Params())
		grads[0][0] = 99 // what a former batch has left must not count
		loss, correct := m.Gradient(d, grads)
		if l, c := m.Loss(d); l != loss || c != correct {
			t.Errorf("%v: Gradient says %g, %d and Loss says %g, %d", widths, loss, correct, l, c)
		}
		for i, p := range m.Params() {
			for j := range p {
				const h = 1e-6
				was := p[j]
				p[j] = was + h
				up, _ := m.Loss(d)
				p[j] = was - h
				down, _ := m.Loss(d)
				p[j] = was
				if want := (up - down) / (2 * h); math.Abs(want-grads[i][j]) > 1e-6*(1+math.Abs(want)) {
					t.Fatalf("%v: parameter %d of tensor %d: slope %g, finite differences say %g", widths, j, i, grads[i][j], want)
				}
			}
		}
	}
}

func TestSoftmaxDoesNotOverflow(t *testing.T) {
	z := []float64{1e4, -1e4, 0}
	loss, correct := softmax(z, 1)
	if loss != 2e4 || correct || z[0] != 1 || z[1] != 0 {
		t.Errorf("loss %g, correct %v, probabilities %v", loss, correct, z)
	}
	z = []float64{2, 2}
	if loss, _ := softmax(z, 0); math.Abs(loss-math.Ln2) > 1e-15 || z[0] != 0.5 {
		t.Errorf("two equals: loss %g, probabilities %v", loss, z)
	}
}
