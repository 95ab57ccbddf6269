package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// program is one run of cvlab: where it reads and writes, and the flags every command takes.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	json   bool
	server string
	data   string
}

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "cvlab",
		Short: "One experiment queue on all GPU machines of a lab, without a central server",
		Long: `cvlab runs experiments on the best idle GPU of any machine of your lab.

  cvlab up                       run this machine's node; it prints how others join
  cvlab join HOST                run this machine's node as a member of HOST's cluster
  cvlab run config.yaml          submit a cvlab-kit config, or:  cvlab run -- python train.py
  cvlab queue                    what runs and what waits, and why
  cvlab dev                      a whole cluster on this computer, to try it out`,
		Args:          cobra.ArbitraryArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage("there is no command %q; see cvlab --help", args[0])
			}
			return p.queue(cmd, queueFlags{limit: queueLimit})
		},
	}
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%w; see %s --help", err, cmd.CommandPath())
	})
	f := root.PersistentFlags()
	f.BoolVar(&p.json, "json", false, "print JSON instead of tables")
	f.StringVar(&p.server, "server", "", "URL of the node to talk to (CVLAB_SERVER_URL; default: the node on this machine)")
	f.StringVar(&p.data, "data", "", "data directory of this machine's node (CVLAB_DATA_DIR; default: /var/lib/cvlab as root, else ~/.local/share/cvlab)")
	root.AddGroup(
		&cobra.Group{ID: "node", Title: "This machine's node:"},
		&cobra.Group{ID: "queue", Title: "Experiments:"},
		&cobra.Group{ID: "cluster", Title: "The cluster:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("node", p.upCommand(), p.joinCommand(), p.leaveCommand(), p.installCommand(), p.uninstallCommand(), p.devCommand(), exampleCommand(),
		p.recoverCommand(), p.resetIdentityCommand())
	add("queue", p.runCommand(), p.queueCommand(), p.showCommand(), p.whyCommand(), p.logsCommand(), p.metricsCommand(), p.ckptCommand(),
		p.cancelCommand(), p.retryCommand(), p.holdCommand(), p.releaseCommand(), p.priorityCommand(), p.projectsCommand())
	add("cluster", p.devicesCommand(), p.clusterCommand(), p.drainCommand(), p.resumeCommand(), p.removeCommand(), p.killStrayCommand(), p.tokenCommand(), p.loginCommand())
	root.AddCommand(p.versionCommand(), p.openapiCommand())
	return root
}

// exampleCommand only holds the help: run hands "example" to the trainer before flags are read.
func exampleCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "example [--config FILE --fast | train [flags] | config]",
		Short: "Train the built-in example, a small real model on real data",
		Long: `example is the trainer that "cvlab dev" and the documentation use. It trains a small network on handwritten digits and
writes logs, metrics and checkpoints the way cvlab-kit does.

  cvlab example config                     print a config that sweeps the example
  cvlab example train --epochs 5           train once, here and now
  cvlab up --kit-command "cvlab example"   let a node run configs by the example instead of cvlab-kit`,
		DisableFlagParsing: true,
	}
}

// printJSON prints a value for scripts.
func (p *program) printJSON(v any) error {
	out := json.NewEncoder(p.stdout)
	out.SetIndent("", "  ")
	if err := out.Encode(v); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// terminal says whether a stream is a terminal that wants colour.
func terminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// exactly is cobra's ExactArgs with our exit code and a sentence about what is missing.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != n {
			return usage("want %s", what)
		}
		return nil
	}
}

func atLeastOne(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usage("want %s", what)
		}
		return nil
	}
}

var errNoTerminal = errors.New("no terminal to ask on")
