package trainer

import (
	"math"
	"testing"
	"time"
)

func TestBarLooksLikeTqdm(t *testing.T) {
	for _, tc := range []struct {
		b    bar
		want string
	}{
		{bar{epoch: 1, epochs: 2, total: 5}, "\rEpoch [1/2]:   0%|          | 0/5 [00:00<?, ?it/s]"},
		{
			bar{epoch: 1, epochs: 2, done: 1, total: 5, fresh: 1, elapsed: 234 * time.Millisecond, loss: 0.81742},
			"\rEpoch [1/2]:  20%|██        | 1/5 [00:00<00:00,  4.27it/s, loss=0.8174]",
		},
		{
			bar{epoch: 12, epochs: 100, done: 23, total: 45, fresh: 23, elapsed: 46 * time.Second, loss: 1},
			"\rEpoch [12/100]:  51%|█████     | 23/45 [00:46<00:44,  0.50it/s, loss=1.0000]",
		},
		{ // twenty of these batches were done by another process
			bar{epoch: 2, epochs: 2, done: 30, total: 40, fresh: 10, elapsed: 5 * time.Second, loss: 0.5},
			"\rEpoch [2/2]:  75%|███████▌  | 30/40 [00:05<00:05,  2.00it/s, loss=0.5000]",
		},
		{
			bar{epoch: 2, epochs: 2, done: 5, total: 5, fresh: 5, elapsed: 2 * time.Hour, loss: 0},
			"\rEpoch [2/2]: 100%|██████████| 5/5 [2:00:00<00:00,  0.00it/s, loss=0.0000]",
		},
	} {
		if got := tc.b.String(); got != tc.want {
			t.Errorf("got  %q\nwant %q", got, tc.want)
		}
	}
}

func TestNumbersAreWrittenAsPythonDoes(t *testing.T) {
	for f, want := range map[float64]string{
		0: "0.0", 1: "1.0", -2: "-2.0", 0.6666666666666666: "0.6666666666666666", 0.0001: "0.0001", 0.00001: "1e-05",
		1e6: "1000000.0", 1e16: "1e+16", 123456789012345: "123456789012345.0", math.Inf(1): "inf", math.Inf(-1): "-inf",
	} {
		if got := pyFloat(f); got != want {
			t.Errorf("%g is %q, want %q", f, got, want)
		}
	}
	if got := pyText([]any{1, 0.5, nil, true, false, "x"}); got != "[1, 0.5, None, True, False, x]" {
		t.Error(got)
	}
}

func TestMetricsFile(t *testing.T) {
	got := string(csvText([]Row{
		{Step: 1, TrainLoss: 0.41784166800789535, ValLoss: 0.519289321359247, Accuracy: 0.6666666666666666, TrainAccuracy: 0.5},
		{Step: 2, TrainLoss: 1, ValLoss: 0.00001, Accuracy: 1, TrainAccuracy: 1},
	}))
	want := `step,train_loss,val_loss,accuracy,train_accuracy
1,0.41784166800789535,0.519289321359247,0.6666666666666666,0.5
2,1.0,1e-05,1.0,1.0
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	line := metricsLine(Row{Step: 3, Accuracy: 0.66, ValLoss: 0.51})
	if line != "Epoch 3 Validation Metrics: {'accuracy': 0.66, 'val_loss': 0.51}" {
		t.Error(line)
	}
}

func TestBestStep(t *testing.T) {
	if got := bestStep(nil); got != 0 {
		t.Errorf("best of none is %d", got)
	}
	rows := []Row{{Step: 1, Accuracy: 0.9, ValLoss: 2}, {Step: 2, Accuracy: 0.9, ValLoss: 1}, {Step: 3, Accuracy: 0.9, ValLoss: 1}, {Step: 4, Accuracy: 0.8}}
	if got := bestStep(rows); got != 2 {
		t.Errorf("best is %d, want 2", got)
	}
}
