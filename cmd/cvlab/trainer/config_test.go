package trainer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func parse(t *testing.T, text string) Config {
	t.Helper()
	c, err := ParseConfig([]byte(text), nil)
	if err != nil {
		t.Fatalf("%s\n%v", text, err)
	}
	return c
}

func TestConfigs(t *testing.T) {
	base := func(change func(*Config)) Config {
		c := Config{
			RunName: "experiment", LogDir: "./logs", Epochs: 10, BatchSize: 32, Hidden: []int{32},
			Optimizer: OptimizerOptions{Name: "adam", LR: 0.005, Momentum: 0.9},
		}
		if change != nil {
			change(&c)
		}
		return c
	}
	for _, tc := range []struct {
		name, text string
		want       Config
	}{
		{"nothing", "", base(nil)},
		{"null", "null", base(nil)},
		{"an empty value takes the default", "epochs:\nlr: ~", base(nil)},
		{"arguments win", "lr: 0.5\noptimizer: sgd(lr=0.1, momentum=0.5, weight_decay=1e-4)", base(func(c *Config) {
			c.Optimizer = OptimizerOptions{Name: "sgd", LR: 0.1, Momentum: 0.5, WeightDecay: 1e-4}
		})},
		{"map form", "optimizer: {_type: adamw, lr: 0.1}\nmodel: {_type: mlp, hidden: 8}", base(func(c *Config) {
			c.Optimizer.Name, c.Optimizer.LR, c.Hidden = "adamw", 0.1, []int{8}
		})},
		{"sgd has its own step", "optimizer: sgd", base(func(c *Config) { c.Optimizer.Name, c.Optimizer.LR = "sgd", 0.05 })},
		{"width", "model: mlp(hidden=64)", base(func(c *Config) { c.Hidden = []int{64} })},
		{"widths in a call", "model: 'mlp(hidden=[64, 16])'", base(func(c *Config) { c.Hidden = []int{64, 16} })},
		{"widths in a string", "hidden: '[48, 24]'", base(func(c *Config) { c.Hidden = []int{48, 24} })},
		{"widths in a list", "hidden: [48, 24]", base(func(c *Config) { c.Hidden = []int{48, 24} })},
		{"a model of cvlab-kit", "model: resnet18(hidden=9, pretrained=True)", base(nil)},
		{"a dataset of cvlab-kit", "dataset:\n  train: mstar(split=\"TRAIN\")\nmean: !!python/tuple [0.5, 0.5]", base(nil)},
		{"exponents are numbers", "lr: 1e-3\nepochs: 2.0", base(func(c *Config) { c.Optimizer.LR, c.Epochs = 1e-3, 2 })},
		{"placeholders", "lr: 0.01\nrun_name: r_{{lr}}_{{ seed }}_{{a.b}}\na: {b: yes!}\nlog_dir: '{{where}}'\nwhere: x/y", base(func(c *Config) {
			c.Optimizer.LR, c.RunName, c.LogDir = 0.01, "r_0.01_0_yes!", "x/y"
		})},
		{"defaults fill placeholders", "run_name: '{{optimizer}}-{{epochs}}'", base(func(c *Config) { c.RunName = "adam-10" })},
		{"the rest", "device: 0\nseed: 9\nepoch_seconds: 0.5\nfail_at_epoch: 2\nresume: a/b\ncvlab: {gpus: [1]}", base(func(c *Config) {
			c.Device, c.Seed, c.EpochSeconds, c.FailAtEpoch, c.Resume = "0", 9, 0.5, 2, "a/b"
		})},
	} {
		if diff := cmp.Diff(tc.want, parse(t, tc.text), cmpopts.IgnoreUnexported(Config{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

func TestBadConfigsAreOneSentence(t *testing.T) {
	for text, want := range map[string]string{
		"- a":                      "not a YAML map",
		"a: [":                     "not a YAML map",
		"optimizer: lion":          "optimizer: unknown optimizer 'lion'; use adam, adamw, sgd",
		"optimizer: adam(0.1)":     "argument '0.1' needs a name, as in lr=0.001",
		"optimizer: adam(lr=0.1":   "lacks its closing bracket",
		"optimizer: 3":             "'3' is not a name",
		"lr: [0.1, 0.2]":           "lr: [0.1, 0.2] is a list, and this program runs one configuration; submit the file with `cvlab run`",
		"lr: 0":                    "give a number above 0",
		"lr: -1":                   "lr: '-1' is not a number from 0 to 1000",
		"lr: .nan":                 "lr: 'nan' is not a number",
		"lr: .inf":                 "lr: 'inf' is not a number",
		"lr: fast":                 "lr: 'fast' is not a number",
		"epochs: 0":                "epochs: '0' is not a whole number from 1",
		"epochs: 1.5":              "epochs: '1.5' is not a whole number",
		"epochs: true":             "epochs: 'True' is not a whole number",
		"batch_size: 1.0e+300":     "batch_size: '1e+300' is not a whole number",
		"hidden: 0":                "hidden: '0' is not a width from 1 to 1024",
		"hidden: '[1, x]'":         "hidden: 'x' is not a width",
		"hidden: [1, 2, 3, 4]":     "has 4 layers; give 1 to 3",
		"hidden: '[]'":             "has 0 layers",
		"momentum: 1":              "momentum: '1' is not a number from 0",
		"seed: -1":                 "seed: '-1' is not",
		"run_name: ../x":           `run_name: "../x" is not a plain file name`,
		"run_name: .hidden":        "is not a plain file name",
		"run_name: 'r_{{lrr}}'":    "run_name: {{lrr}} names no key of this config",
		"run_name: \"a\\nb\"":      "is not a plain file name",
		"log_dir: \"a\\0b\"":       "is not a path",
		"epoch_seconds: -0.5":      "epoch_seconds: '-0.5' is not a number",
		"optimizer: 'adam(lr=)'":   "a value is missing",
		"optimizer: 'adam(a=[)'":   "brackets or quotes do not match",
		"optimizer: {train: adam}": "unknown optimizer 'None'",
	} {
		_, err := ParseConfig([]byte(text), nil)
		if err == nil || !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

func TestResolvedConfigIsAConfigAgain(t *testing.T) {
	c := parse(t, "zeta: {b: [1, 2], a: x}\nlr: 0.01\nrun_name: r_{{lr}}\noptimizer: 'sgd(momentum=0.5)'\ncvlab: {gpus: 1}\n")
	text, err := c.YAML()
	if err != nil {
		t.Fatal(err)
	}
	want := `batch_size: 32
epochs: 10
hidden: 32
log_dir: ./logs
lr: 0.01
model: mlp
momentum: 0.5
optimizer: sgd(momentum=0.5)
run_name: r_0.01
seed: 0
weight_decay: 0
zeta:
    a: x
    b:
        - 1
        - 2
`
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(c, parse(t, string(text)), cmpopts.IgnoreUnexported(Config{})); diff != "" {
		t.Errorf("read again (-want +got):\n%s", diff)
	}
}

func TestReadConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte("epochs: 3\nlr: 0.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := ReadConfig(path, map[string]any{"lr": 0.2})
	if err != nil || c.Epochs != 3 || c.Optimizer.LR != 0.2 {
		t.Errorf("got %d epochs, lr %g, %v", c.Epochs, c.Optimizer.LR, err)
	}
	if _, err := ReadConfig(path+"x", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if err := os.WriteFile(path, []byte("a: "+strings.Repeat("x", maxConfigBytes)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadConfig(path, nil); !errors.Is(err, ErrConfig) {
		t.Errorf("a huge file: %v", err)
	}
}

func TestSweepConfigHoldsRunnableCombinations(t *testing.T) {
	text := SweepConfig()
	if strings.Contains(text, "cvlab:") || !strings.Contains(withCommand(), "\ncvlab:\n  command: cvlab example --config config.yaml --fast\n") {
		t.Error("only the printed config should name a command")
	}
	names := map[string]bool{}
	for _, lr := range []string{"0.001", "0.003", "0.01"} {
		for _, opt := range []string{"adam", "sgd"} {
			one := strings.Replace(text, "[0.001, 0.003, 0.01]", lr, 1)
			c := parse(t, strings.Replace(one, "[adam, sgd]", opt, 1))
			names[c.RunName] = true
		}
	}
	if len(names) != 6 || !names["digits_adam_lr0.003"] {
		t.Errorf("the six runs are called %v", names)
	}
}

func FuzzParseConfig(f *testing.F) {
	for _, s := range []string{"lr: 1e-3\noptimizer: adam(lr=0.1, betas=(0.9, 0.99))", "run_name: '{{lr}}_{{a.b}}'\na: {b: [1]}", "hidden: '[1,(2,[3])]'",
		"model: {_type: mlp, hidden: 4}", "a: &a [*a]", "? [x]\n: y", sweepYAML, "run_name: '{{run_name}}'", "!!python/object:os.x {}: 1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseConfig([]byte(text), nil)
		if err != nil {
			if !errors.Is(err, ErrConfig) {
				t.Fatalf("not a config error: %v", err)
			}
			return
		}
		if c.Epochs < 1 || c.BatchSize < 1 || len(c.Hidden) < 1 || !(c.Optimizer.LR > 0) || c.RunName != filepath.Base(c.RunName) {
			t.Fatalf("let through: %+v", c)
		}
		if _, err := c.YAML(); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzParseCall(f *testing.F) {
	for _, s := range []string{"adam", "adam(lr=0.1, b='x, y', c=(1, [2]), d=None)", "a(b=')", "a(b=((((((((((1))))))))))", "é(a=1)"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := parseCall(s)
		if err == nil && !callName.MatchString(c.name) {
			t.Fatalf("%q gives the name %q", s, c.name)
		}
	})
}
