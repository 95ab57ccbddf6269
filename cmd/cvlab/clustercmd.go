package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/ui/api"
)

func (p *program) devicesCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "devices",
		Aliases: []string{"nodes"},
		Short:   "Show the machines and their GPUs",
		Args:    exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.connect()
			if err != nil {
				return err
			}
			list, err := c.Devices(cmd.Context())
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(map[string]any{"devices": list})
			}
			if err := p.printDevices(list); err != nil {
				return err
			}
			p.next("what runs there: cvlab queue")
			return nil
		},
	}
}

func (p *program) printDevices(list []api.Device) error {
	t := newTable(p.stdout, "NODE", "STATE", "HEARD", "CPU", "MEMORY", "GPU", "CARD", "STATE", "USE", "GPU MEMORY", "RUNS")
	for _, d := range list {
		state := d.State
		if d.Draining {
			state += ", draining"
		}
		state += diskWords(d.DiskState)
		heard := "never"
		if d.LastHeard != nil {
			heard = fmt.Sprintf("%.1fs", *d.LastHeard)
		}
		row := []string{d.Name, state, heard, fmt.Sprintf("%.0f%%", d.CPU.Utilization), size(d.Memory.Used) + " of " + size(d.Memory.Total)}
		if len(d.GPUs) == 0 {
			t.row(append(row, "-", "", "", "", "", joined(d.Running))...)
		}
		for i, g := range d.GPUs {
			if i > 0 {
				row = []string{"", "", "", "", ""}
			}
			runs := ""
			if g.Experiment != nil {
				runs = word(*g.Experiment)
			}
			t.row(append(row, fmt.Sprint(g.Index), g.Name, g.State, fmt.Sprintf("%.0f%%", g.Utilization),
				size(g.MemoryUsed)+" of "+size(g.MemoryTotal), runs)...)
		}
	}
	if err := t.flush(); err != nil {
		return err
	}
	p.printBearings(list)
	return nil
}

// printBearings says what a person should know of the attempts on the machines.
func (p *program) printBearings(list []api.Device) {
	var lines []string
	for _, d := range list {
		for _, f := range d.Frozen {
			at, lease := f.Since.Local().Format(time.TimeOnly), span(time.Duration(f.Lease*float64(time.Second)))
			if f.Presumed {
				lines = append(lines, fmt.Sprintf("%s is silent; if experiment %d still runs there, it is frozen since %s", d.Name, f.Experiment, at))
				continue
			}
			lines = append(lines, fmt.Sprintf("experiment %d on %s is frozen since %s: no word from the cluster for %s; it goes on when word comes", f.Experiment, d.Name, at, lease))
		}
		for _, s := range d.Strays {
			lines = append(lines, fmt.Sprintf("%s on %s: frozen, since %s; end it with: cvlab kill-stray %s %s", stray(s), d.Name, s.Reason, d.Name, s.Token))
		}
		for _, w := range d.Warnings {
			lines = append(lines, d.Name+": "+w)
		}
	}
	if len(lines) > 0 {
		fmt.Fprintln(p.stdout)
	}
	for _, line := range lines {
		fmt.Fprintln(p.stdout, plain(line))
	}
}

// diskWords is what a machine's state says of its disk, after a comma.
func diskWords(disk string) string {
	switch disk {
	case "low", "full":
		return ", disk " + disk
	}
	return ""
}

func joined(ids []uint64) string {
	words := make([]string, len(ids))
	for i, id := range ids {
		words[i] = word(id)
	}
	return strings.Join(words, ", ")
}

func (p *program) clusterCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "cluster",
		Short: "Show who leads, who votes, and what one more dead machine would cost",
		Args:  exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.connect()
			if err != nil {
				return err
			}
			s, err := c.Cluster(cmd.Context())
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(s)
			}
			leader := "none right now; nothing can be changed until a majority of the voters answers"
			if s.Leader != nil {
				leader = s.Leader.Name
			}
			fmt.Fprintf(p.stdout, "cluster  %s (%s)\nleader   %s, term %d\n", plain(s.Name), s.ID, plain(leader), s.Term)
			if trouble := first(s.Trouble, s.NoRoom); trouble != "" {
				fmt.Fprintf(p.stdout, "trouble  %s\n", plain(trouble))
			}
			fmt.Fprintln(p.stdout)
			t := newTable(p.stdout, "NODE", "ID", "ROLE", "STATE", "GPUS", "VERSION", "ADDRESS")
			for _, n := range s.Nodes {
				state := n.State + diskWords(n.Disk)
				if n.Stuck {
					state += ", takes no changes"
				}
				t.row(n.Name, n.ID, n.Role, state, fmt.Sprint(n.GPUs), n.Version, n.Mesh)
			}
			if err := t.flush(); err != nil {
				return err
			}
			if s.Note != "" {
				fmt.Fprintf(p.stdout, "\n%s\n", plain(s.Note))
			}
			for _, problem := range s.Problems {
				fmt.Fprintf(p.stdout, "\nPROBLEM: %s\n", plain(problem))
			}
			p.next("a token for one more machine: cvlab token create --join")
			return nil
		},
	}
}

func (p *program) resumeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "resume NODE",
		Short: "Let a drained machine have work again",
		Args:  exactly(1, "the name or ID of one node"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.connect()
			if err != nil {
				return err
			}
			if err := c.Resume(cmd.Context(), args[0]); err != nil {
				return err
			}
			return p.done(map[string]any{"node": args[0], "draining": false}, "%s gets work again", args[0])
		},
	}
}

func (p *program) removeCommand() *cobra.Command {
	var off bool
	c := &cobra.Command{
		Use:   "remove NODE",
		Short: "Forget a machine for good",
		Args:  exactly(1, "the name or ID of one node"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.connect()
			if err != nil {
				return err
			}
			if err := c.RemoveNode(cmd.Context(), args[0], off); err != nil {
				return err
			}
			return p.done(map[string]any{"node": args[0], "removed": true}, "%s is forgotten; to come back it needs a new data directory and a join token", args[0])
		},
	}
	c.Flags().BoolVar(&off, "it-is-off", false, "I have made sure that the machine is switched off; run its experiments elsewhere")
	return c
}

func (p *program) tokenCommand() *cobra.Command {
	c := &cobra.Command{Use: "token", Short: "Decide who may enter: people and machines", Args: exactly(0, "create, list or revoke"),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	c.AddCommand(p.tokenCreateCommand(), p.tokenListCommand(), p.tokenRevokeCommand())
	return c
}

func (p *program) tokenCreateCommand() *cobra.Command {
	var join bool
	var r api.TokenRequest
	var role string
	var ttl time.Duration
	c := &cobra.Command{
		Use:   "create --join | create --user NAME --role viewer|member|admin",
		Short: "Make a token for a machine or a person",
		Args:  exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r.Kind, r.Role, r.TTL = fsm.AccessUser, fsm.Role(role), api.Duration(ttl)
			switch {
			case join && r.User != "":
				return usage("--join is for a machine and --user for a person; choose one")
			case join:
				r.Kind, r.Role = fsm.AccessJoin, ""
			case r.User == "":
				return usage("want --join for a machine, or --user NAME for a person")
			case !r.Role.Valid():
				return usage("--role %q is not one of viewer, member, admin", role)
			}
			return p.createToken(cmd, r)
		},
	}
	c.Flags().BoolVar(&join, "join", false, "let a machine join")
	c.Flags().IntVar(&r.Uses, "uses", 0, "how many machines may join with it (default 1)")
	c.Flags().DurationVar(&ttl, "ttl", 0, "how long it is good (default: 1h for --join, for ever for --user)")
	c.Flags().StringVar(&r.User, "user", "", "the person's name")
	c.Flags().StringVar(&role, "role", "member", "what the person may do: viewer, member or admin")
	return c
}

func (p *program) createToken(cmd *cobra.Command, r api.TokenRequest) error {
	c, err := p.connect()
	if err != nil {
		return err
	}
	t, err := c.CreateToken(cmd.Context(), r)
	if err != nil {
		return err
	}
	if p.json {
		return p.printJSON(t)
	}
	fmt.Fprintln(p.stdout, t.Token)
	if r.Kind == fsm.AccessJoin {
		p.next("on the new machine: CVLAB_JOIN_TOKEN=%s cvlab join HOST", t.Token)
	} else {
		p.next("on their machine: export CVLAB_TOKEN=%s", t.Token)
	}
	return nil
}

func (p *program) tokenListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the tokens, without their secrets",
		Args:  exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.connect()
			if err != nil {
				return err
			}
			list, err := c.Tokens(cmd.Context())
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(map[string]any{"tokens": list})
			}
			t := newTable(p.stdout, "ID", "KIND", "USER", "ROLE", "USES", "EXPIRES", "MADE BY", "MADE")
			for _, x := range list {
				expires, uses := "never", ""
				if x.Expires != nil {
					expires = x.Expires.Local().Format(time.DateTime)
				}
				if x.Kind == fsm.AccessJoin {
					uses = fmt.Sprint(x.Uses)
				}
				t.row(x.ID, string(x.Kind), x.User, string(x.Role), uses, expires, x.By, ago(x.CreatedAt, time.Now()))
			}
			return t.flush()
		},
	}
}

func (p *program) tokenRevokeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke ID",
		Short: "Take a token back",
		Args:  exactly(1, "the ID of one token; cvlab token list shows them"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.connect()
			if err != nil {
				return err
			}
			if err := c.RevokeToken(cmd.Context(), args[0]); err != nil {
				return err
			}
			return p.done(map[string]any{"id": args[0], "revoked": true}, "revoked")
		},
	}
}
