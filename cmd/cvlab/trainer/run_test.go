package trainer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// trial is a run in a directory of its own.
func trial(t *testing.T, dir, text string, s streams) *run {
	t.Helper()
	if s.stdout == nil {
		s.stdout = io.Discard
	}
	if s.stderr == nil {
		s.stderr = io.Discard
	}
	cfg := parse(t, text)
	r, err := newRun(cfg, newPlaces(cfg, func(key string) string {
		return map[string]string{"CVLAB_RUN_DIR": dir}[key]
	}), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.resume(); err != nil {
		t.Fatal(err)
	}
	return r
}

func fit(t *testing.T, dir, text string) *run {
	t.Helper()
	r := trial(t, dir, text, streams{})
	if err := r.fit(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

func read(t *testing.T, parts ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestItLearnsToReadDigits(t *testing.T) {
	for _, text := range []string{
		"optimizer: adam(lr=0.005)\nepochs: 8\nseed: 1", "optimizer: adamw(lr=0.005, weight_decay=0.01)\nepochs: 8\nseed: 2",
		"optimizer: sgd(lr=0.05)\nepochs: 8\nseed: 3", "hidden: '[48, 24]'\nlr: 0.005\nepochs: 8\nseed: 4",
	} {
		r := fit(t, t.TempDir(), text)
		last := r.at.History[len(r.at.History)-1]
		if last.Accuracy <= 0.95 || last.ValLoss > 0.3 || last.TrainLoss > r.at.History[0].TrainLoss/3 {
			t.Errorf("%s\n%+v", text, last)
		}
	}
}

func TestSameSeedSameBits(t *testing.T) {
	text := "epochs: 2\nseed: 5"
	one, two := t.TempDir(), t.TempDir()
	fit(t, one, text)
	fit(t, two, text)
	for _, name := range []string{"logs/experiment.csv", "logs/experiment/checkpoints/epoch_0002.ckpt"} {
		if read(t, one, name) != read(t, two, name) {
			t.Errorf("%s differs", name)
		}
	}
	three := t.TempDir()
	fit(t, three, "epochs: 2\nseed: 6")
	if read(t, one, "logs/experiment.csv") == read(t, three, "logs/experiment.csv") {
		t.Error("another seed gave the same curve")
	}
}

// sameEnd fails unless both directories hold the same metrics and the same last checkpoint.
func sameEnd(t *testing.T, what, straight, resumed string) {
	t.Helper()
	for _, name := range []string{"logs/experiment.csv", "logs/experiment/checkpoints/epoch_0006.ckpt"} {
		if read(t, straight, name) != read(t, resumed, name) {
			t.Errorf("%s: %s differs from that of the run that never stopped", what, name)
		}
	}
}

func TestThreeAndThreeEpochsAreSix(t *testing.T) {
	for _, text := range []string{"optimizer: adam\n", "optimizer: sgd\nweight_decay: 0.001\n", "optimizer: adamw\nhidden: '[12, 8]'\n"} {
		straight, resumed := t.TempDir(), t.TempDir()
		fit(t, straight, text+"epochs: 6")
		fit(t, resumed, text+"epochs: 3")
		r := fit(t, resumed, text+"epochs: 6\nresume: logs/experiment/checkpoints")
		if len(r.at.History) != 6 {
			t.Fatalf("%d epochs", len(r.at.History))
		}
		sameEnd(t, text, straight, resumed)
	}
}

// In fake time an epoch of 45 batches and 4.5 seconds ends a batch each 100 ms, so the signal's place is known exactly.
func TestStoppedInMidEpochItGoesOnAsIfNever(t *testing.T) {
	straight, resumed := t.TempDir(), t.TempDir()
	fit(t, straight, "epochs: 6")
	for _, tc := range []struct {
		after time.Duration
		at    string
	}{{6550 * time.Millisecond, "epoch_0001_batch_0021.ckpt"}, {11350 * time.Millisecond, "epoch_0004.ckpt"}} {
		synctest.Test(t, func(t *testing.T) {
			signals := make(chan os.Signal, 1)
			var wg sync.WaitGroup
			wg.Go(func() {
				<-time.After(tc.after)
				signals <- syscall.SIGTERM
			})
			var out bytes.Buffer
			r := trial(t, resumed, "epochs: 6\nepoch_seconds: 4.5\nresume: "+resumeFrom(resumed), streams{stdout: &out, signals: signals})
			err := r.fit(t.Context())
			wg.Wait()
			stop, ok := errors.AsType[*stopError](err)
			if !ok || stop.code != 143 {
				t.Errorf("ended with %v", err)
			}
			if !strings.HasSuffix(out.String(), tc.at+"\n") {
				t.Errorf("stopped at another place than %s:\n%s", tc.at, out.String())
			}
		})
	}
	fit(t, resumed, "epochs: 6\nresume: logs/experiment/checkpoints")
	sameEnd(t, "stopped twice", straight, resumed)
}

// resumeFrom is the run's own checkpoints, or nothing as long as there are none.
func resumeFrom(dir string) string {
	if list, err := listStored(filepath.Join(dir, "logs/experiment/checkpoints")); err != nil || len(list) == 0 {
		return ""
	}
	return "logs/experiment/checkpoints"
}

func TestSIGUSR1SavesAndGoesOn(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		signals := make(chan os.Signal, 1)
		var wg sync.WaitGroup
		wg.Go(func() {
			<-time.After(950 * time.Millisecond)
			signals <- syscall.SIGUSR1
		})
		var out bytes.Buffer
		began := time.Now()
		r := trial(t, dir, "epochs: 2\nepoch_seconds: 4.5", streams{stdout: &out, signals: signals})
		if err := r.fit(t.Context()); err != nil {
			t.Error(err)
		}
		wg.Wait()
		if took := time.Since(began); took != 9*time.Second {
			t.Errorf("two epochs of 4.5 s took %s", took)
		}
		if !strings.Contains(out.String(), "epoch_0000_batch_0010.ckpt") {
			t.Errorf("said\n%s", out.String())
		}
	})
	straight := t.TempDir()
	fit(t, straight, "epochs: 2")
	if read(t, dir, "logs/experiment.csv") != read(t, straight, "logs/experiment.csv") {
		t.Error("a checkpoint on the way changed the result")
	}
}

func TestContextEndsLikeSIGTERM(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	r := trial(t, dir, "epochs: 2", streams{})
	stop, ok := errors.AsType[*stopError](r.fit(ctx))
	if !ok || stop.code != 143 {
		t.Errorf("got %v", stop)
	}
	if got := names(t, filepath.Join(dir, "logs/experiment/checkpoints")); fmt.Sprint(got) != "[epoch_0000.ckpt]" {
		t.Errorf("left %v", got)
	}
	straight := t.TempDir()
	fit(t, straight, "epochs: 6")
	fit(t, dir, "epochs: 6\nresume: logs/experiment/checkpoints")
	sameEnd(t, "stopped before the first batch", straight, dir)
}

func TestRunsThatFail(t *testing.T) {
	for want, text := range map[string]string{
		"epoch 2 failed on purpose":         "epochs: 3\nfail_at_epoch: 2",
		"use a smaller lr than 1000.0":      "lr: 1000\noptimizer: sgd(momentum=0.99, weight_decay=1)\nepochs: 50",
		"save a checkpoint: make the direc": "epochs: 1\nrun_name: blocked",
	} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "logs"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "logs", "blocked"), nil, 0o600); err != nil { // where a directory should be
			t.Fatal(err)
		}
		err := trial(t, dir, text, streams{}).fit(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestResumeRefusesWhatDoesNotFit(t *testing.T) {
	dir := t.TempDir()
	fit(t, dir, "epochs: 1")
	for want, text := range map[string]string{
		"it holds a model of 64-32-10, the config asks for 64-16-10":               "hidden: 16",
		"it was made by adam with batches of 32, the config asks for sgd with 32":  "optimizer: sgd",
		"it was made by adam with batches of 32, the config asks for adam with 64": "batch_size: 64",
	} {
		cfg := parse(t, text+"\nresume: "+filepath.Join(dir, "logs/experiment/checkpoints"))
		r, err := newRun(cfg, newPlaces(cfg, func(string) string { return "" }), streams{io.Discard, io.Discard, nil})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.resume(); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "epoch_0001.ckpt") {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	r := fit(t, dir, "epochs: 2\nlr: 0.0001\nresume: logs/experiment/checkpoints")
	if len(r.at.History) != 2 {
		t.Error("another lr must be allowed")
	}
}

func TestRestoreRefusesImpossiblePositions(t *testing.T) {
	dir := t.TempDir()
	r := fit(t, dir, "epochs: 1")
	for name, spoil := range map[string]func(*checkpoint){
		"batch past the epoch":  func(c *checkpoint) { c.At.Batch = r.batches() },
		"negative":              func(c *checkpoint) { c.At.Epoch = -1 },
		"history too short":     func(c *checkpoint) { c.At.History = nil },
		"order with a double":   func(c *checkpoint) { c.At.Order = append(append([]int(nil), c.At.Order[1:]...), c.At.Order[1]) },
		"fewer samples":         func(c *checkpoint) { c.At.Order = []int{0} },
		"a tensor less":         func(c *checkpoint) { c.tensors = c.tensors[1:] },
		"a shorter tensor":      func(c *checkpoint) { c.tensors[1] = c.tensors[1][1:] },
		"random numbers' state": func(c *checkpoint) { c.RNG = []byte("pcg:x") },
	} {
		c, err := r.checkpoint()
		if err != nil {
			t.Fatal(err)
		}
		c.tensors = append([][]float64(nil), c.tensors...)
		spoil(&c)
		if err := r.restore(c); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestPlaces(t *testing.T) {
	cfg := parse(t, "log_dir: ./logs/p\nrun_name: r\nresume: old.ckpt")
	env := map[string]string{}
	at := func() places { return newPlaces(cfg, func(k string) string { return env[k] }) }
	if got, want := at(), (places{"logs/p", "logs/p/r/checkpoints", "old.ckpt"}); got != want {
		t.Errorf("by hand: %+v", got)
	}
	env = map[string]string{"CVLAB_RUN_DIR": "/runs/1", "CVLAB_CKPT_DIR": "/ck"}
	if got, want := at(), (places{"/runs/1/logs/p", "/ck", "/runs/1/old.ckpt"}); got != want {
		t.Errorf("first attempt: %+v", got)
	}
	env["CVLAB_RESUME_FROM"] = "/ck/epoch_0001.ckpt"
	if got := at(); got.resume != "/ck/epoch_0001.ckpt" {
		t.Errorf("second attempt: the cluster's checkpoint is newer than the config's, got %s", got.resume)
	}
}
