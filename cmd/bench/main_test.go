package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain lets the test binary be the job that nodes run, as the real program is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "stamp" {
		os.Exit(stamp(os.Args[2:], os.Stderr))
	}
	if len(os.Args) > 1 && os.Args[1] == "witness" {
		os.Exit(witness(os.Args[2:], os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(m)
}

func TestWrongUseIsRefusedBeforeAnythingIsStarted(t *testing.T) {
	for _, c := range []struct {
		args string
		want string
	}{
		{"sprint", `there is no part "sprint"`},
		{"dispatch now", "takes no argument"},
		{"dispatch --n 0", "--n 0: it must be at least 1"},
		{"dispatch --on moon", "--on moon: it must be one of any, leader, follower"},
		{"refill --jobs -1", "--jobs -1"},
		{"refill --length 0s", "--length 0s"},
		{"failover --n 0 --cut", "--n 0"},
		{"submit --clients 1,0", "--clients 0"},
		{"submit --clients 257", "--clients 257"},
		{"submit --length -1s", "--length -1s"},
		{"idle --length 0s", "--length 0s"},
		{"idle --gpus 0", "--gpus 0"},
		{"faults --minutes -1", "--minutes -1"},
		{"faults --only F01,F99", "--only F99: there are F01"},
		{"idle --fast", "unknown flag: --fast"},
		{"idle --program /nonexistent/cvlab", "--program /nonexistent/cvlab"},
	} {
		dir := t.TempDir()
		var out, errs bytes.Buffer
		code := run(append(strings.Fields(c.args), "--dir", dir), &out, &errs)
		if code != 2 || !strings.Contains(errs.String(), c.want) {
			t.Errorf("bench %s: code %d, %q; want 2 and %q", c.args, code, errs.String(), c.want)
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("bench %s left %v", c.args, left)
		}
	}
}

func TestHelpNamesEveryPart(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run(nil, &out, &errs); code != 0 {
		t.Fatalf("code %d: %s", code, errs.String())
	}
	for _, part := range []string{"dispatch", "refill", "failover", "submit", "idle", "faults", "all"} {
		if !strings.Contains(out.String(), "\n  "+part+" ") {
			t.Errorf("%s is not in the help:\n%s", part, out.String())
		}
	}
}

func TestStampTellsWhereAndWhen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mark")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := readMark(file); ok || err != nil {
		t.Fatalf("a mark before the job ran: %v, %v", ok, err)
	}
	c := exec.Command(self, "stamp", file, "30ms")
	c.Env = append(os.Environ(), "CVLAB_NODE=m2", "CUDA_VISIBLE_DEVICES=GPU-1")
	before := time.Now().UnixNano()
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	after := time.Now().UnixNano()
	m, ok, err := readMark(file)
	if err != nil || !ok || m.Node != "m2" || m.Slot != "GPU-1" {
		t.Fatalf("got %+v, %v, %v", m, ok, err)
	}
	if m.Start < before || m.End > after || time.Duration(m.End-m.Start) < 30*time.Millisecond {
		t.Errorf("the job ran from %d to %d, seen from outside from %d to %d", m.Start, m.End, before, after)
	}
	if err := os.WriteFile(file, []byte("half a mar"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := readMark(file); err == nil {
		t.Error("a broken mark was read")
	}
}

func TestStampRefusesNonsense(t *testing.T) {
	for _, args := range [][]string{nil, {"a", "b", "c"}, {"a", "soon"}} {
		var errs bytes.Buffer
		if code := stamp(args, &errs); code != 2 || errs.Len() == 0 {
			t.Errorf("stamp %v: code %d, said %q", args, code, errs.String())
		}
	}
}

func TestWaitingEndsWithTheReason(t *testing.T) {
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if err := until(ctx, "the moon", func() (bool, error) { return false, nil }); !errors.Is(err, why) || !strings.Contains(err.Error(), "the moon") {
		t.Errorf("got %v", err)
	}
	broken := errors.New("broken")
	if err := until(t.Context(), "it", func() (bool, error) { return false, broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}
