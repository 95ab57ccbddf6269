package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/deveronica/cvlab/ui/api"
)

func (p *program) drainCommand() *cobra.Command {
	var now, wait bool
	c := &cobra.Command{
		Use:   "drain NODE",
		Short: "Give a machine no new work, and with --now empty it",
		Long: `drain gives a machine no new work; what runs there goes on and ends by itself. With --wait it returns when nothing runs
there any more.

With --now it also stops what runs there: each experiment is asked for a checkpoint (SIGUSR1), gets up to a minute to write
it, and goes on elsewhere. Then the plug may be pulled.`,
		Args: exactly(1, "the name or ID of one node"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.connect()
			if err != nil {
				return err
			}
			drain := c.Drain
			if now {
				drain = c.DrainNow
			}
			if err := drain(cmd.Context(), args[0]); err != nil {
				return err
			}
			if now || wait {
				return p.untilEmpty(cmd.Context(), c, args[0], now)
			}
			d, err := device(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			still := "nothing runs there"
			if len(d.Running) > 0 {
				still = "it still runs " + ranges(d.Running) + ", which ends by itself; --now stops it after a checkpoint"
			}
			return p.done(map[string]any{"node": args[0], "draining": true, "running": d.Running},
				"%s gets no new work; %s; undo with: cvlab resume %s", d.Name, still, args[0])
		},
	}
	c.Flags().BoolVar(&now, "now", false, "stop what runs there after a checkpoint, so that it goes on elsewhere, and wait for that")
	c.Flags().BoolVar(&wait, "wait", false, "wait until nothing runs there")
	return c
}

// device finds one node as the server would.
func device(ctx context.Context, c *api.Client, word string) (api.Device, error) {
	list, err := c.Devices(ctx)
	if err != nil {
		return api.Device{}, err
	}
	var found []api.Device
	for _, d := range list {
		if d.Name == word || d.ID == word {
			return d, nil
		}
		if len(word) >= 6 && strings.HasPrefix(d.ID, word) {
			found = append(found, d)
		}
	}
	if len(found) != 1 {
		return api.Device{}, fmt.Errorf("no node is called %q any more; cvlab devices lists them", word)
	}
	return found[0], nil
}

// lookEmpty is how often a drained node is looked at.
const lookEmpty = time.Second

// untilEmpty waits until nothing runs on a node, and says what it waits for whenever that changes.
func (p *program) untilEmpty(ctx context.Context, c *api.Client, node string, now bool) error {
	said := ""
	tick := time.NewTicker(lookEmpty)
	defer tick.Stop()
	for {
		d, err := device(ctx, c, node)
		if err != nil {
			return err
		}
		if len(d.Running) == 0 {
			text := d.Name + " runs nothing; the plug may be pulled"
			for _, s := range d.Strays {
				text += fmt.Sprintf("\n%s of %s is frozen there and would be lost: %s", stray(s), d.Name, s.Reason)
			}
			return p.doneLines(map[string]any{"node": node, "draining": true, "running": d.Running}, text)
		}
		if text := awaited(d, now); text != said {
			said = text
			fmt.Fprintln(p.stderr, plain(text))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// awaited says what a drained node still has to do.
func awaited(d api.Device, now bool) string {
	switch {
	case d.State != "active":
		return fmt.Sprintf("waiting for %s on %s, which is not heard now: nothing can be stopped there until it is back", ranges(d.Running), d.Name)
	case now:
		return fmt.Sprintf("waiting for %s on %s: each may write a checkpoint, and is stopped after at most a minute and its grace", ranges(d.Running), d.Name)
	}
	return fmt.Sprintf("waiting for %s on %s to end by itself; stop it after a checkpoint with: cvlab drain %s --now", ranges(d.Running), d.Name, d.Name)
}

func stray(s api.Stray) string {
	return fmt.Sprintf("stray attempt %s of experiment %d", s.Token, s.Experiment)
}

func (p *program) killStrayCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "kill-stray NODE TOKEN",
		Short: "End an attempt that runs on a machine and that the cluster does not know",
		Long: `After a cluster was recovered or restored from a backup, a machine may run an attempt that the facts have forgotten and do
not take back, since its experiment may run elsewhere. It is frozen until somebody decides: cvlab devices shows it, and this
ends it.`,
		Args: exactly(2, "the name or ID of one node, and the token of a stray attempt as cvlab devices shows it"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.connect()
			if err != nil {
				return err
			}
			if err := c.KillStray(cmd.Context(), args[0], args[1]); err != nil {
				return err
			}
			return p.done(map[string]any{"node": args[0], "token": args[1], "killed": true}, "stray attempt %s on %s was killed", args[1], args[0])
		},
	}
}
