package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/ui/api"
)

type queueFlags struct {
	all     bool
	status  []string
	project string
	user    string
	limit   int
}

// queueLimit is how many experiments are shown when nobody says otherwise: about a screen.
const queueLimit = 50

func (p *program) queueCommand() *cobra.Command {
	f := queueFlags{}
	c := &cobra.Command{
		Use:     "queue",
		Aliases: []string{"ls", "status"},
		Short:   "Show what runs and what waits, and why",
		Args:    exactly(0, "no argument; for one experiment: cvlab show ID"),
		RunE:    func(cmd *cobra.Command, _ []string) error { return p.queue(cmd, f) },
	}
	c.Flags().BoolVarP(&f.all, "all", "a", false, "also what has ended")
	c.Flags().StringSliceVar(&f.status, "status", nil, "only these: pending, running, completed, failed, cancelled, held")
	c.Flags().StringVar(&f.project, "project", "", "only this project")
	c.Flags().StringVar(&f.user, "user", "", "only this user's")
	c.Flags().IntVarP(&f.limit, "limit", "n", queueLimit, "at most so many, up to 1000")
	return c
}

// queue prints the counts, then what runs and waits, in the order in which it will start.
func (p *program) queue(cmd *cobra.Command, f queueFlags) error {
	selected, err := statuses(f.status)
	if err != nil {
		return err
	}
	if f.limit < 1 || f.limit > 1000 {
		return usage("--limit is from 1 to 1000")
	}
	c, err := p.connect()
	if err != nil {
		return err
	}
	q := api.QueueQuery{Status: selected, Project: f.project, User: f.user, Limit: f.limit, Sort: "queue"}
	if f.all || len(q.Status) > 0 {
		q.Sort = "-id"
	} else {
		q.Status = []fsm.Status{fsm.Running, fsm.Pending, fsm.Held}
	}
	page, err := c.Queue(cmd.Context(), q)
	if err != nil {
		return err
	}
	if p.json {
		return p.printJSON(page)
	}
	p.printCounts(page.Counts)
	if len(page.Experiments) == 0 {
		p.next("submit one with: cvlab run config.yaml")
		return nil
	}
	fmt.Fprintln(p.stdout)
	return p.printQueue(page, f.limit)
}

func (p *program) printCounts(counts map[fsm.Status]int) {
	var words []string
	for _, s := range fsm.Statuses() {
		if n := counts[s]; n > 0 || s == fsm.Running || s == fsm.Pending {
			words = append(words, fmt.Sprintf("%d %s", n, s))
		}
	}
	fmt.Fprintln(p.stdout, strings.Join(words, ", "))
}

func (p *program) printQueue(page api.Queue, limit int) error {
	now := time.Now()
	t := newTable(p.stdout, "ID", "NAME", "STATUS", "PRIORITY", "USER", "NODE", "SINCE", "NOTE")
	for _, e := range page.Experiments {
		t.row(word(e.ID), name(e), status(e), e.Priority.String(), e.User, where(e), since(e, now), note(e))
	}
	if err := t.flush(); err != nil {
		return err
	}
	if page.Next != "" {
		fmt.Fprintf(p.stdout, "only the first %d are shown; --limit shows more\n", len(page.Experiments))
	}
	for _, hint := range []struct {
		status fsm.Status
		next   string
	}{
		{fsm.Pending, "why one waits: cvlab why %d"}, {fsm.Running, "follow one with: cvlab logs -f %d"},
		{fsm.Held, "let one run: cvlab release %d"}, {fsm.Failed, "why one failed: cvlab why %d"},
	} {
		if i := slices.IndexFunc(page.Experiments, func(e api.Experiment) bool { return e.Status == hint.status }); i >= 0 {
			p.next(hint.next, page.Experiments[i].ID)
			return nil
		}
	}
	p.next("all of one: cvlab show %d", page.Experiments[0].ID)
	return nil
}

func name(e api.Experiment) string {
	if len(e.Params) == 0 {
		return e.Name
	}
	return e.Name + " [" + params(e.Params) + "]"
}

func status(e api.Experiment) string {
	if e.Cancelling {
		return "cancelling"
	}
	return string(e.Status)
}

func since(e api.Experiment, now time.Time) string {
	switch {
	case e.EndedAt != nil:
		return ago(*e.EndedAt, now)
	case e.StartedAt != nil && e.Status == fsm.Running:
		return span(now.Sub(*e.StartedAt))
	}
	return ago(e.CreatedAt, now)
}

func note(e api.Experiment) string {
	switch {
	case e.Reason != "":
		return e.Reason
	case e.Progress != nil && e.Status == fsm.Running:
		return fmt.Sprintf("epoch %d of %d", e.Progress.Epoch, e.Progress.Epochs)
	case e.Status == fsm.Failed && e.ExitCode != nil:
		return strings.TrimRight(fmt.Sprintf("exit code %d: %s", *e.ExitCode, e.Message), ": ")
	}
	return e.Message
}

func (p *program) projectsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "projects",
		Short: "List the projects with their counts",
		Args:  exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.connect()
			if err != nil {
				return err
			}
			list, err := c.Projects(cmd.Context())
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(map[string]any{"projects": list})
			}
			t := newTable(p.stdout, "PROJECT", "EXPERIMENTS", "RUNNING", "PENDING", "COMPLETED", "FAILED", "USERS", "NEWEST")
			for _, x := range list {
				t.row(x.Name, fmt.Sprint(x.Experiments), fmt.Sprint(x.Counts[fsm.Running]), fmt.Sprint(x.Counts[fsm.Pending]),
					fmt.Sprint(x.Counts[fsm.Completed]), fmt.Sprint(x.Counts[fsm.Failed]), strings.Join(x.Users, ", "), ago(x.LastAt, time.Now()))
			}
			if err := t.flush(); err != nil || len(list) == 0 {
				return err
			}
			p.next("one project's: cvlab queue --all --project %s", plain(list[0].Name))
			return nil
		},
	}
}
