package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/deveronica/cvlab/ui/api"
)

// testBench builds cvlab and gives a bench whose lines go to the test's log.
func testBench(t *testing.T) *bench {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{gpus: 2, stdout: t.Output(), stderr: t.Output(), self: self, dir: t.TempDir(), r: newReport(t.Output())}
	if err := b.build(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

// processesOf lists the processes whose command line names a directory.
func processesOf(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err == nil && bytes.Contains(text, []byte(dir)) && !strings.HasPrefix(f, "/proc/"+strconv.Itoa(os.Getpid())+"/") {
			found = append(found, string(bytes.ReplaceAll(text, []byte{0}, []byte{' '})))
		}
	}
	return found
}

// TestNothingIsLeftRunning interrupts a measurement while a long job runs, as Ctrl-C does.
func TestNothingIsLeftRunning(t *testing.T) {
	b := testBench(t)
	ctx, interrupt := context.WithCancel(t.Context())
	file := filepath.Join(b.dir, "mark")
	err := b.withLab(ctx, 1, nil, func(l *lab) error {
		c, err := l.client(l.nodes[0])
		if err != nil {
			return err
		}
		if _, err := c.Add(ctx, api.AddRequest{Command: []string{b.self, "stamp", file, "10m"}}); err != nil {
			return err
		}
		err = until(ctx, "the job to run", func() (bool, error) {
			return len(strings.Join(processesOf(t, file), "")) > 0, nil
		})
		if err != nil {
			return err
		}
		if pids, err := supervisors(b.dir); err != nil || len(pids) != 1 {
			return fmt.Errorf("want one supervisor, have %v (%w)", pids, err)
		}
		interrupt()
		return pause(ctx, time.Minute)
	})
	if err == nil || ctx.Err() == nil {
		t.Fatalf("the measurement was not interrupted: %v", err)
	}
	if left := processesOf(t, b.dir); len(left) > 0 {
		t.Errorf("left running: %v", left)
	}
}

// TestAKilledLeaderIsMeasuredAndReplaced runs one failover from end to end.
func TestAKilledLeaderIsMeasuredAndReplaced(t *testing.T) {
	b := testBench(t)
	if err := (failoverPart{b: b, n: 1}).measure(t.Context()); err != nil {
		t.Fatal(err)
	}
	rows := b.r.finish()
	if len(rows) != 3 {
		t.Fatalf("want three figures, have %+v", rows)
	}
	for _, r := range rows {
		if r.Summary.N != 1 || r.Summary.Min <= 0 || r.Summary.Max > 30_000 {
			t.Errorf("%s: %+v", r.Name, r.Summary)
		}
	}
	if left := processesOf(t, b.dir); len(left) > 0 {
		t.Errorf("left running: %v", left)
	}
}

// TestOneDispatchIsMeasured runs one submission in each way.
func TestOneDispatchIsMeasured(t *testing.T) {
	b := testBench(t)
	if err := (dispatchPart{b: b, n: 1, on: onFollower}).measure(t.Context()); err != nil {
		t.Fatal(err)
	}
	acknowledged, started := 0.0, 0.0
	for _, r := range b.r.finish() {
		switch r.Name {
		case "API, leader: to acknowledgement":
			acknowledged = r.Summary.Median
		case "API, leader: to process start":
			started = r.Summary.Median
		case "of these, run by the leader":
			t.Error("the jobs were sent to a follower")
		}
	}
	if acknowledged <= 0 || started <= acknowledged/2 {
		t.Errorf("acknowledged after %v ms, started after %v ms", acknowledged, started)
	}
}
