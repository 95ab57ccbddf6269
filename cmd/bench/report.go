package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"text/tabwriter"
)

// report collects what was measured and prints it: every repeat at once, the table at the end.
type report struct {
	mu     sync.Mutex
	out    io.Writer // lines of repeats, and the table; lines may come from many at once
	rows   []row
	groups map[string]int // place in rows, by part and name
}

// row is one figure: its samples and, where there is one, the bar it must clear.
type row struct {
	Part    string    `json:"part"`
	Name    string    `json:"name"`
	Unit    string    `json:"unit"`
	Summary summary   `json:"summary"`
	Samples []float64 `json:"samples"`
	Bars    []bar     `json:"bars,omitempty"`
}

// bar is an upper limit of one statistic of a figure.
type bar struct {
	Of   string  `json:"of"` // "median" or "max"
	Less float64 `json:"less_than"`
	Met  bool    `json:"met"`
}

func newReport(out io.Writer) *report { return &report{out: out, groups: map[string]int{}} }

// line prints one repeat.
func (r *report) line(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.out, format+"\n", args...)
}

// figure declares a figure; samples are added later under the same part and name. Declared again, it stays as it is.
func (r *report) figure(f row) {
	if _, known := r.groups[f.Part+"/"+f.Name]; known {
		return
	}
	r.groups[f.Part+"/"+f.Name] = len(r.rows)
	r.rows = append(r.rows, f)
}

// add adds samples to a declared figure.
func (r *report) add(part, name string, samples ...float64) {
	i, ok := r.groups[part+"/"+name]
	if !ok {
		r.figure(row{Part: part, Name: name, Unit: "ms"})
		i = len(r.rows) - 1
	}
	r.rows[i].Samples = append(r.rows[i].Samples, samples...)
}

// finish computes the statistics and judges the bars. Figures without samples are left out.
func (r *report) finish() []row {
	var out []row
	for _, f := range r.rows {
		if len(f.Samples) == 0 {
			continue
		}
		f.Summary = summarize(f.Samples)
		bars := f.Bars
		f.Bars = nil
		for _, b := range bars {
			got := f.Summary.Median
			if b.Of == "max" {
				got = f.Summary.Max
			}
			b.Met = got < b.Less
			f.Bars = append(f.Bars, b)
		}
		out = append(out, f)
	}
	return out
}

func (r *report) table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "part\tmeasure\tunit\tn\tmin\tmedian\tp99\tmax\tbar")
	for _, f := range r.finish() {
		s := f.Summary
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n", f.Part, f.Name, f.Unit, s.N, number(s.Min), number(s.Median), number(s.P99), number(s.Max), words(f.Bars))
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print table: %w", err)
	}
	return nil
}

func words(bars []bar) string {
	var out []string
	for _, b := range bars {
		verdict := "MISSED"
		if b.Met {
			verdict = "met"
		}
		out = append(out, fmt.Sprintf("%s < %s: %s", b.Of, number(b.Less), verdict))
	}
	return strings.Join(out, ", ")
}

// number prints three significant digits or so, without an exponent.
func number(v float64) string {
	switch {
	case v >= 100 || v == 0:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

func (r *report) json(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	out := struct {
		Cores   int    `json:"cores"`
		Go      string `json:"go"`
		Figures []row  `json:"figures"`
	}{runtime.NumCPU(), runtime.Version(), r.finish()}
	if err := e.Encode(out); err != nil {
		return fmt.Errorf("print JSON: %w", err)
	}
	return nil
}
