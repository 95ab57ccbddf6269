package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestWhatNodesMustNotSay(t *testing.T) {
	for line, want := range map[string]bool{
		`level=ERROR msg="invariant I2 is broken: two open attempts"`: true,
		`panic: runtime error: index out of range`:                    true,
		`fatal error: all goroutines are asleep - deadlock!`:          true,
		`level=WARN msg="a lease has run out"`:                        false,
		`level=INFO msg=ended message="panic: the job's own"`:         false,
	} {
		if brokenRule(line) != want {
			t.Errorf("%s: want %v", line, want)
		}
	}
	for text, want := range map[string]bool{
		"time=… level=INFO msg=x\ncvlab: open consensus log: raft.db is damaged; join again as a new node\n": true,
		"time=… level=INFO msg=x\n": false,
		"cvlab: EOF\n":              false,
		"cvlab: something that is a sentence\npanic: page 7 already freed\n\ngoroutine 1 [running]:\n": false,
		"fatal error: unexpected signal\n": false,
		"":                                 false,
	} {
		if refusal([]byte(text)) != want {
			t.Errorf("%q: want %v", text, want)
		}
	}
}

func TestALeakIsMoreThanAFewFiles(t *testing.T) {
	for _, c := range []struct {
		before, after, few int
		want               bool
	}{{100, 100, 15, true}, {100, 50, 15, true}, {100, 115, 15, true}, {100, 116, 15, false}, {1000, 1050, 15, true}, {1000, 1051, 15, false}} {
		if got := notMore(c.before, c.after, c.few); got != c.want {
			t.Errorf("%+v: got %v", c, got)
		}
	}
}

func TestALedgerReadsOnlyWholeLinesAndEachOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "history")
	l := ledger{file: file}
	if h, err := l.read(); err != nil || len(h) != 0 {
		t.Fatalf("before the first line: %v, %v", h, err)
	}
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, step := range []struct {
		text string
		want int
	}{{"1 1 1 1000000000 7 -\n1 1 2 10500", 1}, {"00000 7 -\n", 2}, {"1 1 3 4000000000 7 0\n2 1 1 5000000000 8 -\n", 4}, {"", 4}} {
		if _, err := f.WriteString(step.text); err != nil {
			t.Fatal(err)
		}
		if h, err := l.read(); err != nil || len(h) != step.want {
			t.Fatalf("after %q: %v, %v", step.text, h, err)
		}
	}
	h, _ := l.read()
	if gap := h.of(1, 1).longestGap(); gap != 2950*time.Millisecond {
		t.Errorf("the longest gap is %v", gap)
	}
	if got := h.newest(1); got.seq != 3 || got.code != 0 || !got.last {
		t.Errorf("the newest is %+v", got)
	}
	if late := h.since(2e9); len(late) != 2 || len(h.since(5e9)) != 0 {
		t.Errorf("late are %+v", late)
	}
}
