package trainer

import (
	"math"
	"math/rand/v2"
)

// Model is a multilayer perceptron: fully connected layers with ReLU between them and a softmax at the end. It keeps scratch
// space for its passes and must not be used from two goroutines at once.
type Model struct {
	layers []layer
	act    [][]float64 // act[0] is the input, act[i+1] the output of layer i
	delta  [][]float64 // delta[i] is the slope of the loss by act[i+1]
}

type layer struct {
	in, out int
	w       []float64 // out rows of in weights
	b       []float64
}

// NewModel makes a model with these widths, input first and classes last (for example 64, 32, 10). Weights are drawn from rng
// after He, biases are zero. It wants at least two widths, all positive.
func NewModel(widths []int, rng *rand.Rand) *Model {
	m := &Model{act: [][]float64{nil}}
	for i := range len(widths) - 1 {
		l := layer{in: widths[i], out: widths[i+1]}
		l.w, l.b = make([]float64, l.in*l.out), make([]float64, l.out)
		scale := math.Sqrt(2 / float64(l.in))
		for j := range l.w {
			l.w[j] = rng.NormFloat64() * scale
		}
		m.layers = append(m.layers, l)
		m.act = append(m.act, make([]float64, l.out))
		m.delta = append(m.delta, make([]float64, l.out))
	}
	return m
}

// Params returns weights and biases, layer by layer. The slices are the model's own: to write into them changes the model.
func (m *Model) Params() [][]float64 {
	var out [][]float64
	for _, l := range m.layers {
		out = append(out, l.w, l.b)
	}
	return out
}

// Loss is the mean cross entropy over d, and how many samples the model classifies rightly.
func (m *Model) Loss(d Dataset) (loss float64, correct int) {
	for i := range d.Len() {
		x, y := d.At(i)
		l, ok := m.forward(x, y)
		loss += l
		if ok {
			correct++
		}
	}
	return loss / float64(d.Len()), correct
}

// Gradient is Loss that also sets grads, shaped like Params, to the slope of the mean loss by each parameter.
func (m *Model) Gradient(d Dataset, grads [][]float64) (loss float64, correct int) {
	for _, g := range grads {
		clear(g)
	}
	for i := range d.Len() {
		x, y := d.At(i)
		l, ok := m.forward(x, y)
		loss += l
		if ok {
			correct++
		}
		m.backward(y, grads, 1/float64(d.Len()))
	}
	return loss / float64(d.Len()), correct
}

// forward leaves the class probabilities in the last activation.
func (m *Model) forward(x []float64, y int) (loss float64, correct bool) {
	m.act[0] = x
	for i, l := range m.layers {
		in, out := m.act[i], m.act[i+1]
		for o := range out {
			sum := l.b[o]
			for j, w := range l.w[o*l.in : (o+1)*l.in] {
				sum += w * in[j]
			}
			if i < len(m.layers)-1 {
				sum = max(sum, 0)
			}
			out[o] = sum
		}
	}
	return softmax(m.act[len(m.act)-1], y)
}

// softmax turns z into probabilities in place. The largest value is taken off first, or exp would overflow.
func softmax(z []float64, y int) (loss float64, correct bool) {
	top := 0
	for i, v := range z {
		if v > z[top] {
			top = i
		}
	}
	high, want, sum := z[top], z[y], 0.0
	for i, v := range z {
		z[i] = math.Exp(v - high)
		sum += z[i]
	}
	for i := range z {
		z[i] /= sum
	}
	return math.Log(sum) - (want - high), top == y
}

// backward adds scale times the slope of the last forward pass to grads.
func (m *Model) backward(y int, grads [][]float64, scale float64) {
	last := len(m.layers) - 1
	copy(m.delta[last], m.act[last+1])
	m.delta[last][y]--
	for i := last; i >= 0; i-- {
		l, in := m.layers[i], m.act[i]
		gw, gb := grads[2*i], grads[2*i+1]
		for o, d := range m.delta[i] {
			d *= scale
			gb[o] += d
			row := gw[o*l.in : (o+1)*l.in]
			for j, v := range in {
				row[j] += d * v
			}
		}
		if i > 0 {
			l.back(m.delta[i], in, m.delta[i-1])
		}
	}
}

// back carries the slope by a layer's output to the slope by its input, which passed a ReLU.
func (l layer) back(out, in, into []float64) {
	clear(into)
	for o, d := range out {
		for j, w := range l.w[o*l.in : (o+1)*l.in] {
			into[j] += d * w
		}
	}
	for j, v := range in {
		if v <= 0 {
			into[j] = 0
		}
	}
}

// zerosLike returns zeroed slices of the same lengths.
func zerosLike(like [][]float64) [][]float64 {
	out := make([][]float64, len(like))
	for i, s := range like {
		out[i] = make([]float64, len(s))
	}
	return out
}
