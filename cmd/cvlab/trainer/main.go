package trainer

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"go.yaml.in/yaml/v3"
)

const usageText = `usage: cvlab example --config FILE [--fast]     train as a config says, with cvlab-kit's own flags
       cvlab example train [flags]             train as flags say; with --config FILE, flags win
       cvlab example config                    print a config that sweeps the example, ready for: cvlab run FILE

flags of train: --epochs N  --lr X  --batch-size N  --optimizer adam|adamw|sgd  --hidden N  --seed N  --momentum X
  --weight-decay X  --run-name NAME  --log-dir DIR  --project NAME  --epoch-seconds X  --resume FILE|DIR  --fail-at-epoch N
`

// Main runs the example's command line, without the word `example`, and returns the exit code: 0 trained to the end, 1 failed
// with one sentence on stderr, 2 wrong usage, 128+n stopped by signal n after a checkpoint. It takes SIGUSR1, SIGTERM and
// SIGINT for itself while it trains; an end of ctx is treated as SIGTERM.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	train := len(args) > 0 && args[0] == "train"
	switch {
	case train:
		args = args[1:]
	case len(args) == 1 && args[0] == "config":
		fmt.Fprint(stdout, withCommand())
		return 0
	}
	path, set, err := parseArgs(args, train)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usageText)
		return 0
	}
	if err != nil {
		fmt.Fprintf(stderr, "%serror: %v\n", usageText, err)
		return 2
	}
	// Signals are taken before the first file is read: from here on, none of them kills without a checkpoint.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGTERM, os.Interrupt)
	defer signal.Stop(signals)
	return report(stderr, trainOnce(ctx, path, set, streams{stdout, stderr, signals}))
}

// report says why a run ended, the way a Python program ends, and gives the exit code.
func report(stderr io.Writer, err error) int {
	if err == nil {
		return 0
	}
	if stop, ok := errors.AsType[*stopError](err); ok {
		fmt.Fprintf(stderr, "%v\n", stop)
		return stop.code
	}
	class := "RuntimeError"
	switch {
	case errors.Is(err, ErrConfig):
		class = "ValueError"
	case errors.Is(err, os.ErrNotExist):
		class = "FileNotFoundError"
	}
	fmt.Fprintf(stderr, "%s: %v\n", class, err)
	return 1
}

// parseArgs reads the flags. set holds those of train, as the config keys they stand for.
func parseArgs(args []string, train bool) (path string, set map[string]any, err error) {
	fs := flag.NewFlagSet("example", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // Main prints its own
	var fast bool
	for _, name := range []string{"config", "c"} {
		fs.StringVar(&path, name, "", "")
	}
	for _, name := range []string{"fast", "f"} {
		fs.BoolVar(&fast, name, false, "") // accepted: there is no dry run to skip
	}
	set = map[string]any{}
	if train {
		for name := range strings.FieldsSeq("epochs lr batch-size optimizer hidden seed momentum weight-decay run-name log-dir project device epoch-seconds resume fail-at-epoch") {
			key := strings.ReplaceAll(name, "-", "_")
			keep := func(text string) error {
				var v any
				if yaml.Unmarshal([]byte(text), &v) != nil {
					v = text
				}
				set[key] = v
				return nil
			}
			fs.Func(name, "", keep)
			if key != name {
				fs.Func(key, "", keep)
			}
		}
	}
	if err := fs.Parse(args); err != nil {
		return "", nil, err
	}
	if fs.NArg() > 0 {
		return "", nil, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if !train && path == "" {
		return "", nil, errors.New("the following arguments are required: --config/-c")
	}
	return path, set, nil
}

// trainOnce reads the config, resumes if told to, writes the resolved config and trains.
func trainOnce(ctx context.Context, path string, set map[string]any, s streams) error {
	var cfg Config
	var err error
	if path == "" {
		cfg, err = ParseConfig(nil, set)
	} else {
		cfg, err = ReadConfig(path, set)
	}
	if err != nil {
		return err
	}
	r, err := newRun(cfg, newPlaces(cfg, os.Getenv), s)
	if err != nil {
		return err
	}
	if err := r.resume(); err != nil {
		return err
	}
	r.greet(os.LookupEnv("CUDA_VISIBLE_DEVICES"))
	text, err := cfg.YAML()
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(r.places.logs, cfg.RunName+"_config.yaml"), text); err != nil {
		return err
	}
	return r.fit(ctx)
}

// resume takes up the checkpoint that the run was told to go on from, if any.
func (r *run) resume() error {
	if r.places.resume == "" {
		return nil
	}
	c, from, err := loadCheckpoint(r.places.resume, func(err error) {
		fmt.Fprintf(r.stderr, "Warning: %v; trying the one before\n", err)
	})
	if err != nil {
		return err
	}
	if err := r.restore(c); err != nil {
		return fmt.Errorf("resume from %s: %w", from, err)
	}
	fmt.Fprintf(r.stdout, "Resumed from %s: epoch %d, batch %d\n", from, r.at.Epoch, r.at.Batch)
	return nil
}

// greet says what is trained on what.
func (r *run) greet(gpus string, given bool) {
	switch {
	case gpus != "":
		fmt.Fprintf(r.stdout, "Using device: CUDA_VISIBLE_DEVICES=%s (device: %q; the example itself computes on one CPU core)\n", gpus, r.cfg.Device)
	case given:
		fmt.Fprintf(r.stdout, "Using device: cpu (CUDA_VISIBLE_DEVICES is empty; device: %q)\n", r.cfg.Device)
	default:
		fmt.Fprintf(r.stdout, "Using device: cpu (CUDA_VISIBLE_DEVICES is not set; device: %q)\n", r.cfg.Device)
	}
	if m := r.cfg.resolved["model"]; !isMLP(m) {
		fmt.Fprintf(r.stderr, "Warning: the built-in example knows no model %s; it trains its own on its own data\n", pyText(m))
	}
	fmt.Fprintf(r.stdout, "Training %s on %d handwritten digits, validating on %d, %s with lr %s\n",
		r.cfg.Model(), r.train.Len(), r.val.Len(), r.cfg.Optimizer.Name, pyFloat(r.cfg.Optimizer.LR))
}
