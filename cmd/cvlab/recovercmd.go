package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/deveronica/cvlab/node"
)

func (p *program) recoverCommand() *cobra.Command {
	o := node.RecoverOptions{}
	c := &cobra.Command{
		Use:   "recover",
		Short: "Go on from this machine's files when the majority of a cluster is lost for good",
		Long: `recover makes a new cluster state out of what this stopped node has, with this node as its only voter. Without --yes it
changes nothing: it says how far this node's log reaches, what may be lost, and what the other members answer. It is refused
while another member has a leader or a longer log. Members that were not there must join again as new nodes.`,
		Args: exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := loadSettings()
			if err != nil {
				return err
			}
			o.DataDir, _ = p.dataDir(s)
			o.Logger = slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
			r, err := node.Recover(cmd.Context(), o)
			if r != nil && r.Recovery != nil {
				if p.json {
					perr := p.printJSON(recovered(r))
					if err == nil {
						err = perr
					}
				} else {
					p.printRecovery(r)
				}
			}
			switch {
			case err != nil:
				return err
			case len(r.Against) > 0:
				return &exitError{code: exitFailed}
			case r.Kept == "" && !o.Carry:
				p.next("do it: cvlab recover --yes")
			default:
				p.next("start the node: cvlab up")
			}
			return nil
		},
	}
	c.Flags().BoolVar(&o.Carry, "yes", false, "do it; the files of before are kept")
	c.Flags().StringVar(&o.Name, "name", "", "what this machine is called, if its key was lost too (default: the host name)")
	return c
}

func recovered(r *node.Recovered) map[string]any {
	return map[string]any{
		"cluster": r.Cluster, "name": r.Name, "epoch": r.Epoch, "last_index": r.Last, "last_term": r.Term, "time": r.Time,
		"lost": append([]string{}, r.Lost...), "against": append([]string{}, r.Against...), "kept": r.Kept, "new_key": r.NewKey,
	}
}

func (p *program) printRecovery(r *node.Recovered) {
	fmt.Fprintf(p.stdout, "cluster   %s (%s), epoch %d after the recovery\n", plain(r.Name), r.Cluster, r.Epoch)
	fmt.Fprintf(p.stdout, "this node reaches entry %d of term %d, of %s\n", r.Last, r.Term, r.Time.Local().Format(time.DateTime))
	for _, x := range r.Lost {
		fmt.Fprintf(p.stdout, "lost      %s\n", plain(x))
	}
	for _, peer := range r.Peers {
		says := fmt.Sprintf("reaches entry %d of term %d", peer.Last, peer.Term)
		if peer.Err != nil {
			says = fmt.Sprintf("does not answer (%v); if its disk is whole, start it first", peer.Err)
		}
		fmt.Fprintf(p.stdout, "member    %s %s\n", plain(peer.Name), plain(says))
	}
	fmt.Fprintf(p.stdout, "may be lost: whatever was acknowledged by machines that do not answer, after %s; entries that were on their way then count as acknowledged\n",
		r.Time.Local().Format(time.DateTime))
	for _, x := range r.Against {
		fmt.Fprintf(p.stdout, "refused   %s\n", plain(x))
	}
	if r.Kept != "" {
		fmt.Fprintf(p.stdout, "recovered; the files of before are in %s. All other machines must join again: cvlab join HOST --as-new\n", plain(r.Kept))
	}
}

func (p *program) resetIdentityCommand() *cobra.Command {
	var keep, yes bool
	c := &cobra.Command{
		Use:   "reset-identity",
		Short: "Give a copied disk an identity of its own, or keep it after a change of hardware",
		Args:  exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := loadSettings()
			if err != nil {
				return err
			}
			dir, _ := p.dataDir(s)
			if keep {
				if err := node.KeepIdentity(dir, os.Getenv(testMachine)); err != nil {
					return err
				}
				return p.done(map[string]any{"kept": true}, "the node keeps its identity, on this machine; start it with: cvlab up")
			}
			kept, err := p.startAnew(cmd.Context(), dir, yes, false)
			if err != nil {
				return err
			}
			if kept == "" {
				return p.done(map[string]any{"reset": false}, "%s holds no cluster; there is nothing to forget", dir)
			}
			return p.done(map[string]any{"reset": true, "files": kept}, "the node has forgotten who it was (its files are in %s); join a cluster with: cvlab join HOST", kept)
		},
	}
	c.Flags().BoolVar(&keep, "keep", false, "the machine is the same with new hardware: keep the identity")
	c.Flags().BoolVar(&yes, "yes", false, "stop what runs here under the present identity")
	return c
}

// testMachine is the hidden setting that stands in for the marks of this machine in tests.
const testMachine = "CVLAB_TEST_MACHINE"

// startAnew lets the node of a directory forget who it is. Where something runs, the person is asked.
func (p *program) startAnew(ctx context.Context, dir string, yes, former bool) (string, error) {
	o := node.AnewOptions{DataDir: dir, Stop: yes, Former: former, Logger: slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	kept, err := node.StartAnew(ctx, o)
	if err == nil || yes || !terminal(p.stdin) || !errors.Is(err, node.ErrStillRuns) {
		return kept, err
	}
	fmt.Fprintf(p.stderr, "%v\nStop them now? [y/N] ", err)
	answer, rerr := bufio.NewReader(p.stdin).ReadString('\n')
	if rerr != nil || !strings.HasPrefix(strings.ToLower(strings.TrimSpace(answer)), "y") {
		return "", err
	}
	o.Stop = true
	return node.StartAnew(ctx, o)
}
