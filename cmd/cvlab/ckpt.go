package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/deveronica/cvlab/node/worker"
	"github.com/deveronica/cvlab/ui/api"
)

func (p *program) ckptCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "ckpt",
		Short: "List checkpoints, or say from within a run that one is whole",
		Long: `An experiment that is started again goes on from its newest whole checkpoint: it finds it in CVLAB_RESUME_FROM.

A checkpoint counts when the run has renamed it into CVLAB_CKPT_DIR:

  torch.save(state, f"{dir}/.epoch3.part"); os.replace(f"{dir}/.epoch3.part", f"{dir}/epoch3.pt")

or, for what cannot be renamed, when it says so after the last byte:

  cvlab ckpt done "$CVLAB_RUN_DIR/lightning_logs/last.ckpt"`,
		Args: cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage("there is no command %q; see cvlab ckpt --help", "ckpt "+args[0])
			}
			return usage("want ls ID or done PATH; see cvlab ckpt --help")
		},
	}
	c.AddCommand(p.ckptListCommand(), p.ckptDoneCommand())
	return c
}

func (p *program) ckptListCommand() *cobra.Command {
	return p.about("ls", "List the newest checkpoints of an experiment", func(ctx context.Context, c *api.Client, id uint64) error {
		list, err := c.Checkpoints(ctx, id)
		switch {
		case err != nil:
			return err
		case p.json:
			return p.printJSON(map[string]any{"checkpoints": list})
		case len(list) == 0:
			fmt.Fprintf(p.stdout, "experiment %d has published no checkpoint\n", id)
			p.next("how a run does that: cvlab ckpt --help")
			return nil
		}
		t := newTable(p.stdout, "ATTEMPT", "SEQ", "NODE", "PATH", "FILES", "SIZE", "PUBLISHED", "DIGEST")
		for _, k := range list {
			t.row(fmt.Sprint(k.Attempt), fmt.Sprint(k.Seq), k.Node, k.Path, fmt.Sprint(k.Files), size(k.Size),
				k.At.Local().Format(time.DateTime), k.Digest[:min(12, len(k.Digest))])
		}
		if err := t.flush(); err != nil {
			return err
		}
		p.next("which one an attempt went on from: cvlab show %d", id)
		return nil
	})
}

// ckptDoneCommand talks to no node: a job has no token, and its node may be away.
func (p *program) ckptDoneCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "done PATH",
		Short: "Say, from within a run, that the checkpoint at PATH is whole",
		Args:  exactly(1, "the path of one checkpoint, a file or a directory below CVLAB_RUN_DIR"),
		RunE: func(_ *cobra.Command, args []string) error {
			run, checkpoints := os.Getenv("CVLAB_RUN_DIR"), os.Getenv("CVLAB_CKPT_DIR")
			if run == "" || checkpoints == "" {
				return fmt.Errorf("CVLAB_RUN_DIR and CVLAB_CKPT_DIR are not set; this command is for programs that cvlab runs")
			}
			return worker.Announce(run, checkpoints, args[0])
		},
	}
}
