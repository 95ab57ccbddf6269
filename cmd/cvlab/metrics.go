package main

import (
	"encoding/csv"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/deveronica/cvlab/ui/api"
)

// Points asked for: a sparkline's width, and the most the API gives.
const (
	sparkPoints = 40
	csvPoints   = 20_000
)

func (p *program) metricsCommand() *cobra.Command {
	var asCSV bool
	var attempt int
	c := &cobra.Command{
		Use:   "metrics ID [KEY...]",
		Short: "Show what an experiment has measured so far, from any machine",
		Long: `metrics reads the CSV files, JSON lines and TensorBoard events of a run, wherever it runs: the last value of each series and its
extremes. With --csv it prints the series themselves, one column each.`,
		Args: atLeastOne("the number of one experiment, and perhaps the names of metrics"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := number(args[0])
			if err != nil {
				return err
			}
			if attempt < 0 {
				return usage("--attempt cannot be below 0")
			}
			c, err := p.connect()
			if err != nil {
				return err
			}
			points := 0
			switch {
			case asCSV || p.json:
				points = csvPoints
			case terminal(p.stdout):
				points = sparkPoints
			}
			m, err := c.Metrics(cmd.Context(), id, attempt, points, args[1:]...)
			if err != nil {
				return err
			}
			return p.showMetrics(id, m, args[1:], asCSV)
		},
	}
	c.Flags().BoolVar(&asCSV, "csv", false, "print the series, one column each")
	c.Flags().IntVar(&attempt, "attempt", 0, "of this attempt (default: the newest)")
	return c
}

func (p *program) showMetrics(id uint64, m api.Metrics, keys []string, asCSV bool) error {
	for _, k := range keys {
		if !slices.ContainsFunc(m.Series, func(s api.MetricSeries) bool { return s.Key == k }) {
			return fmt.Errorf("experiment %d has no metric %q; cvlab metrics %d lists those it has", id, k, id)
		}
	}
	switch {
	case p.json:
		return p.printJSON(m)
	case m.Error != "":
		return fmt.Errorf("experiment %d: %s", id, m.Error)
	case len(m.Series) == 0:
		fmt.Fprintln(p.stderr, "nothing was measured yet: no CSV with a header, metrics.jsonl or TensorBoard events are in its run directory")
		return nil
	case asCSV:
		return p.metricsCSV(m)
	}
	t := newTable(p.stdout, "METRIC", "LAST", "AT STEP", "LEAST", "MOST", "VALUES", "")
	for _, s := range m.Series {
		t.row(s.Key, short(s.Last), short(s.LastStep), short(s.Least), short(s.Most), strconv.FormatUint(s.Count, 10), spark(s.Values))
	}
	if err := t.flush(); err != nil {
		return err
	}
	p.next(fmt.Sprintf("the series as a table: cvlab metrics %d --csv", id))
	return nil
}

// metricsCSV prints a row for each step that any series has.
func (p *program) metricsCSV(m api.Metrics) error {
	rows := map[float64][]string{}
	header := []string{"step"}
	for i, s := range m.Series {
		header = append(header, s.Key)
		if s.Min != nil {
			fmt.Fprintf(p.stderr, "%s has %d values; %d of them are printed, the last of each stretch\n", plain(s.Key), s.Count, len(s.Values))
		}
		for j, step := range s.Steps {
			row := rows[float64(step)]
			if row == nil {
				row = make([]string, len(m.Series))
				rows[float64(step)] = row
			}
			row[i] = exact(s.Values[j])
		}
	}
	steps := make([]float64, 0, len(rows))
	for step := range rows {
		steps = append(steps, step)
	}
	slices.Sort(steps)
	out := csv.NewWriter(p.stdout)
	if err := out.Write(header); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	for _, step := range steps {
		if err := out.Write(append([]string{exact(api.Number(step))}, rows[step]...)); err != nil {
			return fmt.Errorf("print: %w", err)
		}
	}
	out.Flush()
	return out.Error()
}

func exact(n api.Number) string {
	if math.IsNaN(float64(n)) {
		return ""
	}
	return strconv.FormatFloat(float64(n), 'g', -1, 64)
}

// short writes a value for people.
func short(n api.Number) string {
	if math.IsNaN(float64(n)) {
		return "-"
	}
	return strconv.FormatFloat(float64(n), 'g', 5, 64)
}

// spark draws values as a line of blocks.
func spark(values []api.Number) string {
	low, high := math.Inf(1), math.Inf(-1)
	for _, v := range values {
		if f := float64(v); !math.IsNaN(f) {
			low, high = min(low, f), max(high, f)
		}
	}
	var b strings.Builder
	for _, v := range values {
		f := float64(v)
		switch {
		case math.IsNaN(f):
			b.WriteByte(' ')
		case high == low:
			b.WriteRune('▄')
		default:
			b.WriteRune([]rune("▁▂▃▄▅▆▇█")[min(7, int(8*(f-low)/(high-low)))])
		}
	}
	return b.String()
}
