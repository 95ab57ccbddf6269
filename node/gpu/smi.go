package gpu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

const (
	// smiEvery is how many seconds lie between two runs of nvidia-smi. One costs tens of milliseconds of a core, so each
	// second would break the promise of a daemon that hardly costs anything.
	smiEvery = 3
	// smiListEvery is after how many runs processes are listed although no card's memory has changed.
	smiListEvery = 5
	// smiGrace is how long the pipes of a killed nvidia-smi are waited for.
	smiGrace = 300 * time.Millisecond
)

// smi asks the nvidia-smi program, for builds without cgo. A run that does not end by the deadline is killed with its
// children; one that cannot be killed since it hangs in the kernel is left to the guard.
type smi struct {
	path   string
	people *people

	runs   int
	listed int               // the run that listed processes last
	memory map[string]uint64 // used memory by UUID at that run
	procs  map[string][]Process
}

func newSMI(path string) *smi {
	return &smi{path: path, people: newPeople()}
}

// Name returns "nvidia-smi".
func (s *smi) Name() string { return "nvidia-smi" }

// Close does nothing; no program is left running.
func (s *smi) Close() error { return nil }

func (s *smi) every() int { return smiEvery }

// Probe runs nvidia-smi once, and once more when processes may have come or gone.
func (s *smi) Probe(ctx context.Context) ([]GPU, error) {
	out, err := s.run(ctx, "--query-gpu="+smiFields)
	gpus, parseErr := parseSMI(out)
	// A driver that lost one card exits with an error after it has told about the others.
	if err = errors.Join(err, parseErr); len(gpus) == 0 {
		return nil, err
	}
	s.runs++
	if s.mustList(gpus) {
		if listErr := s.list(ctx, gpus); listErr != nil {
			err = errors.Join(err, listErr)
		}
	}
	for i := range gpus {
		gpus[i].Processes = s.procs[gpus[i].UUID]
	}
	return gpus, err
}

// mustList is true when a card's memory changed, since a program cannot compute on it without taking some.
func (s *smi) mustList(gpus []GPU) bool {
	if s.procs == nil || s.runs-s.listed >= smiListEvery {
		return true
	}
	for _, g := range gpus {
		if before, ok := s.memory[g.UUID]; !ok || before != g.MemoryUsed {
			return true
		}
	}
	return false
}

func (s *smi) list(ctx context.Context, gpus []GPU) error {
	out, err := s.run(ctx, "--query-compute-apps="+smiAppFields)
	if err != nil {
		return err
	}
	apps, err := parseSMIApps(out)
	s.procs = make(map[string][]Process, len(gpus))
	for _, a := range apps {
		s.procs[a.gpu] = append(s.procs[a.gpu], s.people.describe(a.pid, a.memory))
	}
	s.listed = s.runs
	s.memory = make(map[string]uint64, len(gpus))
	for _, g := range gpus {
		s.memory[g.UUID] = g.MemoryUsed
	}
	return err
}

// run returns what nvidia-smi printed, also when it failed.
func (s *smi) run(ctx context.Context, query string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, s.path, query, "--format=csv,noheader,nounits")
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = smiGrace
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("run nvidia-smi: %w", errSilent)
	case err != nil:
		said := strings.TrimSpace(complaint.String())
		return out.Bytes(), fmt.Errorf("run nvidia-smi: %w: %.200s; run it by hand to see what is wrong", err, said)
	}
	return out.Bytes(), nil
}
