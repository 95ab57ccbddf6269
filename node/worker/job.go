package worker

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/deveronica/cvlab/executor"
	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/fsm/spec"
)

// Kit says how this machine runs cvlab-kit configs.
type Kit struct {
	// Dir is a checkout of cvlab-kit; empty when there is none.
	Dir string
	// Command replaces the program: words with {kit} and {config} filled in; without {config},
	// "--config CONFIG --fast" is added. Empty means main.py of Dir, by uv where it is there, else by python3.
	Command []string
	// UV says that uv is installed.
	UV bool
}

// Ready says whether cvlab-kit configs can run here.
func (k Kit) Ready() bool { return k.Dir != "" || len(k.Command) > 0 }

// argv is the command that trains by a config. Without --fast, cvlab-kit only makes a dry run and exits 0.
func (k Kit) argv(config string) ([]string, error) {
	if !k.Ready() {
		return nil, fmt.Errorf("no cvlab-kit is set up on this node; start it with --kit-dir DIR (a checkout) or --kit-command CMD, or give the experiment a cvlab.command")
	}
	words := k.Command
	if len(words) == 0 {
		words = []string{"python3", "{kit}/main.py", "--config", "{config}", "--fast"}
		if k.UV {
			words = append([]string{"uv", "run", "--project", "{kit}"}, words[1:]...)
		}
	}
	fill := strings.NewReplacer("{kit}", k.Dir, "{config}", config)
	argv := make([]string, 0, len(words)+3)
	named := false
	for _, word := range words {
		named = named || strings.Contains(word, "{config}")
		argv = append(argv, fill.Replace(word))
	}
	if !named {
		argv = append(argv, "--config", config, "--fast")
	}
	return argv, nil
}

// stopGrace is the time between SIGTERM and SIGKILL: enough to write a checkpoint of a few GB to a local disk.
const stopGrace = 30 * time.Second

// job makes the attempt's run directory and says what to run in it.
func (w *Worker) job(o Order) (executor.Job, error) {
	dir := w.runDir(o.Attempt.Experiment, o.Attempt.Number)
	if err := os.MkdirAll(filepath.Join(dir, checkpointDir), 0o755); err != nil {
		return executor.Job{}, fmt.Errorf("make the run directory: %w", err)
	}
	argv, err := w.argv(o, dir)
	if err != nil {
		return executor.Job{}, err
	}
	return executor.Job{
		Token: o.Attempt.Token.String(), Experiment: o.Attempt.Experiment, Attempt: o.Attempt.Number,
		BootID: w.o.BootID, Argv: argv, Env: w.environment(o, dir), Dir: dir,
		Grace: stopGrace, TimeLimit: time.Duration(o.Spec.TimeLimit),
		Lease: time.Duration(o.Attempt.Lease), ContactLoss: o.Spec.OnContactLoss,
		GPUs: o.Attempt.GPUs,
	}, nil
}

func (w *Worker) argv(o Order, dir string) ([]string, error) {
	s := &o.Spec
	if s.Config != "" {
		text, err := spec.Render(s, o.Experiment.Ordinal, spec.Handed{CPU: len(o.Attempt.GPUs) == 0})
		if err != nil {
			return nil, fmt.Errorf("write the config: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(text), 0o644); err != nil {
			return nil, fmt.Errorf("write the config: %w", err)
		}
	}
	if len(s.Command) > 0 || s.Shell != "" {
		argv, err := spec.Argv(s, o.Experiment.Ordinal)
		if err != nil {
			return nil, fmt.Errorf("fill the command: %w", err)
		}
		return argv, nil
	}
	if err := w.linkData(dir); err != nil {
		return nil, err
	}
	return w.o.Kit.argv(filepath.Join(dir, "config.yaml"))
}

// linkData makes the kit's data visible as ./data, where its datasets look for it.
func (w *Worker) linkData(dir string) error {
	if w.o.Kit.Dir == "" {
		return nil
	}
	data := filepath.Join(w.o.Kit.Dir, "data")
	if err := os.MkdirAll(data, 0o755); err != nil {
		return fmt.Errorf("make the kit's data directory: %w", err)
	}
	err := os.Symlink(data, filepath.Join(dir, "data"))
	if err != nil && !os.IsExist(err) {
		return fmt.Errorf("link the kit's data: %w", err)
	}
	return nil
}

// environment is what the process finds: the daemon's own environment without what belongs to the daemon, then the
// experiment's, then ours.
func (w *Worker) environment(o Order, dir string) []string {
	env := map[string]string{}
	for _, kv := range os.Environ() {
		k, v, _ := strings.Cut(kv, "=")
		if !daemonsOwn(k) {
			env[k] = v
		}
	}
	for k, v := range o.Spec.Env {
		env[k] = v
	}
	ours := map[string]string{
		"CVLAB_EXPERIMENT": strconv.FormatUint(o.Attempt.Experiment, 10), "CVLAB_ATTEMPT": strconv.Itoa(o.Attempt.Number),
		"CVLAB_PROJECT": o.Experiment.Project, "CVLAB_NODE": w.o.NodeName,
		"CVLAB_RUN_DIR": dir, "CVLAB_CKPT_DIR": filepath.Join(dir, checkpointDir),
		"CVLAB_FENCE_TOKEN":    o.Attempt.Token.String(),
		"CUDA_VISIBLE_DEVICES": strings.Join(o.Attempt.GPUs, ","), "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
		"PYTHONUNBUFFERED": "1",
	}
	for k, v := range ours {
		env[k] = v
	}
	list := make([]string, 0, len(env))
	for k, v := range env {
		list = append(list, k+"="+v)
	}
	return list
}

// daemonsOwn says whether a variable is the daemon's business: its settings and secrets, and what systemd gave it.
func daemonsOwn(name string) bool {
	switch name {
	case "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES",
		"INVOCATION_ID", "JOURNAL_STREAM", "CREDENTIALS_DIRECTORY", "MAINPID", "SYSTEMD_EXEC_PID",
		"MEMORY_PRESSURE_WATCH", "MEMORY_PRESSURE_WRITE":
		return true
	}
	return strings.HasPrefix(name, "CVLAB_")
}

func (w *Worker) log(ctx context.Context, token fsm.Token, text string, args ...any) {
	w.o.Logger.InfoContext(ctx, text, append([]any{"token", token.String()}, args...)...)
}
