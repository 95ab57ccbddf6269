package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/deveronica/cvlab/fsm"
)

func TestIDs(t *testing.T) {
	for _, c := range []struct {
		args string
		want []uint64
		err  string
	}{
		{"3", []uint64{3}, ""},
		{"#3", []uint64{3}, ""},
		{"3 5-7", []uint64{3, 5, 6, 7}, ""},
		{"3,5-7 9", []uint64{3, 5, 6, 7, 9}, ""},
		{"7-7", []uint64{7}, ""},
		{"#5-#6", []uint64{5, 6}, ""},
		{"7-5", nil, "range"},
		{"1-10001", nil, "at most 10000"},
		{"0", nil, "not the number"},
		{"-1", nil, "not the number"},
		{"1-", nil, "not the number"},
		{"1,,2", nil, "not the number"},
		{"train", nil, "cvlab queue"},
		{"18446744073709551616", nil, "not the number"},
		{"18446744073709551614-18446744073709551615", []uint64{1<<64 - 2, 1<<64 - 1}, ""},
	} {
		t.Run(c.args, func(t *testing.T) {
			got, err := ids(strings.Fields(c.args))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || exitCode(err) != exitUsage {
					t.Fatalf("got %v, %v; want a usage error with %q", got, err, c.err)
				}
				return
			}
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("got %v, %v; want %v", got, err, c.want)
			}
		})
	}
	if list, err := ids([]string{"1-10000"}); err != nil || len(list) != 10000 {
		t.Errorf("the largest range gives %d, %v", len(list), err)
	}
}

func TestStatuses(t *testing.T) {
	got, err := statuses([]string{"pending,running", "held"})
	if want := []fsm.Status{fsm.Pending, fsm.Running, fsm.Held}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	_, err = statuses([]string{"done"})
	if err == nil || exitCode(err) != exitUsage {
		t.Fatalf("an unknown status gives %v, want a usage error", err)
	}
	for _, s := range fsm.Statuses() {
		if !strings.Contains(err.Error(), string(s)) {
			t.Errorf("%q does not name %s", err, s)
		}
	}
}

func TestRanges(t *testing.T) {
	for want, list := range map[string][]uint64{
		"nothing":      nil,
		"4":            {4},
		"3-5, 8":       {3, 4, 5, 8},
		"1, 3, 7-8":    {1, 3, 7, 8},
		"10-12, 1-2":   {10, 11, 12, 1, 2},
		"9, 9":         {9, 9},
		"1-2, 4, 6-12": {1, 2, 4, 6, 7, 8, 9, 10, 11, 12},
	} {
		if got := ranges(list); got != want {
			t.Errorf("ranges(%v) = %q, want %q", list, got, want)
		}
	}
}

func TestPairs(t *testing.T) {
	got, err := pairs("env", []string{"A=1", "B=x=y", "C="})
	if err != nil || len(got) != 3 || got["A"] != "1" || got["B"] != "x=y" || got["C"] != "" {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := pairs("env", nil); got != nil || err != nil {
		t.Errorf("nothing gives %v, %v", got, err)
	}
	for _, bad := range []string{"A", "=1", ""} {
		if _, err := pairs("label", []string{bad}); err == nil || exitCode(err) != exitUsage || !strings.Contains(err.Error(), "--label") {
			t.Errorf("%q gives %v, want a usage error that names the flag", bad, err)
		}
	}
}

func TestWords(t *testing.T) {
	for _, c := range []struct {
		command string
		want    []string
	}{
		{"", nil},
		{"  \t ", nil},
		{"cvlab example", []string{"cvlab", "example"}},
		{`python3 "/my kit/main.py" --config {config}`, []string{"python3", "/my kit/main.py", "--config", "{config}"}},
		{`a 'b "c" d' e\ f ''`, []string{"a", `b "c" d`, "e f", ""}},
		{`"a\"b" 'c\d' x"y"z`, []string{`a"b`, `c\d`, "xyz"}},
		{"a\nb", []string{"a", "b"}},
	} {
		if got, err := words(c.command); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("words(%q) = %q, %v; want %q", c.command, got, err, c.want)
		}
	}
	for _, bad := range []string{`"a`, `a 'b`, `a\`} {
		if got, err := words(bad); err == nil {
			t.Errorf("words(%q) = %q, want an error", bad, got)
		}
	}
}
