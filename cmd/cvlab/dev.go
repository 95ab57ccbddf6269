package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/deveronica/cvlab/cmd/cvlab/trainer"
	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/ui/api"
)

type devFlags struct {
	nodes, gpus int
	once, keep  bool
}

func (p *program) devCommand() *cobra.Command {
	var f devFlags
	c := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole cluster on this computer, with pretended GPUs and real experiments",
		Long: `dev starts several nodes as processes of their own, gives them pretended GPUs, submits a sweep of the built-in example and
shows the queue while it runs. The trainings are real; only the GPUs are not. Everything is removed at the end.`,
		Args: exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error { return p.dev(cmd.Context(), f) },
	}
	c.Flags().IntVar(&f.nodes, "nodes", 3, "number of nodes, 1 to 9")
	c.Flags().IntVar(&f.gpus, "gpus", 2, "pretended GPUs of each node, 0 to 8")
	c.Flags().BoolVar(&f.once, "once", false, "end when all experiments have ended; the exit code is 0 only if all completed")
	c.Flags().BoolVar(&f.keep, "keep", false, "keep the nodes' data directories at the end, and say where they are")
	return c
}

func (p *program) dev(ctx context.Context, f devFlags) (err error) {
	if f.nodes < 1 || f.nodes > 9 || f.gpus < 0 || f.gpus > 8 {
		return usage("want 1 to 9 nodes with 0 to 8 GPUs each")
	}
	dir, err := os.MkdirTemp("", "cvlab-dev-")
	if err != nil {
		return fmt.Errorf("make a directory for the cluster: %w", err)
	}
	cluster := &devCluster{dir: dir, gpus: f.gpus}
	defer func() {
		// Also when ctx has ended: the nodes and what they run are ours to end.
		err = errors.Join(err, cluster.stop(context.WithoutCancel(ctx)))
		if f.keep {
			fmt.Fprintf(p.stdout, "kept: %s\n", dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	fmt.Fprintf(p.stdout, "starting %d nodes with %d pretended GPUs each …\n", f.nodes, f.gpus)
	began := time.Now()
	if err := cluster.start(ctx, f.nodes); err != nil {
		return cluster.explain(err)
	}
	c, err := cluster.client(ctx)
	if err != nil {
		return cluster.explain(err)
	}
	fmt.Fprintf(p.stdout, "up after %s. Look at it from another terminal:\n", time.Since(began).Round(100*time.Millisecond))
	fmt.Fprintf(p.stdout, "  page   %s   (sign in with the token in %s)\n", cluster.nodes[0].running.HTTP, filepath.Join(cluster.nodes[0].dir, "token"))
	fmt.Fprintf(p.stdout, "  shell  export CVLAB_DATA_DIR=%s\n", cluster.nodes[0].dir)
	added, err := c.Add(ctx, api.AddRequest{Config: trainer.SweepConfig()})
	if err != nil {
		return fmt.Errorf("submit the example sweep: %w", err)
	}
	final, err := p.watch(ctx, c, added)
	if err != nil {
		if ctx.Err() != nil && !f.once {
			return nil // Ctrl-C; --once has promised to say whether all completed
		}
		return err
	}
	if err := p.printResults(ctx, c, final); err != nil {
		return err
	}
	if !f.once {
		fmt.Fprintf(p.stdout, "\nthe cluster stays up; submit something, or end it with Ctrl-C\n")
		return cluster.wait(ctx)
	}
	for _, e := range final {
		if e.Status != fsm.Completed {
			return fmt.Errorf("experiment %d %s: %s", e.ID, e.Status, first(e.Message, e.Reason))
		}
	}
	return nil
}
