package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"

	"github.com/spf13/cobra"
)

// bench is one run of this program.
type bench struct {
	json     bool
	keep     bool
	dirFlag  string
	gpus     int
	nodeArgs []string
	program  string // the cvlab that is measured

	stdout, stderr io.Writer
	self           string       // this program, which jobs run
	dir            string       // everything of this run lies in it
	labs           atomic.Int64 // clusters started so far
	r              *report
}

func newRoot(stdout, stderr io.Writer) *cobra.Command {
	b := &bench{stdout: stdout, stderr: stderr}
	root := &cobra.Command{
		Use:           "bench PART",
		Short:         "Measure cvlab: real node processes on this computer, a client, and a clock",
		SilenceErrors: true, SilenceUsage: true,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage("there is no part %q: dispatch, refill, failover, submit, idle, load, faults or all", args[0])
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage("%v", err) })
	root.CompletionOptions.DisableDefaultCmd = true
	f := root.PersistentFlags()
	f.BoolVar(&b.json, "json", false, "print the figures with all samples as JSON on standard output; the rest goes to standard error")
	f.BoolVar(&b.keep, "keep", false, "keep data directories and logs, and say where")
	f.StringVar(&b.dirFlag, "dir", "", "where data directories go; the disk under it is part of what is measured (default: the system's temporary directory)")
	f.IntVar(&b.gpus, "gpus", 2, "simulated GPUs of each node")
	f.StringArrayVar(&b.nodeArgs, "node-arg", nil, "one more argument for every node, such as -v; may be repeated")
	f.StringVar(&b.program, "program", "", "measure this cvlab instead of building one")
	root.AddCommand(b.dispatchCommand(), b.refillCommand(), b.failoverCommand(), b.submitCommand(), b.idleCommand(), b.loadCommand(), b.faultsCommand(), b.allCommand())
	return root
}

// part makes the command of one part.
func (b *bench) part(use, short string, measure func(context.Context) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage("%s takes no argument %q, only flags: see --help", use, args[0])
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return b.run(c.Context(), measure) },
	}
}

// run prepares, measures, prints, and takes away what it made. What was measured before an error is printed too.
func (b *bench) run(ctx context.Context, measure func(context.Context) error) (err error) {
	if b.gpus < 1 {
		return usage("--gpus %d: a node needs at least one", b.gpus)
	}
	if b.self, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if b.dir, err = os.MkdirTemp(b.dirFlag, "cvlab-bench-"); err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	defer func() { err = errors.Join(err, b.cleanUp()) }()
	lines := b.stdout
	if b.json {
		lines = b.stderr
	}
	b.r = newReport(lines)
	if err := b.build(ctx); err != nil {
		return err
	}
	err = measure(ctx)
	if len(b.r.finish()) == 0 {
		return err
	}
	fmt.Fprintln(lines)
	err = errors.Join(err, b.r.table(lines))
	if b.json {
		err = errors.Join(err, b.r.json(b.stdout))
	}
	return err
}

func (b *bench) cleanUp() error {
	if b.keep {
		fmt.Fprintln(b.stderr, "kept:", b.dir)
		return nil
	}
	if err := os.RemoveAll(b.dir); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	return nil
}

// build builds cvlab, unless one was given.
func (b *bench) build(ctx context.Context) error {
	if b.program != "" {
		path, err := exec.LookPath(b.program)
		if err == nil {
			b.program, err = filepath.Abs(path)
		}
		if err != nil {
			return usage("--program %s: %v", b.program, err)
		}
		return nil
	}
	b.program = filepath.Join(b.dir, "cvlab")
	c := exec.CommandContext(ctx, "go", "build", "-o", b.program, "github.com/deveronica/cvlab/cmd/cvlab")
	c.Stdout, c.Stderr = b.stderr, b.stderr
	if err := c.Run(); err != nil {
		return fmt.Errorf("build cvlab: %w", err)
	}
	return nil
}

// withLab gives f a fresh cluster, and ends it afterwards whatever happens.
func (b *bench) withLab(ctx context.Context, nodes int, h *hosts, f func(*lab) error) (err error) {
	dir := filepath.Join(b.dir, "lab"+strconv.FormatInt(b.labs.Add(1), 10))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make the directory of a cluster: %w", err)
	}
	l, err := startLab(ctx, labOptions{program: b.program, dir: dir, nodes: nodes, gpus: b.gpus, args: b.nodeArgs, hosts: h})
	if err != nil {
		return fmt.Errorf("start %d nodes: %w", nodes, err)
	}
	defer func() {
		if err != nil && ctx.Err() == nil {
			err = errors.Join(err, l.lastWords())
		}
		err = errors.Join(err, l.end())
	}()
	return f(l)
}

// allCommand runs every part in its short form.
func (b *bench) allCommand() *cobra.Command {
	return b.part("all", "Every part in its short form, one table at the end", func(ctx context.Context) error {
		for _, f := range []func(context.Context) error{
			dispatchPart{b: b, n: 12, on: onAny}.measure,
			refillPart{b: b, nodes: 3, jobs: 60, length: refillLength}.measure,
			failoverPart{b: b, n: 4}.measure,
			submitPart{b: b, clients: []int{1, 8, 64}, length: shortLength}.measure,
			idlePart{b: b, nodes: []int{1, 3}, length: idleShort, settle: idleSettle}.measure,
		} {
			if err := f(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}
