package main

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/ui/api"
)

// watch shows the submitted experiments until all have ended, and gives them as they ended.
func (p *program) watch(ctx context.Context, c *api.Client, added api.Added) ([]api.Experiment, error) {
	w := &watcher{p: p, redraw: terminal(p.stdout), said: map[uint64]string{}}
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	q := api.QueueQuery{Sort: "id", Limit: 1000}
	if added.Sweep != nil {
		q.Sweep = *added.Sweep
	}
	for {
		page, err := c.Queue(ctx, q)
		if err != nil {
			return nil, fmt.Errorf("watch the queue: %w", err)
		}
		if err := w.show(page.Experiments); err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(page.Experiments, func(e api.Experiment) bool { return !e.Status.Ended() }) {
			return page.Experiments, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// watcher shows a list again and again: in place on a terminal, else a line for each change.
type watcher struct {
	p      *program
	redraw bool
	lines  int
	said   map[uint64]string
}

func (w *watcher) show(list []api.Experiment) error {
	if !w.redraw {
		for _, e := range list {
			now := fmt.Sprintf("%d %s on %s", e.ID, status(e), where(e))
			if w.said[e.ID] != now {
				w.said[e.ID] = now
				fmt.Fprintf(w.p.stdout, "%s  experiment %s  %s\n", time.Now().Format(time.TimeOnly), now, params(e.Params))
			}
		}
		return nil
	}
	var text bytes.Buffer
	t := newTable(&text, "ID", "NAME", "STATUS", "NODE", "SINCE")
	for _, e := range list {
		t.row(word(e.ID), name(e), status(e), where(e), since(e, time.Now()))
	}
	if err := t.flush(); err != nil {
		return err
	}
	if w.lines > 0 {
		fmt.Fprintf(w.p.stdout, "\x1b[%dA\x1b[J", w.lines) // up to where the table began, and clear
	}
	w.lines = bytes.Count(text.Bytes(), []byte("\n"))
	_, err := w.p.stdout.Write(text.Bytes())
	return err
}

// accuracy is what the example prints after each epoch.
var accuracy = regexp.MustCompile(`Epoch (\d+) Validation Metrics: \{'accuracy': ([0-9.]+)`)

// printResults prints the final table with the best run marked. The figures are read from the runs' own output.
func (p *program) printResults(ctx context.Context, c *api.Client, list []api.Experiment) error {
	best, bestAt := -1.0, -1
	scores := make([]string, len(list))
	for i, e := range list {
		score, ok := lastAccuracy(ctx, c, e.ID)
		if !ok {
			scores[i] = "-"
			continue
		}
		scores[i] = fmt.Sprintf("%.4f", score)
		if e.Status == fsm.Completed && score > best {
			best, bestAt = score, i
		}
	}
	fmt.Fprintln(p.stdout)
	t := newTable(p.stdout, "ID", "PARAMETERS", "STATUS", "NODE", "TOOK", "ACCURACY", "")
	for i, e := range list {
		took, mark := "-", ""
		if e.StartedAt != nil && e.EndedAt != nil {
			took = fmt.Sprintf("%.1fs", e.EndedAt.Sub(*e.StartedAt).Seconds())
		}
		if i == bestAt {
			mark = "← best"
		}
		t.row(word(e.ID), params(e.Params), string(e.Status), where(e), took, scores[i], mark)
	}
	return t.flush()
}

func lastAccuracy(ctx context.Context, c *api.Client, id uint64) (float64, bool) {
	body, err := c.Logs(ctx, id, api.LogOptions{Tail: 20})
	if err != nil {
		return 0, false
	}
	defer body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(body); err != nil {
		return 0, false
	}
	all := accuracy.FindAllSubmatch(text.Bytes(), -1)
	if len(all) == 0 {
		return 0, false
	}
	score, err := strconv.ParseFloat(string(all[len(all)-1][2]), 64)
	return score, err == nil
}
