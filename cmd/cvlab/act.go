package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/deveronica/cvlab/ui/api"
)

// action makes a command that does one thing to many experiments: ID…, ranges such as 3-9, or --project and --status.
func (p *program) action(verb, short, done string) *cobra.Command {
	var project string
	var status []string
	c := &cobra.Command{
		Use:   verb + " ID… | " + verb + " --project P --status S",
		Short: short,
		RunE: func(cmd *cobra.Command, args []string) error {
			r := api.BulkRequest{Action: verb}
			var err error
			if r.IDs, err = ids(args); err != nil {
				return err
			}
			return p.bulk(cmd, r, project, status, done)
		},
	}
	c.Flags().StringVar(&project, "project", "", "all of this project")
	c.Flags().StringSliceVar(&status, "status", nil, "all with this status")
	return c
}

func (p *program) bulk(cmd *cobra.Command, r api.BulkRequest, project string, status []string, done string) error {
	selected, err := statuses(status)
	if err != nil {
		return err
	}
	some := project != "" || len(selected) > 0
	switch {
	case some && len(r.IDs) > 0:
		return usage("name experiments by number, or by --project and --status, not both")
	case some:
		r.Select = &api.BulkSelect{Project: project, Status: selected}
	case len(r.IDs) == 0:
		return usage("want the numbers of experiments, such as 3 5-9")
	}
	c, err := p.connect()
	if err != nil {
		return err
	}
	changed, err := c.Bulk(cmd.Context(), r)
	if err != nil {
		return err
	}
	if p.json {
		return p.printJSON(changed)
	}
	if changed.Message != "" {
		fmt.Fprintf(p.stderr, "%s\n", plain(changed.Message))
	}
	fmt.Fprintf(p.stdout, "%s %s\n", done, ranges(changed.Experiments))
	switch {
	case len(changed.Experiments) == 0:
	case r.Action == "hold":
		p.next("let them run again: cvlab release %s", strings.ReplaceAll(ranges(changed.Experiments), ", ", " "))
	case r.Action == "cancel":
		p.next("send them back: cvlab retry %s", strings.ReplaceAll(ranges(changed.Experiments), ", ", " "))
	default:
		p.next("watch them with: cvlab queue")
	}
	return nil
}

// ranges writes numbers as people do: 3-5, 8.
func ranges(list []uint64) string {
	if len(list) == 0 {
		return "nothing"
	}
	var words []string
	for i := 0; i < len(list); {
		j := i
		for j+1 < len(list) && list[j+1] == list[j]+1 {
			j++
		}
		w := word(list[i])
		if j > i {
			w += "-" + word(list[j])
		}
		words = append(words, w)
		i = j + 1
	}
	return strings.Join(words, ", ")
}

func (p *program) cancelCommand() *cobra.Command {
	return p.action("cancel", "End experiments, waiting or running", "cancelled:")
}

func (p *program) retryCommand() *cobra.Command {
	return p.action("retry", "Send failed or cancelled experiments back to the queue", "back in the queue:")
}

func (p *program) holdCommand() *cobra.Command {
	return p.action("hold", "Keep waiting experiments from starting", "held:")
}

func (p *program) releaseCommand() *cobra.Command {
	return p.action("release", "Let held experiments wait for their turn again", "released:")
}

func (p *program) priorityCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "priority ID… low|normal|high|urgent",
		Short: "Change the priority of experiments",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usage("want numbers of experiments, then low, normal, high or urgent")
			}
			level := args[len(args)-1]
			list, err := ids(args[:len(args)-1])
			if err != nil {
				return err
			}
			r := api.BulkRequest{Action: "patch", IDs: list, Patch: &api.Patch{Priority: &level}}
			return p.bulk(cmd, r, "", nil, "now "+level+":")
		},
	}
}
