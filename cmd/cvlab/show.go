package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/ui/api"
)

// about makes a command that asks about one experiment.
func (p *program) about(use, short string, ask func(ctx context.Context, c *api.Client, id uint64) error) *cobra.Command {
	return &cobra.Command{
		Use:   use + " ID",
		Short: short,
		Args:  exactly(1, "the number of one experiment"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := number(args[0])
			if err != nil {
				return err
			}
			c, err := p.connect()
			if err != nil {
				return err
			}
			return ask(cmd.Context(), c, id)
		},
	}
}

func (p *program) showCommand() *cobra.Command {
	return p.about("show", "Show one experiment with its attempts", func(ctx context.Context, c *api.Client, id uint64) error {
		d, err := c.Get(ctx, id)
		switch {
		case err != nil:
			return err
		case p.json:
			return p.printJSON(d)
		}
		return p.printDetail(d)
	})
}

func (p *program) printDetail(d api.Detail) error {
	line := func(key, value string) {
		if value != "" {
			fmt.Fprintf(p.stdout, "%-10s %s\n", key, plain(value))
		}
	}
	line("experiment", fmt.Sprintf("%d  %s", d.ID, d.Name))
	line("status", status(d.Experiment))
	line("why", note(d.Experiment))
	line("project", d.Project)
	line("user", d.User)
	line("priority", d.Priority.String())
	line("needs", d.Spec.Device)
	if d.Sweep != nil {
		line("sweep", fmt.Sprintf("%d  %s", *d.Sweep, params(d.Params)))
	}
	line("command", first(d.Spec.Shell, strings.Join(d.Spec.Command, " "), "cvlab-kit"))
	line("submitted", d.CreatedAt.Local().Format(time.DateTime))
	if d.StartedAt != nil && d.EndedAt != nil {
		line("took", span(d.EndedAt.Sub(*d.StartedAt)))
	}
	if d.ExitCode != nil {
		line("exit code", fmt.Sprint(*d.ExitCode))
	}
	line("notes", d.Notes)
	if len(d.Attempts) > 0 {
		fmt.Fprintln(p.stdout)
		t := newTable(p.stdout, "ATTEMPT", "NODE", "GPUS", "STARTED", "ENDED", "TOOK", "CLASS", "FROM", "IN WORDS")
		for _, a := range d.Attempts {
			t.row(fmt.Sprint(a.Number), a.Node, gpus(a.GPUs), clock(a.StartedAt), clock(a.EndedAt), took(a, time.Now()), first(string(a.Class), "-"), origin(a.Resumed), a.Sentence)
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	switch d.Status {
	case fsm.Pending:
		p.next("why it waits: cvlab why %d", d.ID)
	case fsm.Running:
		p.next("follow it with: cvlab logs -f %d", d.ID)
	default:
		p.next("its output: cvlab logs %d", d.ID)
	}
	return nil
}

func gpus(uuids []string) string {
	if len(uuids) == 0 {
		return "CPU"
	}
	short := make([]string, len(uuids))
	for i, u := range uuids {
		short[i] = u
		if len(u) > 20 { // both ends: pretended GPUs of one node begin alike
			short[i] = u[:12] + "…" + u[len(u)-4:]
		}
	}
	return strings.Join(short, " ")
}

// origin is the checkpoint an attempt went on from.
func origin(r *api.CheckpointRef) string {
	if r == nil {
		return "the start"
	}
	return fmt.Sprintf("checkpoint %d of attempt %d", r.Seq, r.Attempt)
}

func clock(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.Local().Format(time.DateTime)
}

func took(a api.Attempt, now time.Time) string {
	switch {
	case a.StartedAt == nil:
		return "-"
	case a.EndedAt == nil:
		return span(now.Sub(*a.StartedAt))
	}
	return span(a.EndedAt.Sub(*a.StartedAt))
}

func (p *program) whyCommand() *cobra.Command {
	return p.about("why", "Explain why an experiment waits, or why it failed", func(ctx context.Context, c *api.Client, id uint64) error {
		x, err := c.Why(ctx, id)
		switch {
		case err != nil:
			return err
		case p.json:
			return p.printJSON(x)
		}
		p.printWhy(id, x)
		return nil
	})
}

func (p *program) printWhy(id uint64, x api.Explanation) {
	fmt.Fprintln(p.stdout, plain(x.Sentence))
	for _, n := range x.Nodes {
		fmt.Fprintf(p.stdout, "  %-12s %s\n", plain(n.Name), plain(n.Sentence))
	}
	if x.Start != "" {
		fmt.Fprintf(p.stdout, "would start it: %s\n", plain(x.Start))
	}
	if x.Status == fsm.Failed {
		p.next("its output: cvlab logs %d", id)
	}
}
