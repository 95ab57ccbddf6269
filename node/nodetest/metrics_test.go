package nodetest_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/node/nodetest"
	"github.com/deveronica/cvlab/ui/api"
)

// A run's curve and its progress are seen from every machine while it runs, and afterwards.
func TestCurvesFromAnyMachine(t *testing.T) {
	lab := nodetest.Start(t, 2)
	signs := t.TempDir()
	end := filepath.Join(signs, "end")
	id := lab.Nodes[0].Run(`printf 'step,loss\n1,0.5\n2,0.25\n' > m.csv; printf '\rEpoch [1/4]:  50%%|xx| 1/2 [00:01'; until [ -e ` + end + ` ]; do sleep 0.05; done; printf 'step,loss\n1,0.5\n2,0.25\n3,2' > m.csv`)
	for _, m := range lab.Nodes {
		until(t, m.Name()+" to show the curve", func(ctx context.Context) bool {
			got, err := m.Client().Metrics(ctx, id, 0, 100)
			return err == nil && len(got.Series) == 1 && got.Series[0].Key == "loss" && got.Series[0].Last == 0.25
		})
		until(t, m.Name()+" to show the progress", func(ctx context.Context) bool {
			d, err := m.Client().Get(ctx, id)
			return err == nil && d.Progress != nil && *d.Progress == api.Progress{Epoch: 1, Epochs: 4, Fraction: 0.125}
		})
	}
	if err := os.WriteFile(end, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, m := range lab.Nodes {
		m.WaitStatus(id, fsm.Completed)
		ctx, cancel := context.WithTimeout(t.Context(), nodetest.Patience)
		got, err := m.Client().Metrics(ctx, id, 0, 100, "loss")
		cancel()
		// The last line had no end; the run is over, so it is one.
		if err != nil || len(got.Series) != 1 || len(got.Series[0].Values) != 3 || got.Series[0].Most != 2 || got.Series[0].MostStep != 3 {
			t.Errorf("%s: %+v, %v", m.Name(), got, err)
		}
	}
}

func until(t *testing.T, what string, holds func(context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), nodetest.Patience)
	defer cancel()
	for !holds(ctx) {
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain for %s", what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
