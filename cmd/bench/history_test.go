package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// life makes the sights of one attempt, 50 ms apart.
func life(experiment uint64, attempt, pid int, from int64, n, code int) history {
	var h history
	for i := range n {
		h = append(h, sight{experiment: experiment, attempt: attempt, seq: i + 1, at: from + int64(i)*50e6, pid: pid, last: i == n-1, code: code})
	}
	h[n-1].code = code
	return h
}

// TestTheChecksCanFail feeds them made-up histories.
func TestTheChecksCanFail(t *testing.T) {
	good := append(life(1, 1, 100, 0, 5, 0), life(1, 2, 101, 1e9, 4, 3)...)
	twoPids := append(life(1, 1, 100, 0, 5, 0), sight{experiment: 1, attempt: 1, seq: 6, at: 1e9, pid: 999})
	interleaved := append(life(1, 1, 100, 0, 5, 0), life(1, 2, 101, 100e6, 4, 0)...)
	missing := append(history{}, life(1, 1, 100, 0, 5, 0)...)
	missing = append(missing[:2], missing[3:]...)
	twice := append(life(1, 1, 100, 0, 5, 0), life(1, 1, 100, 1e9, 5, 0)...)
	three, four := 3, 4
	acked := map[string]uint64{"key1": 1, "key2": 2}
	for _, c := range []struct {
		name string
		err  error
		want string // "" means that nothing is wrong
	}{
		{"a good history", good.checkAttempts(), ""},
		{"two processes of one attempt", twoPids.checkAttempts(), "ran as process 100 and as 999"},
		{"two attempts at once", interleaved.checkAttempts(), "attempt 2 of experiment 1 began 100 ms before attempt 1 was seen last"},
		{"a testimony is missing", missing.checkAttempts(), "number 4 where 3 was due"},
		{"an attempt ran twice", twice.checkAttempts(), "number 1 where 6 was due"},
		{"the right exit code", good.checkExit(1, 2, &three), ""},
		{"a wrong exit code", good.checkExit(1, 2, &four), "ended with 3, recorded is 4"},
		{"no exit code", good.checkExit(1, 2, nil), "no exit code"},
		{"a job that never ran", good.checkExit(7, 1, &three), "never seen to run"},
		{"a job that vanished", good[:3].checkExit(1, 1, &three), "not seen to end"},
		{"the whole output", good.checkOutput(1, 2, "line 1\nline 2\nline 3\nline 4\n"), ""},
		{"a line is missing inside", good.checkOutput(1, 2, "line 1\nline 3\nline 4\n"), "where line 2 is due"},
		{"the last line is missing", good.checkOutput(1, 2, "line 1\nline 2\nline 3\n"), "has 3 lines, 4 were printed"},
		{"a line twice", good.checkOutput(1, 2, "line 1\nline 1\nline 2\nline 3\nline 4\n"), "where line 2 is due"},
		{"half a line", good.checkOutput(1, 2, "line 1\nline 2\nline 3\nline"), "where line 4 is due"},
		{"every key", checkKeys("m1", acked, []named{{1, "key1"}, {2, "key2"}, {3, "key3"}}), ""},
		{"a key with two experiments", checkKeys("m1", acked, []named{{1, "key1"}, {2, "key2"}, {3, "key2"}}), "on m1 key key2 is the experiments [2 3]"},
		{"an unacknowledged key with two experiments", checkKeys("m1", acked, []named{{1, "key1"}, {2, "key2"}, {3, "key3"}, {4, "key3"}}), "[3 4]"},
		{"a lost key", checkKeys("m2", acked, []named{{1, "key1"}}), "on m2 experiment 2 is lost"},
		{"another experiment", checkKeys("m2", acked, []named{{1, "key1"}, {9, "key2"}}), "experiment 2 is lost"},
		{"a late answer", atMost(6, 5, "it"), "at most"},
	} {
		if got := fmt.Sprint(c.err); c.want == "" && c.err != nil || c.want != "" && !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestAWitnessSaysTheSameInBothPlaces(t *testing.T) {
	t.Setenv("CVLAB_EXPERIMENT", "12")
	t.Setenv("CVLAB_ATTEMPT", "3")
	file := filepath.Join(t.TempDir(), "history")
	var out, errs bytes.Buffer
	if code := witness([]string{file, "0.12", "5"}, &out, &errs); code != 5 || errs.Len() > 0 {
		t.Fatalf("code %d, %s", code, errs.String())
	}
	h, err := readHistory(file)
	if err != nil || len(h) < 2 || h[0].experiment != 12 || h[0].attempt != 3 || h[0].pid != os.Getpid() {
		t.Fatalf("got %+v, %v", h, err)
	}
	five := 5
	for _, err := range []error{h.checkAttempts(), h.checkExit(12, 3, &five), h.checkOutput(12, 3, out.String())} {
		if err != nil {
			t.Error(err)
		}
	}
	// One that is told to stop does so with its first line.
	if err := os.WriteFile(file+".stop", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	if code := witness([]string{file, "600", "0"}, &out, &errs); code != 0 || out.String() != "line 1\n" {
		t.Errorf("code %d, printed %q", code, out.String())
	}
	for _, args := range [][]string{nil, {file, "soon", "0"}, {file, "1", "x"}} {
		if code := witness(args, &out, &errs); code != 2 {
			t.Errorf("witness %v: code %d", args, code)
		}
	}
}

func FuzzParseSight(f *testing.F) {
	f.Add("1 1 1 123456 77 -\n")
	f.Add("1 1 2 123456 77 3\n")
	f.Add("1 1\n")
	f.Fuzz(func(t *testing.T, line string) {
		s, err := parseSight(line)
		if err != nil {
			return
		}
		word := "-"
		if s.last {
			word = fmt.Sprint(s.code)
		}
		again, err := parseSight(fmt.Sprintf("%d %d %d %d %d %s", s.experiment, s.attempt, s.seq, s.at, s.pid, word))
		if err != nil || again != s {
			t.Errorf("%q: %+v, then %+v, %v", line, s, again, err)
		}
	})
}
