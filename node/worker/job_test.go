package worker

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deveronica/cvlab/fsm"
)

func TestKitArgv(t *testing.T) {
	const config = "/runs/1/1/config.yaml"
	for _, c := range []struct {
		name string
		kit  Kit
		want []string
	}{
		{"python", Kit{Dir: "/kit"}, []string{"python3", "/kit/main.py", "--config", config, "--fast"}},
		{"uv", Kit{Dir: "/kit", UV: true}, []string{"uv", "run", "--project", "/kit", "/kit/main.py", "--config", config, "--fast"}},
		{"a command of its own", Kit{Dir: "/kit", UV: true, Command: []string{"conda", "run", "{kit}/go.py", "-c", "{config}"}},
			[]string{"conda", "run", "/kit/go.py", "-c", config}},
		{"inside a word", Kit{Dir: "/kit", Command: []string{"sh", "-c", "cd {kit} && ./train --config={config}"}},
			[]string{"sh", "-c", "cd /kit && ./train --config=" + config}},
		{"a command that names no config", Kit{Command: []string{"cvlab", "example"}}, []string{"cvlab", "example", "--config", config, "--fast"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.kit.argv(config)
			if err != nil || !c.kit.Ready() {
				t.Fatalf("ready %v, %v", c.kit.Ready(), err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			for _, word := range got {
				if word == "--device" || word == "--run_uid" {
					t.Errorf("%s is the kit's own business: the config and the environment say it", word)
				}
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		if _, err := (Kit{UV: true}).argv(config); err == nil || !strings.Contains(err.Error(), "--kit-dir") || !strings.Contains(err.Error(), "cvlab.command") {
			t.Errorf("got %v, want advice", err)
		}
	})
}

func bareWorker(t *testing.T, kit Kit) *Worker {
	return New(Options{RunsDir: t.TempDir(), NodeName: "gpu1", BootID: boot, Kit: kit, Logger: slog.New(slog.DiscardHandler)})
}

func order(s fsm.Spec, gpus ...string) Order {
	return Order{
		Attempt:    fsm.Attempt{Token: fsm.Token{Epoch: 1, Index: 42}, Experiment: 7, Number: 2, Node: here, GPUs: gpus},
		Experiment: fsm.Experiment{ID: 7, Project: "vision"}, Spec: s,
	}
}

func TestEnvironment(t *testing.T) {
	for k, v := range map[string]string{
		"HOME": "/home/ana", "PATH": "/usr/bin", "WANDB_MODE": "offline", "SHARED": "daemon",
		"CVLAB_JOIN_TOKEN": "secret", "CVLAB_TOKEN": "secret", "NOTIFY_SOCKET": "/run/systemd/notify", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1",
		"LISTEN_FDS": "3", "INVOCATION_ID": "x", "JOURNAL_STREAM": "8:1", "CREDENTIALS_DIRECTORY": "/run/credentials/cvlab",
		"CUDA_VISIBLE_DEVICES": "0,1,2,3", "EQUALS": "a=b=c",
	} {
		t.Setenv(k, v)
	}
	w := bareWorker(t, Kit{})
	for _, c := range []struct {
		name string
		env  map[string]string
		gpus []string
		want map[string]string
	}{
		{"two GPUs", nil, []string{"GPU-1", "GPU-3"}, map[string]string{"CUDA_VISIBLE_DEVICES": "GPU-1,GPU-3", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}},
		{"CPU: no card is seen", nil, nil, map[string]string{"CUDA_VISIBLE_DEVICES": ""}},
		{"what jobs may know", nil, nil, map[string]string{
			"CVLAB_EXPERIMENT": "7", "CVLAB_ATTEMPT": "2", "CVLAB_PROJECT": "vision", "CVLAB_NODE": "gpu1", "CVLAB_RUN_DIR": "/run",
			"CVLAB_CKPT_DIR": "/run/checkpoints", "CVLAB_FENCE_TOKEN": "1-42", "PYTHONUNBUFFERED": "1",
		}},
		{"the daemon's is passed on", nil, nil, map[string]string{"HOME": "/home/ana", "WANDB_MODE": "offline", "EQUALS": "a=b=c"}},
		{"the experiment's wins over the daemon's", map[string]string{"SHARED": "experiment", "NEW": "x=y"}, nil, map[string]string{"SHARED": "experiment", "NEW": "x=y"}},
		{"ours wins over the experiment's", map[string]string{"CVLAB_FENCE_TOKEN": "9-9", "CUDA_VISIBLE_DEVICES": "0"}, []string{"GPU-1"},
			map[string]string{"CVLAB_FENCE_TOKEN": "1-42", "CUDA_VISIBLE_DEVICES": "GPU-1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := map[string]string{}
			for _, kv := range w.environment(order(fsm.Spec{Env: c.env}, c.gpus...), "/run") {
				k, v, _ := strings.Cut(kv, "=")
				if _, twice := got[k]; twice {
					t.Errorf("%s is there twice", k)
				}
				got[k] = v
				if v == "secret" {
					t.Errorf("%s leaks the daemon's secret", k)
				}
			}
			for k, v := range c.want {
				if have, ok := got[k]; !ok || have != v {
					t.Errorf("%s=%q, want %q", k, have, v)
				}
			}
			for _, k := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "INVOCATION_ID", "JOURNAL_STREAM", "CREDENTIALS_DIRECTORY", "CVLAB_JOIN_TOKEN"} {
				if _, ok := got[k]; ok {
					t.Errorf("%s belongs to the daemon", k)
				}
			}
		})
	}
}

func TestJob(t *testing.T) {
	w := bareWorker(t, Kit{})
	s := command()
	s.TimeLimit = fsm.Duration(90e9)
	j, err := w.job(order(s, "GPU-1"))
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(w.o.RunsDir, "7", "2"); j.Dir != want {
		t.Errorf("runs in %s, want %s", j.Dir, want)
	}
	if j.Token != "1-42" || j.Experiment != 7 || j.Attempt != 2 || j.BootID != boot || !slices.Equal(j.Argv, []string{"train"}) || j.TimeLimit != 90e9 || j.Grace != stopGrace {
		t.Errorf("job %+v", j)
	}
	if info, err := os.Stat(filepath.Join(j.Dir, "checkpoints")); err != nil || !info.IsDir() {
		t.Errorf("no place for checkpoints: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(j.Dir, "data")); err == nil {
		t.Error("a bare command got the kit's data")
	}
}

func TestKitJob(t *testing.T) {
	kit := t.TempDir()
	w := bareWorker(t, Kit{Dir: kit})
	for range 2 { // a daemon that restarts before the record is written makes the directory again
		j, err := w.job(order(fsm.Spec{Project: "p", Config: "epochs: 1\n"}))
		if err != nil {
			t.Fatal(err)
		}
		if want := []string{"python3", kit + "/main.py", "--config", filepath.Join(j.Dir, "config.yaml"), "--fast"}; !slices.Equal(j.Argv, want) {
			t.Errorf("argv %q, want %q", j.Argv, want)
		}
		if to, err := os.Readlink(filepath.Join(j.Dir, "data")); err != nil || to != filepath.Join(kit, "data") {
			t.Errorf("data links to %q, %v", to, err)
		}
		if info, err := os.Stat(filepath.Join(j.Dir, "data")); err != nil || !info.IsDir() {
			t.Errorf("the link leads nowhere: %v", err)
		}
		if _, err := os.Stat(filepath.Join(j.Dir, "config.yaml")); err != nil {
			t.Error(err)
		}
	}
}
