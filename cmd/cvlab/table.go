package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/deveronica/cvlab/ui/api"
)

// table writes rows in columns.
type table struct {
	to   io.Writer
	text *bytes.Buffer
	w    *tabwriter.Writer
}

func newTable(w io.Writer, header ...string) *table {
	t := &table{to: w, text: &bytes.Buffer{}}
	t.w = tabwriter.NewWriter(t.text, 0, 0, 2, ' ', 0)
	t.row(header...)
	return t
}

func (t *table) row(cells ...string) {
	for i, c := range cells {
		cells[i] = plain(c)
	}
	fmt.Fprintln(t.w, strings.Join(cells, "\t"))
}

// flush prints the rows, without the blanks that fill up empty last cells.
func (t *table) flush() error {
	if err := t.w.Flush(); err != nil {
		return err
	}
	for line := range bytes.Lines(t.text.Bytes()) {
		if _, err := fmt.Fprintf(t.to, "%s\n", bytes.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// plain makes somebody's text harmless for a terminal: no control character gets through, nor one that turns the
// direction of what follows.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || turnsText(r) {
			return utf8.RuneError
		}
		return r
	}, s)
}

// turnsText knows the characters that make a line look like another one: line separators and changes of direction.
func turnsText(r rune) bool {
	return r == 0x2028 || r == 0x2029 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
}

// plainLines is plain for text that may have lines.
func plainLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = plain(strings.ReplaceAll(strings.TrimSuffix(l, "\r"), "\t", "    "))
	}
	return strings.Join(lines, "\n")
}

// ago writes a time as people say it.
func ago(t, now time.Time) string {
	d := now.Sub(t)
	switch {
	case t.IsZero():
		return "-"
	case d < time.Second:
		return "now"
	}
	return span(d) + " ago"
}

// span writes a duration in its two greatest units.
func span(d time.Duration) string {
	d = d.Round(time.Second)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}

// size writes bytes in binary units.
func size(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	v, i := float64(n), 0
	for v >= 1024 && i < len(units)-1 {
		v /= 1024
		i++
	}
	if i == 0 {
		return strconv.FormatUint(n, 10) + " B"
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}

// params writes the swept values of an experiment in one cell.
func params(list api.Params) string {
	words := make([]string, 0, len(list))
	for _, p := range list {
		value := string(p.Value)
		var text string
		if json.Unmarshal(p.Value, &text) == nil {
			value = text
		}
		words = append(words, p.Key+"="+value)
	}
	return strings.Join(words, " ")
}

// where says on what an experiment runs or ran.
func where(e api.Experiment) string {
	switch {
	case e.Node == "":
		return "-"
	case len(e.GPUs) == 0:
		return e.Node + " (CPU)"
	case len(e.GPUs) == 1:
		return e.Node
	}
	return fmt.Sprintf("%s (%d GPUs)", e.Node, len(e.GPUs))
}

// done says that something was done: in a sentence, or for programs.
func (p *program) done(v any, format string, args ...any) error {
	if p.json {
		return p.printJSON(v)
	}
	_, err := fmt.Fprintln(p.stdout, plain(fmt.Sprintf(format, args...)))
	return err
}

// doneLines is done for more than one line.
func (p *program) doneLines(v any, text string) error {
	if p.json {
		return p.printJSON(v)
	}
	_, err := fmt.Fprintln(p.stdout, plainLines(text))
	return err
}

// next prints the command that comes next most often.
func (p *program) next(format string, args ...any) {
	if terminal(p.stdout) {
		fmt.Fprintf(p.stdout, "\n"+format+"\n", args...)
	}
}

func word(id uint64) string { return strconv.FormatUint(id, 10) }
