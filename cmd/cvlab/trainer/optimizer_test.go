package trainer

import (
	"math"
	"strings"
	"testing"
)

func optimizer(t *testing.T, o OptimizerOptions, params [][]float64) Optimizer {
	t.Helper()
	opt, err := NewOptimizer(o, params)
	if err != nil {
		t.Fatal(err)
	}
	return opt
}

// The figures are worked out by hand from the papers' formulas: p = 1, slope 2 and then 2 again.
func TestTwoStepsByHand(t *testing.T) {
	for name, tc := range map[string]struct {
		o    OptimizerOptions
		want [2]float64
	}{
		"sgd":          {OptimizerOptions{Name: "sgd", LR: 0.1}, [2]float64{0.8, 0.6}},
		"sgd momentum": {OptimizerOptions{Name: "sgd", LR: 0.1, Momentum: 0.5}, [2]float64{0.8, 0.5}},
		"sgd L2":       {OptimizerOptions{Name: "sgd", LR: 0.1, WeightDecay: 1}, [2]float64{0.7, 0.43}},
		"adam":         {OptimizerOptions{Name: "adam", LR: 0.1}, [2]float64{0.9, 0.8}}, // equal slopes: each step is lr
		"adamw":        {OptimizerOptions{Name: "adamw", LR: 0.1, WeightDecay: 0.5}, [2]float64{0.85, 0.7075}},
	} {
		p := [][]float64{{1}}
		opt := optimizer(t, tc.o, p)
		for i, want := range tc.want {
			opt.Step(p, [][]float64{{2}})
			if math.Abs(p[0][0]-want) > 1e-8 {
				t.Errorf("%s: after step %d the parameter is %.9f, want %.9f", name, i+1, p[0][0], want)
			}
		}
	}
}

func TestStateIsAllThatTheNextStepNeeds(t *testing.T) {
	for _, name := range []string{"sgd", "adam", "adamw"} {
		o := OptimizerOptions{Name: name, LR: 0.1, Momentum: 0.9, WeightDecay: 0.01}
		slope := func(p [][]float64) [][]float64 { return [][]float64{{2 * p[0][0], p[0][1]}} }
		p := [][]float64{{3, -2}}
		opt := optimizer(t, o, p)
		for range 5 {
			opt.Step(p, slope(p))
		}
		q := [][]float64{{p[0][0], p[0][1]}}
		other := optimizer(t, o, q)
		for i, s := range opt.State() {
			copy(other.State()[i], s)
		}
		for range 5 {
			opt.Step(p, slope(p))
			other.Step(q, slope(q))
		}
		if p[0][0] != q[0][0] || p[0][1] != q[0][1] {
			t.Errorf("%s: went on to %v, the restored one to %v", name, p, q)
		}
	}
}

func TestUnknownOptimizer(t *testing.T) {
	_, err := NewOptimizer(OptimizerOptions{Name: "lion"}, nil)
	if err == nil || !strings.Contains(err.Error(), "'lion': use adam, adamw or sgd") {
		t.Errorf("got %v", err)
	}
}
