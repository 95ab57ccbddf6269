package trainer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// run is one training. It is used by one goroutine; signals reach it between two batches.
type run struct {
	streams
	cfg    Config
	places places

	train, val Dataset
	model      *Model
	optimizer  Optimizer
	grads      [][]float64
	source     *rand.PCG
	at         position

	epochBegan time.Time // moved back by the part of the epoch that another process has done
	resumedAt  int       // batch at which this process took up the epoch
	drawn      time.Time // last refresh of the bar
}

// streams connect a run with the world.
type streams struct {
	stdout, stderr io.Writer
	signals        <-chan os.Signal // nil: none come
}

// newRun makes the model and its surroundings from the seed, at position zero.
func newRun(cfg Config, p places, s streams) (*run, error) {
	r := &run{cfg: cfg, places: p, streams: s}
	var err error
	if r.train, r.val, err = Digits(); err != nil {
		return nil, err
	}
	r.source = rand.NewPCG(cfg.Seed, 1)
	r.model = NewModel(cfg.widths(r.train.Features, r.train.Classes), rand.New(r.source))
	if r.optimizer, err = NewOptimizer(cfg.Optimizer, r.model.Params()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	r.grads = zerosLike(r.model.Params())
	r.at.Order = make([]int, r.train.Len())
	for i := range r.at.Order {
		r.at.Order[i] = i
	}
	return r, nil
}

func (r *run) batches() int {
	return (r.train.Len() + r.cfg.BatchSize - 1) / r.cfg.BatchSize
}

// fit trains to the last epoch. It returns a *stopError when a signal or ctx ended it; then a checkpoint has been written.
func (r *run) fit(ctx context.Context) error {
	for r.at.Epoch < r.cfg.Epochs {
		if r.at.Epoch+1 == r.cfg.FailAtEpoch {
			return fmt.Errorf("epoch %d failed on purpose (fail_at_epoch: %d)", r.cfg.FailAtEpoch, r.cfg.FailAtEpoch)
		}
		if err := r.epoch(ctx); err != nil {
			return err
		}
	}
	return r.writeMetrics() // also when there was nothing left to do
}

// epoch does what is left of the current epoch, then measures and saves.
func (r *run) epoch(ctx context.Context) error {
	n := r.batches()
	// Before the shuffle and not after it: a checkpoint at batch 0 is taken up by shuffling.
	if err := r.listen(ctx, 0); err != nil {
		return err
	}
	if r.at.Batch == 0 {
		order := r.at.Order
		rand.New(r.source).Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	}
	r.resumedAt = r.at.Batch
	r.epochBegan = time.Now().Add(-r.pace(r.at.Batch, n))
	r.draw(n, true)
	for r.at.Batch < n {
		if err := r.step(); err != nil {
			return err
		}
		r.draw(n, r.at.Batch == n)
		// The last batch is not waited for here: a checkpoint of "all batches done" would have no place to go on from.
		if r.at.Batch < n {
			if err := r.listen(ctx, time.Until(r.epochBegan.Add(r.pace(r.at.Batch, n)))); err != nil {
				return err
			}
		}
	}
	fmt.Fprintln(r.stderr)
	if err := r.measure(); err != nil {
		return err
	}
	if err := r.writeMetrics(); err != nil {
		return err
	}
	if err := r.save(); err != nil {
		return err
	}
	fmt.Fprintln(r.stdout, metricsLine(r.at.History[r.at.Epoch-1]))
	return r.listen(ctx, time.Until(r.epochBegan.Add(r.pace(n, n))))
}

// pace is how long the first done of n batches should take at least.
func (r *run) pace(done, n int) time.Duration {
	return time.Duration(r.cfg.EpochSeconds * float64(done) / float64(n) * float64(time.Second))
}

// step learns from one batch.
func (r *run) step() error {
	from := r.at.Batch * r.cfg.BatchSize
	batch := r.train.Pick(r.at.Order[from:min(from+r.cfg.BatchSize, r.train.Len())])
	loss, correct := r.model.Gradient(batch, r.grads)
	if err := r.finite(loss); err != nil {
		return err
	}
	r.optimizer.Step(r.model.Params(), r.grads)
	r.at.LossSum += loss * float64(batch.Len())
	r.at.Correct += correct
	r.at.Batch++
	return nil
}

// finite refuses to go on with a model that has run away: it would never come back, and NaN is no metric.
func (r *run) finite(loss float64) error {
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return fmt.Errorf("the loss became %s in epoch %d; use a smaller lr than %s", pyFloat(loss), r.at.Epoch+1, pyFloat(r.cfg.Optimizer.LR))
	}
	return nil
}

// measure ends an epoch: it validates and adds a row to the history.
func (r *run) measure() error {
	valLoss, correct := r.model.Loss(r.val)
	if err := r.finite(valLoss); err != nil {
		return err
	}
	n := float64(r.train.Len())
	r.at.Epoch++
	r.at.History = append(r.at.History, Row{
		Step: r.at.Epoch, TrainLoss: r.at.LossSum / n, ValLoss: valLoss,
		Accuracy: float64(correct) / float64(r.val.Len()), TrainAccuracy: float64(r.at.Correct) / n,
	})
	r.at.Batch, r.at.LossSum, r.at.Correct = 0, 0, 0
	return nil
}

// draw refreshes the bar, at most ten times a second unless it must.
func (r *run) draw(n int, must bool) {
	now := time.Now()
	if !must && now.Sub(r.drawn) < 100*time.Millisecond {
		return
	}
	r.drawn = now
	seen := min(r.at.Batch*r.cfg.BatchSize, r.train.Len())
	b := bar{
		epoch: r.at.Epoch + 1, epochs: r.cfg.Epochs, done: r.at.Batch, total: n,
		elapsed: now.Sub(r.epochBegan), fresh: r.at.Batch - r.resumedAt, loss: r.at.LossSum / float64(max(seen, 1)),
	}
	fmt.Fprint(r.stderr, b)
}

func (r *run) writeMetrics() error {
	return writeFile(filepath.Join(r.places.logs, r.cfg.RunName+".csv"), csvText(r.at.History))
}

// save writes a checkpoint of the present position.
func (r *run) save() error {
	c, err := r.checkpoint()
	if err != nil {
		return err
	}
	path, err := saveCheckpoint(r.places.checkpoints, c)
	if err != nil {
		return fmt.Errorf("save a checkpoint: %w", err)
	}
	fmt.Fprintf(r.stdout, "Saved checkpoint to %s\n", path)
	return nil
}

func (r *run) checkpoint() (checkpoint, error) {
	state, err := r.source.MarshalBinary()
	if err != nil {
		return checkpoint{}, fmt.Errorf("save the random numbers: %w", err)
	}
	return checkpoint{
		Widths: r.cfg.widths(r.train.Features, r.train.Classes), Optimizer: r.cfg.Optimizer.Name, BatchSize: r.cfg.BatchSize,
		At: r.at, RNG: state, tensors: append(r.model.Params(), r.optimizer.State()...),
	}, nil
}

// restore takes up a checkpoint. It refuses one of another model, optimizer or batch size; lr and epochs may differ.
func (r *run) restore(c checkpoint) error {
	mine, err := r.checkpoint()
	if err != nil {
		return err
	}
	if got, want := widthsText(c.Widths), widthsText(mine.Widths); got != want {
		return fmt.Errorf("it holds a model of %s, the config asks for %s", got, want)
	}
	if c.Optimizer != mine.Optimizer || c.BatchSize != mine.BatchSize {
		return fmt.Errorf("it was made by %s with batches of %d, the config asks for %s with %d", c.Optimizer, c.BatchSize, mine.Optimizer, mine.BatchSize)
	}
	if err := c.At.fits(r.train.Len(), r.batches()); err != nil {
		return err
	}
	if len(c.tensors) != len(mine.tensors) {
		return fmt.Errorf("%w: it has %d tensors, want %d", ErrDamaged, len(c.tensors), len(mine.tensors))
	}
	for i, t := range c.tensors {
		if len(t) != len(mine.tensors[i]) {
			return fmt.Errorf("%w: tensor %d has %d numbers, want %d", ErrDamaged, i, len(t), len(mine.tensors[i]))
		}
	}
	if err := r.source.UnmarshalBinary(c.RNG); err != nil {
		return errors.Join(ErrDamaged, err)
	}
	for i, t := range c.tensors {
		copy(mine.tensors[i], t)
	}
	r.at = c.At
	return nil
}
