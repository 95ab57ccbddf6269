package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/deveronica/cvlab/ui/api"
)

func TestSpan(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"0s":     0,
		"1s":     900 * time.Millisecond,
		"59s":    59*time.Second + 400*time.Millisecond,
		"1m00s":  59*time.Second + 600*time.Millisecond,
		"59m59s": time.Hour - time.Second,
		"1h00m":  time.Hour,
		"23h59m": 24*time.Hour - time.Second,
		"1d00h":  24 * time.Hour,
		"12d05h": 12*24*time.Hour + 5*time.Hour + 59*time.Minute,
	} {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestAgo(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for want, at := range map[string]time.Time{
		"-":         {},
		"now":       now.Add(-999 * time.Millisecond),
		"3s ago":    now.Add(-3 * time.Second),
		"1d01h ago": now.Add(-25 * time.Hour),
	} {
		if got := ago(at, now); got != want {
			t.Errorf("ago(%v) = %q, want %q", at, got, want)
		}
	}
	// Another machine's clock may be ahead of ours.
	if got := ago(now.Add(time.Minute), now); got != "now" {
		t.Errorf("a time to come gives %q, want now", got)
	}
}

func TestSize(t *testing.T) {
	for want, n := range map[string]uint64{
		"0 B": 0, "1023 B": 1023, "1.0 KiB": 1024, "1.5 MiB": 3 << 19, "24.0 GiB": 24 << 30, "16384.0 PiB": 1<<64 - 1,
	} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestParams(t *testing.T) {
	list := api.Params{
		{Key: "lr", Value: json.RawMessage("0.1")},
		{Key: "model.name", Value: json.RawMessage(`"resnet18"`)},
		{Key: "sizes", Value: json.RawMessage(`[64,128]`)},
		{Key: "say", Value: json.RawMessage(`"a \"b\""`)},
	}
	if got, want := params(list), `lr=0.1 model.name=resnet18 sizes=[64,128] say=a "b"`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := params(nil); got != "" {
		t.Errorf("nothing gives %q", got)
	}
}

// A name of somebody else must not move the cursor, add a line to a table, or turn the text around.
func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"resnet 한국어 é":    "resnet 한국어 é",
		"a\x1b[2Jb":       "a\uFFFD[2Jb",
		"a\nb\tc\rd\x7fe": "a\uFFFDb\uFFFDc\uFFFDd\uFFFDe",
		"c1 \u009b2J":     "c1 \uFFFD2J",
		"bad \xff byte":   "bad \uFFFD byte",
		"a\u202egpj.exe":  "a\uFFFDgpj.exe",
		"a\u2066b\u2028c": "a\uFFFDb\uFFFDc",
	} {
		if got := plain(in); got != want {
			t.Errorf("plain(%q) = %q, want %q", in, got, want)
		}
	}
	if got, want := plainLines("one\r\n\ttwo\x1b[1m\nthree"), "one\n    two\uFFFD[1m\nthree"; got != want {
		t.Errorf("plainLines gives %q, want %q", got, want)
	}
}

func TestTable(t *testing.T) {
	var b strings.Builder
	table := newTable(&b, "ID", "NAME", "NOTE")
	table.row("1", "long name", "")
	table.row("12", "x\n13 forged", "note")
	if err := table.flush(); err != nil {
		t.Fatal(err)
	}
	want := "ID  NAME         NOTE\n1   long name\n12  x\uFFFD13 forged  note\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func TestWhere(t *testing.T) {
	for want, e := range map[string]api.Experiment{
		"-":           {},
		"gpu1 (CPU)":  {Node: "gpu1"},
		"gpu1":        {Node: "gpu1", GPUs: []string{"GPU-1"}},
		"m2 (2 GPUs)": {Node: "m2", GPUs: []string{"GPU-1", "GPU-2"}},
	} {
		if got := where(e); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
