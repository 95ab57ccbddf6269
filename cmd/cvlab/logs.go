package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/ui/api"
)

func (p *program) logsCommand() *cobra.Command {
	var o api.LogOptions
	var follow, raw bool
	c := &cobra.Command{
		Use:   "logs ID",
		Short: "Show an experiment's output, from any machine",
		Long: `logs shows what an experiment has printed so far. With --follow it goes on until the experiment ends, also over new
attempts and over the death of the asked node, and ends with the experiment's own exit code.`,
		Args: exactly(1, "the number of one experiment"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := number(args[0])
			if err != nil {
				return err
			}
			if o.Attempt < 0 || o.Tail < 0 {
				return usage("--attempt and --tail cannot be below 0")
			}
			if !follow {
				return p.logs(cmd.Context(), id, o, raw)
			}
			c, err := p.connectAll(cmd.Context())
			if err != nil {
				return err
			}
			return p.follow(cmd.Context(), c, id, o, raw)
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the experiment ends")
	c.Flags().IntVar(&o.Attempt, "attempt", 0, "only this attempt (default: the newest)")
	c.Flags().IntVarP(&o.Tail, "tail", "n", 0, "only the last so many lines")
	c.Flags().BoolVar(&raw, "raw", false, "also on a terminal, print control characters as they are")
	return c
}

func (p *program) logs(ctx context.Context, id uint64, o api.LogOptions, raw bool) error {
	c, err := p.connect()
	if err != nil {
		return err
	}
	body, err := c.Logs(ctx, id, o)
	if err != nil {
		return err
	}
	defer body.Close()
	out := p.output(raw)
	if _, err := io.Copy(out, body); err != nil {
		return fmt.Errorf("print the output: %w", err)
	}
	return out.flush()
}

// follow prints output until the experiment ends, and ends with its exit code.
func (p *program) follow(ctx context.Context, c *api.Client, id uint64, o api.LogOptions, raw bool) error {
	out := p.output(raw)
	final, err := c.FollowLogs(ctx, id, o, func(piece api.LogPiece) error {
		if piece.Note != "" {
			fmt.Fprintf(p.stderr, "cvlab: %s\n", plain(piece.Note))
			return nil
		}
		if _, err := out.Write(piece.Data); err != nil {
			return fmt.Errorf("print the output: %w", err)
		}
		return nil
	})
	if err := errors.Join(err, out.flush()); err != nil {
		return err
	}
	return outcome(id, final)
}

// outcome gives the experiment's own exit code as ours.
func outcome(id uint64, f api.FinalStatus) error {
	if f.Status == fsm.Completed {
		return nil
	}
	code := exitFailed
	if f.ExitCode != nil && *f.ExitCode > 0 && *f.ExitCode < 256 {
		code = *f.ExitCode
	}
	return &exitError{code: code, err: fmt.Errorf("experiment %d %s", id, plain(first(f.Sentence, string(f.Status))))}
}

// output is where a job's bytes go: as they are into a file or pipe, made harmless on a terminal.
type output struct {
	w    io.Writer
	safe *sanitizer
}

func (p *program) output(raw bool) *output {
	o := &output{w: p.stdout}
	if !raw && terminal(p.stdout) {
		o.safe = &sanitizer{}
	}
	return o
}

// Write prints a piece of output.
func (o *output) Write(b []byte) (int, error) {
	if o.safe == nil {
		return o.w.Write(b)
	}
	if _, err := o.w.Write(o.safe.clean(b)); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (o *output) flush() error {
	if o.safe == nil {
		return nil
	}
	_, err := o.w.Write(o.safe.rest())
	return err
}
