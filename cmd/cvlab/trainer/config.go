package trainer

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ErrConfig is under every error that the user can mend in the config.
var ErrConfig = errors.New("bad config")

// Config says what one run does. [ParseConfig] makes it from a cvlab-kit style YAML and checks every value.
type Config struct {
	RunName string // stem of the run's files
	LogDir  string // where they lie, relative to the run directory
	Device  string // printed, else ignored: the arithmetic runs on one CPU core

	Epochs    int
	BatchSize int
	Hidden    []int // widths of the hidden layers
	Seed      uint64
	Optimizer OptimizerOptions

	EpochSeconds float64 // an epoch takes at least so long, so that a demonstration can be watched
	Resume       string  // checkpoint, or directory of checkpoints, to go on from
	FailAtEpoch  int     // fail on purpose when this epoch begins; 0 is never

	resolved map[string]any
}

// maxConfigBytes is far above any config written by hand.
const maxConfigBytes = 1 << 20

// ReadConfig reads the config in a file and lays set over it, key by key.
func ReadConfig(path string, set map[string]any) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("read the config: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err != nil {
		return Config{}, fmt.Errorf("read the config: %w", err)
	}
	if len(text) > maxConfigBytes {
		return Config{}, fmt.Errorf("%w: %s is larger than %d bytes", ErrConfig, path, maxConfigBytes)
	}
	return ParseConfig(text, set)
}

// ParseConfig reads a YAML config, lays set over it and fills in what is missing. Keys that mean nothing here are kept, since
// a cvlab-kit config has many. Errors wrap ErrConfig.
func ParseConfig(text []byte, set map[string]any) (Config, error) {
	raw := map[string]any{}
	if err := yaml.Unmarshal(text, &raw); err != nil {
		return Config{}, fmt.Errorf("%w: not a YAML map: %s", ErrConfig, strings.ReplaceAll(err.Error(), "\n", " "))
	}
	if raw == nil { // the text was `null`
		raw = map[string]any{}
	}
	delete(raw, "cvlab") // for the queue, not for the run
	maps.Copy(raw, set)
	k := &keys{raw: raw}
	c := k.config()
	if k.err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrConfig, k.err)
	}
	c.resolved = raw
	return c, nil
}

// YAML is the resolved config: all keys, sorted, with defaults and placeholders filled in.
func (c Config) YAML() ([]byte, error) {
	text, err := yaml.Marshal(c.resolved)
	if err != nil {
		return nil, fmt.Errorf("write the resolved config: %w", err)
	}
	return text, nil
}

// Model describes the network in one phrase, such as "mlp 64-32-10".
func (c Config) Model() string {
	return "mlp " + widthsText(c.widths(digitPixels, digitClasses))
}

func (c Config) widths(in, out int) []int {
	return append(append([]int{in}, c.Hidden...), out)
}

func widthsText(widths []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(widths), " ", "-"), "[]")
}

func (k *keys) config() Config {
	k.component("optimizer", "adam")
	k.model()
	k.fallback("run_name", "experiment")
	k.fallback("log_dir", "./logs")
	k.fallback("momentum", 0.9)
	k.fallback("weight_decay", 0.0)
	k.fallback("seed", 0)
	var c Config
	c.Optimizer.Name = k.name("optimizer", "adam", "adamw", "sgd")
	k.fallback("lr", defaultLR(c.Optimizer.Name))
	c.Epochs = k.whole("epochs", 10, 1, 1_000_000)
	c.BatchSize = k.whole("batch_size", 32, 1, 1<<16)
	c.Optimizer.LR = k.number("lr", 0, 1000)
	if c.Optimizer.LR == 0 {
		k.fail("lr: 0 learns nothing; give a number above 0")
	}
	c.Optimizer.Momentum = k.number("momentum", 0, 0.999999)
	c.Optimizer.WeightDecay = k.number("weight_decay", 0, 1)
	c.Hidden = k.widths()
	c.Seed = uint64(k.whole("seed", 0, 0, 1<<53))
	if _, ok := k.raw["epoch_seconds"]; ok {
		c.EpochSeconds = k.number("epoch_seconds", 0, 3600)
	}
	if _, ok := k.raw["fail_at_epoch"]; ok {
		c.FailAtEpoch = k.whole("fail_at_epoch", 0, 0, 1_000_000)
	}
	k.placeholders()
	c.RunName, c.LogDir = k.text("run_name"), k.text("log_dir")
	c.Device, c.Resume = k.text("device"), k.text("resume")
	if c.RunName == "" || c.RunName != filepath.Base(c.RunName) || strings.HasPrefix(c.RunName, ".") || len(c.RunName) > 200 || strings.ContainsAny(c.RunName, "\x00\r\n") {
		k.fail("run_name: %q is not a plain file name of at most 200 bytes", c.RunName)
	}
	if strings.ContainsAny(c.LogDir, "\x00\r\n") {
		k.fail("log_dir: %q is not a path", c.LogDir)
	}
	return c
}

func defaultLR(optimizer string) float64 {
	if optimizer == "sgd" {
		return 0.05
	}
	return 0.005
}
