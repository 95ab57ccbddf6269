package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/deveronica/cvlab/ui/api"
)

type submitFlags struct {
	priority, device, name, project, key, code string
	gpus                                       int
	set, env, after                            []string
	timeLimit                                  time.Duration
	retries, maxParallel                       int
	follow, dryRun, hold                       bool
}

func (p *program) runCommand() *cobra.Command {
	f := &submitFlags{}
	c := &cobra.Command{
		Use:   "run FILE.yaml | run [flags] -- CMD ARG…",
		Short: "Submit an experiment, or a sweep of them",
		Example: `  cvlab run config.yaml                        a cvlab-kit config; lists in it are swept
  cvlab run config.yaml --set lr='[0.1, 0.01]' sweep a key from here
  cvlab run --gpus 2 -- python train.py        any command
  cvlab run config.yaml --dry-run              show what would be made
  cvlab run config.yaml --follow               and show its output until it ends`,
		RunE: func(cmd *cobra.Command, args []string) error { return p.submit(cmd, f, args) },
	}
	flags := c.Flags()
	flags.StringVar(&f.priority, "priority", "", "low, normal, high or urgent")
	flags.StringVar(&f.device, "device", "", "any, cpu, cuda:1, NODE, NODE:0 or NODE:[0,1]")
	flags.IntVar(&f.gpus, "gpus", 0, "number of GPUs of one machine; 0 means a CPU slot")
	flags.StringVar(&f.name, "name", "", "what to call it")
	flags.StringVar(&f.project, "project", "", "the project it belongs to")
	flags.StringArrayVar(&f.set, "set", nil, "set a key of the config, KEY=VALUE; a YAML list sweeps; may be repeated")
	flags.StringArrayVar(&f.env, "env", nil, "environment variable for it, KEY=VALUE; may be repeated")
	flags.StringSliceVar(&f.after, "after", nil, "start when these experiments have completed")
	flags.DurationVar(&f.timeLimit, "time-limit", 0, "stop it after this time, such as 12h")
	flags.IntVar(&f.retries, "retries", 0, "run it again so often when it fails; a lost machine does not count")
	flags.IntVar(&f.maxParallel, "max-parallel", 0, "run at most so many of the sweep at once")
	flags.BoolVar(&f.hold, "hold", false, "do not start it before: cvlab release ID")
	flags.StringVar(&f.key, "key", "", "idempotency key; the same key never submits twice")
	flags.StringVar(&f.code, "code", "", "directory to ship with it")
	flags.BoolVar(&f.dryRun, "dry-run", false, "show what would be made, and make nothing")
	flags.BoolVarP(&f.follow, "follow", "f", false, "show its output, and end with its exit code")
	return c
}

func (p *program) submit(cmd *cobra.Command, f *submitFlags, args []string) error {
	ctx := cmd.Context()
	request, err := p.request(cmd, f, args)
	if err != nil {
		return err
	}
	c, err := p.connect()
	if err != nil {
		return err
	}
	if f.dryRun {
		return p.preview(ctx, c, request)
	}
	if request.Key == "" {
		request.Key = rand.Text()
	}
	added, err := c.Add(ctx, request)
	if err != nil {
		if refusal, ok := errors.AsType[*api.Error](err); ok && refusal.OutcomeUnknown() {
			return &exitError{code: exitUnknown, err: fmt.Errorf("%w\nrepeat the same command with --key %s", err, request.Key)}
		}
		return err
	}
	if err := p.printAdded(added, request.Key); err != nil {
		return err
	}
	if f.follow {
		return p.followAll(ctx, added)
	}
	return nil
}

// request turns flags and arguments into what is asked of the API.
func (p *program) request(cmd *cobra.Command, f *submitFlags, args []string) (api.AddRequest, error) {
	r := api.AddRequest{
		Priority: f.priority, Device: f.device, Name: f.name, Project: f.project, Key: f.key, Code: f.code,
		Set: f.set, TimeLimit: api.Duration(f.timeLimit), MaxParallel: f.maxParallel, Hold: f.hold,
	}
	if f.gpus < 0 || f.retries < 0 || f.maxParallel < 0 || f.timeLimit < 0 {
		return r, usage("--gpus, --retries, --max-parallel and --time-limit cannot be below 0")
	}
	changed := cmd.Flags().Changed
	if changed("gpus") {
		r.GPUs = &f.gpus
	}
	if changed("retries") {
		r.Retries = &f.retries
	}
	var err error
	if r.Env, err = pairs("env", f.env); err != nil {
		return r, err
	}
	if r.After, err = ids(f.after); err != nil {
		return r, err
	}
	switch dash := cmd.ArgsLenAtDash(); {
	case dash == 0 && len(args) > 0:
		r.Command = args
	case dash < 0 && len(args) == 1:
		r.Config, err = p.readConfig(args[0])
	default:
		return r, usage("want one FILE.yaml, or -- and a command; see cvlab run --help")
	}
	return r, err
}

// maxConfig is the API's limit; reading one byte more lets the server say so in its own words.
const maxConfig = 1<<20 + 1

func (p *program) readConfig(file string) (string, error) {
	var in io.Reader = p.stdin
	if file != "-" {
		f, err := os.Open(filepath.Clean(file))
		if err != nil {
			return "", usage("read the config: %w", err)
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxConfig))
	if err != nil {
		return "", fmt.Errorf("read the config: %w", err)
	}
	return string(text), nil
}

func (p *program) preview(ctx context.Context, c *api.Client, r api.AddRequest) error {
	made, err := c.Preview(ctx, r)
	if err != nil {
		return err
	}
	if p.json {
		return p.printJSON(made)
	}
	p.warn(made.Warnings)
	fmt.Fprintf(p.stdout, "would add %d experiments to project %s, each on %s\n", made.Count, plain(made.Project), plain(made.Spec.Device))
	for _, e := range made.Experiments {
		fmt.Fprintf(p.stdout, "\n# %d of %d  %s\n", e.Ordinal+1, made.Count, plain(params(e.Params)))
		if e.Config != "" {
			fmt.Fprintln(p.stdout, plainLines(strings.TrimRight(e.Config, "\n")))
		}
	}
	if more := made.Count - len(made.Experiments); more > 0 {
		fmt.Fprintf(p.stdout, "\nand %d more\n", more)
	}
	return nil
}

func (p *program) warn(list []api.Problem) {
	for _, w := range list {
		fmt.Fprintf(p.stderr, "warning: %s\n", plain(w.String()))
	}
}

func (p *program) printAdded(a api.Added, key string) error {
	if p.json {
		return p.printJSON(struct {
			api.Added
			Key string `json:"key"`
		}{a, key})
	}
	p.warn(a.Warnings)
	switch n := len(a.Experiments); {
	case n == 1:
		fmt.Fprintf(p.stdout, "experiment %d added to the queue: %s\n", a.Experiments[0].ID, plain(a.Experiments[0].Name))
		p.next("follow it with: cvlab logs -f %d", a.Experiments[0].ID)
	case n > 1:
		fmt.Fprintf(p.stdout, "experiments %d-%d added to the queue, %d of them\n", a.Experiments[0].ID, a.Experiments[n-1].ID, n)
		p.next("watch them with: cvlab queue")
	}
	return nil
}

// followAll shows the output of what was submitted and ends with the first exit code that is not 0.
func (p *program) followAll(ctx context.Context, a api.Added) error {
	if len(a.Experiments) > 1 {
		return usage("--follow shows one experiment, and this made %d; follow one with: cvlab logs -f ID", len(a.Experiments))
	}
	c, err := p.connectAll(ctx)
	if err != nil {
		return err
	}
	return p.follow(ctx, c, a.Experiments[0].ID, api.LogOptions{}, false)
}
