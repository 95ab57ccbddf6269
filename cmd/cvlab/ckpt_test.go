package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/ui/api"
)

// trainingJob trains the built-in example for 60 epochs: slowly in its first two attempts, which are to be killed. It tells the witness
// its process, and with which checkpoint it begins.
func (l *lab) trainingJob() []string {
	return []string{"sh", "-c", fmt.Sprintf(
		`echo $CVLAB_ATTEMPT:$$:$CVLAB_RESUME_FROM >> %s/$CVLAB_EXPERIMENT; pace=1; [ $CVLAB_ATTEMPT = 3 ] && pace=0; `+
			`exec %s example train --epochs 60 --epoch-seconds $pace --run-name r --seed 7`, l.witness, testProgram.path)}
}

// trained waits for an attempt to say that it has begun.
func (l *lab) trained(id uint64, attempt int) (pid int, from string) {
	l.t.Helper()
	l.eventually(60*time.Second, fmt.Sprintf("attempt %d to begin", attempt), func() bool {
		for _, word := range l.witnessed(id) {
			f := strings.SplitN(word, ":", 3)
			if len(f) == 3 && f[0] == strconv.Itoa(attempt) {
				n, err := strconv.Atoi(f[1])
				pid, from = n, f[2]
				return err == nil
			}
		}
		return false
	})
	return pid, from
}

// published waits until the attempt has a checkpoint that the asked machine knows of.
func (l *lab) published(m *machine, id uint64, attempt int) api.Checkpoint {
	l.t.Helper()
	var k api.Checkpoint
	l.eventually(60*time.Second, fmt.Sprintf("a checkpoint of attempt %d", attempt), func() bool {
		list, err := m.client().Checkpoints(l.t.Context(), id)
		if err != nil || len(list) == 0 || list[0].Attempt != attempt {
			return false
		}
		k = list[0]
		return true
	})
	return k
}

// killSupervisorsAtOnce ends the supervisors of a data directory as a crash would; the kernel ends their jobs.
func killSupervisorsAtOnce(dir string) (killed int) {
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range processes {
		text, err := os.ReadFile(file)
		if err == nil && bytes.Contains(text, []byte("supervise")) && bytes.Contains(text, []byte(dir)) {
			pid, _ := strconv.Atoi(strings.Split(file, "/")[2])
			if syscall.Kill(pid, syscall.SIGKILL) == nil {
				killed++
			}
		}
	}
	return killed
}

func (l *lab) wantResumed(id uint64, attempt int, from string, of int, node string) {
	l.t.Helper()
	a := l.get(l.machines[0], id).Attempts[attempt-1]
	if from == "" || a.Resumed == nil || a.Resumed.Attempt != of || a.Node != node {
		l.t.Fatalf("attempt %d on %s goes on from %q, %+v; want a checkpoint of attempt %d, on %s", attempt, a.Node, from, a.Resumed, of, node)
	}
}

// The training process is killed and goes on on another machine, which fetches the checkpoint from the first; then daemon and supervisor
// there are killed and it goes on on the same machine. The result is that of one that was never interrupted, to the last bit.
func TestTrainingGoesOnFromItsCheckpoint(t *testing.T) {
	l := newLab(t, 2, "--cpu-slots", "1")
	retries := 1
	id := l.submit(l.machines[0], api.AddRequest{Command: l.trainingJob(), Device: "cpu", Retries: &retries})
	pid, from := l.trained(id, 1)
	if from != "" {
		t.Fatalf("the first attempt resumes from %q", from)
	}
	host, others := l.host(id)
	first := l.published(l.machines[0], id, 1)
	if first.Node != host.name || first.Size == 0 || first.Files != 1 || !strings.HasPrefix(first.Path, "checkpoints/epoch_") {
		t.Errorf("published %+v", first)
	}

	host.must("drain", host.name)
	l.must(syscall.Kill(pid, syscall.SIGKILL))
	_, from = l.trained(id, 2)
	l.wantResumed(id, 2, from, 1, others[0].name)
	if !strings.HasPrefix(from, filepath.Join(others[0].dir, "runs", word(id), "2", "resume", "epoch_")) {
		t.Errorf("the second attempt reads %s", from)
	}
	l.published(others[0], id, 2)

	others[0].kill()
	if n := killSupervisorsAtOnce(others[0].dir); n != 1 {
		t.Fatalf("%d supervisors were killed, want 1", n)
	}
	others[0].restart()
	_, from = l.trained(id, 3)
	l.wantResumed(id, 3, from, 2, others[0].name)
	l.waitStatus(l.machines[0], id, fsm.Completed)

	alone := exec.CommandContext(t.Context(), testProgram.path, strings.Fields("example train --epochs 60 --run-name r --seed 7")...)
	alone.Env = append(cleanEnv(), "CVLAB_RUN_DIR="+l.dir+"/alone", "CVLAB_CKPT_DIR="+l.dir+"/alone/checkpoints", "CUDA_VISIBLE_DEVICES=")
	if out, err := alone.CombinedOutput(); err != nil {
		t.Fatalf("train without interruption: %v\n%s", err, out)
	}
	run := filepath.Join(others[0].dir, "runs", word(id), "3")
	for _, name := range []string{"logs/r.csv", "checkpoints/epoch_0060.ckpt"} {
		sameBytes(t, filepath.Join(run, name), filepath.Join(l.dir, "alone", name))
	}
	out := host.must("show", word(id))
	for _, want := range []string{"the start", "of attempt 1", "of attempt 2"} {
		if !strings.Contains(out, want) {
			t.Errorf("cvlab show does not say %q:\n%s", want, out)
		}
	}
	if out := host.must("ckpt", "ls", word(id)); !strings.Contains(out, "checkpoints/epoch_0060.ckpt") || !strings.Contains(out, others[0].name) {
		t.Errorf("cvlab ckpt ls says:\n%s", out)
	}
}

func sameBytes(t *testing.T, got, want string) {
	t.Helper()
	a, err1 := os.ReadFile(got)
	b, err2 := os.ReadFile(want)
	if err1 != nil || err2 != nil || !bytes.Equal(a, b) {
		t.Errorf("%s differs from that of a run without interruption (%v, %v)", got, err1, err2)
	}
}

// A job announces what it has written in place, while its daemon is away. What it does not announce is never published.
func TestAnnouncedWhileTheDaemonIsAway(t *testing.T) {
	l := newLab(t, 1, "--cpu-slots", "1")
	m := l.machines[0]
	script := fmt.Sprintf(`touch %[1]s/begun; until [ -e %[1]s/away ]; do sleep 0.05; done; mkdir out; echo weights > out/model.bin; echo half > $CVLAB_CKPT_DIR/inplace
		%[2]s ckpt done out && touch %[1]s/announced; until [ -e %[1]s/go ]; do sleep 0.05; done`, l.witness, testProgram.path)
	id := l.submit(m, api.AddRequest{Command: []string{"sh", "-c", script}, Device: "cpu"})
	is := func(name string) func() bool {
		return func() bool { _, err := os.Stat(filepath.Join(l.witness, name)); return err == nil }
	}
	l.eventually(30*time.Second, "the job to begin", is("begun"))
	m.kill()
	l.must(os.WriteFile(filepath.Join(l.witness, "away"), nil, 0o644))
	l.eventually(30*time.Second, "the announcement", is("announced"))
	m.restart()
	k := l.published(m, id, 1)
	if k.Path != "out" || k.Files != 1 || k.Size != 8 {
		t.Errorf("published %+v", k)
	}
	l.letGo()
	l.waitStatus(m, id, fsm.Completed)
	if list, err := m.client().Checkpoints(t.Context(), id); err != nil || len(list) != 1 {
		t.Errorf("published %+v, %v", list, err)
	}
	left, err := filepath.Glob(filepath.Join(m.dir, "runs", word(id), "1", "checkpoints", ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestAnnounceNeedsARun(t *testing.T) {
	u := newPerson(t)
	if _, errs, code := u.cvlab("ckpt", "done", "x"); code != exitFailed || !strings.Contains(errs, "CVLAB_RUN_DIR") {
		t.Errorf("outside of a run: exit code %d, %s", code, errs)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "checkpoints"), 0o755); err != nil {
		t.Fatal(err)
	}
	in := newPerson(t, "CVLAB_RUN_DIR="+dir, "CVLAB_CKPT_DIR="+filepath.Join(dir, "checkpoints"))
	for _, path := range []string{"/etc/passwd", dir, filepath.Join(dir, "..")} {
		if _, errs, code := in.cvlab("ckpt", "done", path); code != exitFailed || !strings.Contains(errs, "not below the run directory") {
			t.Errorf("%s: exit code %d, %s", path, code, errs)
		}
	}
	if _, errs, code := in.cvlab("ckpt", "done", filepath.Join(dir, "nothing")); code != exitFailed || !strings.Contains(errs, "no such file") {
		t.Errorf("nothing: exit code %d, %s", code, errs)
	}
}
