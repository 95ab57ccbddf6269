package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/deveronica/cvlab/cluster"
	"github.com/deveronica/cvlab/node"
	"github.com/deveronica/cvlab/ui/api"
)

// leaveAgain is how often a leaving node is looked at.
const leaveAgain = 500 * time.Millisecond

func (p *program) leaveCommand() *cobra.Command {
	var now bool
	c := &cobra.Command{
		Use:   "leave",
		Short: "Take this machine out of its cluster for good",
		Long: `leave gives this machine's node no new work, waits until nothing runs on it, lets the others take over its part in the
decisions, removes it from the cluster, and has its data directory forget the cluster. Then the node ends. What experiments
have written here is kept. Ctrl-C while it waits leaves the node a member that gets no new work; "cvlab resume NODE" undoes
that.`,
		Args: exactly(0, "no argument: the machine that leaves is this one; for another one see: cvlab remove"),
		RunE: func(cmd *cobra.Command, _ []string) error { return p.leave(cmd.Context(), now) },
	}
	c.Flags().BoolVar(&now, "now", false, "do not wait for what runs here: stop it after a checkpoint, so that it goes on elsewhere")
	return c
}

// leaver is this machine's node as the command sees it.
type leaver struct {
	dir  string
	here node.Running
	c    *api.Client
}

func (p *program) leave(ctx context.Context, now bool) error {
	l, err := p.ownNode()
	if err != nil {
		return err
	}
	status, err := l.c.Cluster(ctx)
	if err != nil {
		return err
	}
	name := status.Answered.Name
	if len(status.Nodes) < 2 {
		return fmt.Errorf("%s is the only machine of its cluster, so there is nothing to leave; the queue and its experiments would be lost. "+
			"To have them forgotten nevertheless, stop the node and delete %s", name, l.dir)
	}
	if now {
		err = l.c.Empty(ctx, l.here.Node)
	} else {
		err = l.c.Drain(ctx, l.here.Node)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stderr, "%s gets no new work; undo with: cvlab resume %s\n", name, name)
	if err := p.waitEmpty(ctx, l, now); err != nil {
		return err
	}
	if err := p.letGo(ctx, l); err != nil {
		return err
	}
	if err := until(ctx, "the node to end", func() bool { return !node.Locked(l.dir) }); err != nil {
		return err
	}
	if node.Admitted(l.dir) {
		return fmt.Errorf("%s was removed from the cluster, but %s still holds the cluster's files; delete it before you start a node there again", name, l.dir)
	}
	return p.done(map[string]any{"node": name, "left": true, "cluster": status.Name},
		"%s has left %s and ended; a cluster of its own: cvlab up, another one: cvlab join HOST, never again by itself: cvlab uninstall", name, status.Name)
}

// ownNode finds the node that runs on this machine's data directory; another one cannot be made to leave.
func (p *program) ownNode() (leaver, error) {
	s, err := loadSettings()
	if err != nil {
		return leaver{}, err
	}
	if p.server != "" {
		return leaver{}, usage("leave works on the machine that leaves; to take another one out: cvlab remove NODE")
	}
	l := leaver{}
	l.dir, _ = p.dataDir(s)
	if l.here, err = node.ReadRunning(l.dir); err != nil || !node.Locked(l.dir) {
		return leaver{}, &exitError{code: exitUnreachable, err: fmt.Errorf("no node runs on %s; start it with cvlab up and leave then, or on another machine: cvlab remove NODE", l.dir)}
	}
	token, err := node.ReadToken(l.dir)
	if err != nil {
		return leaver{}, err
	}
	l.c, err = api.NewClient(api.ClientOptions{URL: l.here.HTTP, Token: token})
	return l, err
}

// waitEmpty waits until nothing runs on the node, and says what it waits for.
func (p *program) waitEmpty(ctx context.Context, l leaver, now bool) error {
	said := ""
	for {
		list, err := l.c.Devices(ctx)
		if err != nil {
			return err
		}
		var running []uint64
		for _, d := range list {
			if d.ID == l.here.Node {
				running = d.Running
			}
		}
		if len(running) == 0 {
			return nil
		}
		if what := ranges(running); what != said {
			said = what
			hint := "; to stop them after a checkpoint and let them go on elsewhere: cvlab leave --now"
			if now {
				hint = ", which were told to stop"
			}
			fmt.Fprintf(p.stderr, "waiting for experiments %s%s\n", what, hint)
		}
		if err := wait(ctx, leaveAgain); err != nil {
			return err
		}
	}
}

// letGo asks the node to leave until it has; others may need a moment to take over its part.
func (p *program) letGo(ctx context.Context, l leaver) error {
	said := ""
	for {
		err := l.c.Leave(ctx)
		refusal, refused := errors.AsType[*api.Error](err)
		switch {
		case err == nil:
			return nil
		case node.Locked(l.dir) && refused && refusal.Status == http.StatusServiceUnavailable:
			if refusal.Detail != said {
				said = refusal.Detail
				fmt.Fprintf(p.stderr, "waiting: %s\n", plain(said))
			}
		case !refused && ctx.Err() == nil && (!node.Locked(l.dir) || !node.Admitted(l.dir)):
			return nil // it has left, and its answer was lost
		default:
			return err
		}
		if err := wait(ctx, leaveAgain); err != nil {
			return err
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// lastWords says why a node has ended and with which code a node ends that is in no cluster any more. A service must not be started again at once:
// it would found a cluster of its own, or be told the same again every two seconds.
func (p *program) lastWords(err error, dir string) error {
	switch {
	case errors.Is(err, node.ErrLeft):
		fmt.Fprintf(p.stdout, "this node has left its cluster; %s has forgotten it. A new start founds a cluster of its own\n", dir)
		if os.Getenv("NOTIFY_SOCKET") != "" {
			return &exitError{code: exitLeft}
		}
		return nil
	case errors.Is(err, cluster.ErrRemoved):
		return &exitError{code: exitRemoved, err: err}
	}
	return err
}
