package trainer

import (
	"fmt"
	"math"
)

// Optimizer changes parameters along their gradients, and remembers what it needs for that.
type Optimizer interface {
	// Step changes params by one step. Both arguments must have the shape the optimizer was made for.
	Step(params, grads [][]float64)
	// State returns all that the next step depends on. The slices are the optimizer's own: to write into them restores it.
	State() [][]float64
}

// OptimizerOptions says which optimizer and with which constants.
type OptimizerOptions struct {
	Name        string  // "adam", "adamw" or "sgd"
	LR          float64 // step size, above 0
	Momentum    float64 // of sgd, 0 to below 1
	WeightDecay float64 // L2 on all parameters; adamw takes it off the parameters themselves instead
}

// NewOptimizer makes an optimizer for parameters of this shape. An unknown name is an error.
func NewOptimizer(o OptimizerOptions, params [][]float64) (Optimizer, error) {
	switch o.Name {
	case "sgd":
		return &sgd{o: o, velocity: zerosLike(params)}, nil
	case "adam", "adamw":
		return &adam{o: o, steps: []float64{0}, mean: zerosLike(params), square: zerosLike(params)}, nil
	}
	return nil, fmt.Errorf("unknown optimizer '%s': use adam, adamw or sgd", o.Name)
}

type sgd struct {
	o        OptimizerOptions
	velocity [][]float64
}

func (s *sgd) State() [][]float64 { return s.velocity }

func (s *sgd) Step(params, grads [][]float64) {
	for i, p := range params {
		v := s.velocity[i]
		for j, g := range grads[i] {
			v[j] = s.o.Momentum*v[j] + g + s.o.WeightDecay*p[j]
			p[j] -= s.o.LR * v[j]
		}
	}
}

type adam struct {
	o            OptimizerOptions
	steps        []float64 // one number, kept as a slice so that State can hand it out
	mean, square [][]float64
}

func (a *adam) State() [][]float64 {
	return append(append([][]float64{a.steps}, a.mean...), a.square...)
}

func (a *adam) Step(params, grads [][]float64) {
	const beta1, beta2, epsilon = 0.9, 0.999, 1e-8
	a.steps[0]++
	fix1, fix2 := 1-math.Pow(beta1, a.steps[0]), 1-math.Pow(beta2, a.steps[0])
	decoupled := a.o.Name == "adamw"
	for i, p := range params {
		m, v := a.mean[i], a.square[i]
		for j, g := range grads[i] {
			if decoupled {
				p[j] -= a.o.LR * a.o.WeightDecay * p[j]
			} else {
				g += a.o.WeightDecay * p[j]
			}
			m[j] = beta1*m[j] + (1-beta1)*g
			v[j] = beta2*v[j] + (1-beta2)*g*g
			p[j] -= a.o.LR * (m[j] / fix1) / (math.Sqrt(v[j]/fix2) + epsilon)
		}
	}
}
