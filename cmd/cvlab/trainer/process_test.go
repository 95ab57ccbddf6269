package trainer

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// child is the example as a process of its own, as a job of the cluster.
type child struct {
	*exec.Cmd
	out    *bufio.Reader
	stderr bytes.Buffer
}

func start(t *testing.T, dir string, env []string, args ...string) *child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	c := &child{Cmd: exec.CommandContext(ctx, self, append([]string{"example"}, args...)...)}
	c.Dir, c.Stderr = dir, &c.stderr
	c.Env = append([]string{"CVLAB_RUN_DIR=" + dir, "CVLAB_CKPT_DIR=" + filepath.Join(dir, "checkpoints")}, env...)
	pipe, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewReader(pipe)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

// until reads stdout up to a line that contains text, and returns all read.
func (c *child) until(t *testing.T, text string) string {
	t.Helper()
	var all strings.Builder
	for {
		line, err := c.out.ReadString('\n')
		all.WriteString(line)
		if strings.Contains(line, text) {
			return all.String()
		}
		if err != nil {
			t.Fatalf("no %q before %v; stdout %q, stderr %q", text, err, all.String(), c.stderr.String())
		}
	}
}

func (c *child) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := c.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// end reads the rest of stdout and returns it with the exit code.
func (c *child) end(t *testing.T) (string, int) {
	t.Helper()
	var rest bytes.Buffer
	if _, err := rest.ReadFrom(c.out); err != nil {
		t.Fatal(err)
	}
	err := c.Wait()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	return rest.String(), c.ProcessState.ExitCode()
}

func writeConfig(t *testing.T, dir, text string) string {
	t.Helper()
	path := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// One experiment, three attempts: told to save, told to stop, killed, and then to the end. It must end with the figures of a
// run that nobody disturbed.
func TestLifeOfAnExperiment(t *testing.T) {
	calm, dir := t.TempDir(), t.TempDir()
	text := "project: p\nrun_name: r_{{lr}}\nlog_dir: ./logs/p\nlr: 0.004\nepochs: 4\nlogger: csv\n"
	if _, code := start(t, calm, nil, "--config", writeConfig(t, calm, text), "--fast").end(t); code != 0 {
		t.Fatalf("calm run: exit %d", code)
	}
	slow := writeConfig(t, dir, text+"epoch_seconds: 600\n")
	saved := regexp.MustCompile(`Saved checkpoint to (\S+/checkpoints/epoch_0000(_batch_\d{4})?\.ckpt)\n`)

	c := start(t, dir, []string{"CUDA_VISIBLE_DEVICES=GPU-1,GPU-2"}, "--config", slow, "--fast")
	head := c.until(t, "Training mlp 64-32-10")
	if !strings.Contains(head, "CUDA_VISIBLE_DEVICES=GPU-1,GPU-2") {
		t.Errorf("says nothing of its GPUs: %q", head)
	}
	c.signal(t, syscall.SIGUSR1)
	first := saved.FindStringSubmatch(c.until(t, "Saved checkpoint"))
	if first == nil {
		t.Fatal("SIGUSR1 gave no checkpoint")
	}
	c.signal(t, syscall.SIGTERM)
	rest, code := c.end(t)
	if code != 143 || !strings.Contains(c.stderr.String(), "stopped by SIGTERM") {
		t.Fatalf("SIGTERM: exit %d, stderr %q", code, c.stderr.String())
	}
	last := saved.FindStringSubmatch(rest)
	if last == nil {
		t.Fatalf("SIGTERM gave no checkpoint: %q", rest)
	}

	c = start(t, dir, []string{"CVLAB_RESUME_FROM=" + last[1]}, "-c", slow, "-f")
	c.until(t, "Resumed from "+last[1])
	c.until(t, "Training mlp")
	c.signal(t, syscall.SIGKILL)
	c.end(t)

	c = start(t, dir, []string{"CVLAB_RESUME_FROM=" + filepath.Join(dir, "checkpoints")}, "--config", writeConfig(t, dir, text), "--fast")
	if _, code := c.end(t); code != 0 {
		t.Fatalf("last attempt: exit %d, %s", code, c.stderr.String())
	}
	if read(t, calm, "logs/p/r_0.004.csv") != read(t, dir, "logs/p/r_0.004.csv") {
		t.Error("the disturbed run ended with other figures than the calm one")
	}
	if got := read(t, dir, "logs/p/r_0.004_config.yaml"); !strings.Contains(got, "run_name: r_0.004\n") || !strings.Contains(got, "logger: csv\n") {
		t.Errorf("resolved config:\n%s", got)
	}
	if !regexp.MustCompile(`\rEpoch \[4/4\]: 100%\|█{10}\| 45/45 \[\d\d:\d\d<00:00, +[0-9.]+it/s, loss=0\.\d{4}\]\n`).MatchString(c.stderr.String()) {
		t.Errorf("the bar: %q", c.stderr.String())
	}
}

func TestSIGINTIs130(t *testing.T) {
	c := start(t, t.TempDir(), nil, "train", "--epoch-seconds", "600")
	c.until(t, "Training mlp")
	c.signal(t, syscall.SIGINT)
	rest, code := c.end(t)
	if code != 130 || !strings.Contains(rest, "Saved checkpoint") {
		t.Errorf("exit %d, %q", code, rest)
	}
}

func TestExitCodesAndSentences(t *testing.T) {
	dir := t.TempDir()
	damaged := filepath.Join(dir, "epoch_0001.ckpt")
	if err := os.WriteFile(damaged, []byte("cvlabck1 and then the disk was full, or somebody edited the file"), 0o600); err != nil {
		t.Fatal(err)
	}
	list := writeConfig(t, dir, "lr: [0.1, 0.2]")
	for _, tc := range []struct {
		args string
		code int
		want string
	}{
		{"train --epochs 1", 0, "Epoch 1 Validation Metrics: {'accuracy': 0."},
		{"train --epochs=1 --batch_size 64 --run-name x --optimizer sgd(lr=0.1)", 0, "sgd with lr 0.1"},
		{"train --epochs 3 --fail-at-epoch 2", 1, "RuntimeError: epoch 2 failed on purpose (fail_at_epoch: 2)\n"},
		{"train --optimizer lion", 1, "ValueError: bad config: optimizer: unknown optimizer 'lion'"},
		{"train --lr fast", 1, "ValueError: bad config: lr: 'fast' is not a number"},
		{"train --resume " + damaged, 1, "RuntimeError: resume from " + damaged + ": damaged checkpoint: its checksum does not match\n"},
		{"train --resume nope", 1, "FileNotFoundError: resume: "},
		{"--config nope.yaml --fast", 1, "FileNotFoundError: read the config: open nope.yaml"},
		{"--config " + list + " --fast", 1, "submit the file with `cvlab run`"},
		{"", 2, "required: --config/-c"},
		{"--fast", 2, "required: --config/-c"},
		{"train --learning 3", 2, "-learning"},
		{"--lr 3 --config x", 2, "-lr"},
		{"train now", 2, `unexpected argument "now"`},
		{"--help", 0, "usage: cvlab example"},
		{"train -h", 0, "usage: cvlab example"},
		{"config", 0, "lr: [0.001, 0.003, 0.01]"},
	} {
		c := start(t, dir, nil, strings.Fields(tc.args)...)
		out, code := c.end(t)
		if all := out + c.stderr.String(); code != tc.code || !strings.Contains(all, tc.want) {
			t.Errorf("example %s: exit %d, want %d with %q; said\n%s", tc.args, code, tc.code, tc.want, all)
		}
	}
}
