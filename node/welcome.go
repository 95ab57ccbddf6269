package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Welcome is what a person wants to know when a node has come up.
type Welcome struct {
	Cluster  string
	Node     string
	GPUs     string // in words
	LoginURL string
	// Mesh is what another machine joins, host:port.
	Mesh string
	// JoinToken lets one machine join within an hour; empty when the cluster could not make one now.
	JoinToken string
}

// Welcome waits until the node has a leader and gives what to tell people. It fails only when ctx ends.
func (n *Node) Welcome(ctx context.Context) (Welcome, error) {
	if err := n.untilLed(ctx); err != nil {
		return Welcome{}, err
	}
	w := Welcome{
		Cluster: n.seat.Name(), Node: n.o.Name, GPUs: n.cards(), LoginURL: n.URL() + n.api.LoginLink(),
	}
	if known := n.seat.State().View().Node(n.seat.ID()); known != nil {
		w.Node, w.Mesh = known.Name, known.Mesh
	}
	token, _, err := n.seat.CreateJoinToken(ctx, n.o.Name, 1, time.Hour)
	if err != nil {
		n.o.Logger.WarnContext(ctx, "no join token could be made now; make one with: cvlab token create --join", "error", err)
		return w, ctx.Err()
	}
	w.JoinToken = token.String()
	return w, nil
}

func (n *Node) untilLed(ctx context.Context) error {
	for {
		changed, facts := n.seat.LeaderChanged(), n.seat.State().Changed()
		_, known := n.seat.Leader()
		if known && n.seat.State().View().Node(n.seat.ID()) != nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-facts:
		}
	}
}

// cards says in words which GPUs are here.
func (n *Node) cards() string {
	r := n.monitor.Reading()
	if len(r.GPUs) == 0 {
		return fmt.Sprintf("none; experiments run on %d CPU slots", n.o.CPUSlots)
	}
	counts := map[string]int{}
	var order []string
	for _, g := range r.GPUs {
		if counts[g.Name]++; counts[g.Name] == 1 {
			order = append(order, g.Name)
		}
	}
	var words []string
	for _, name := range order {
		words = append(words, fmt.Sprintf("%d × %s", counts[name], name))
	}
	return strings.Join(words, ", ") + " (" + r.Source + ")"
}

// Admitted says whether the node of a data directory is a member of a cluster already, so that it needs no join token.
func Admitted(dataDir string) bool {
	_, err := os.Stat(filepath.Join(dataDir, "cluster.json"))
	return err == nil
}
