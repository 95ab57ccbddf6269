package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/node"
	"github.com/deveronica/cvlab/ui/api"
)

// devCluster is a cluster of node processes on this computer.
type devCluster struct {
	dir   string
	gpus  int
	nodes []*devNode
}

// devNode is one node process.
type devNode struct {
	name    string
	dir     string
	cmd     *exec.Cmd
	running node.Running
	done    chan struct{} // closed when the process has ended
	watch   errgroup.Group
}

// startTime is how long a node may take to answer; a loaded laptop is slow to start three programs.
const startTime = 60 * time.Second

// start starts n nodes: the first founds, the others join it with one token.
func (d *devCluster) start(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	first, err := d.launch(ctx, 1, "", "")
	if err != nil || n == 1 {
		return err
	}
	c, err := d.client(ctx)
	if err != nil {
		return err
	}
	token, err := c.CreateToken(ctx, api.TokenRequest{Kind: fsm.AccessJoin, Uses: n - 1})
	if err != nil {
		return fmt.Errorf("make a join token: %w", err)
	}
	for i := 2; i <= n; i++ {
		if _, err := d.launch(ctx, i, first.running.Mesh, token.Token); err != nil {
			return err
		}
	}
	return until(ctx, "all nodes to be heard", func() bool {
		devices, err := c.Devices(ctx)
		active := 0
		for _, m := range devices {
			if m.State == "active" && len(m.GPUs) == d.gpus {
				active++
			}
		}
		return err == nil && active == n
	})
}

// launch starts one node and waits until it has said where it is.
func (d *devCluster) launch(ctx context.Context, number int, peer, token string) (*devNode, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	n := &devNode{name: "node" + strconv.Itoa(number), done: make(chan struct{})}
	n.dir = filepath.Join(d.dir, n.name)
	if err := os.Mkdir(n.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of %s: %w", n.name, err)
	}
	log, err := os.Create(n.logPath())
	if err != nil {
		return nil, fmt.Errorf("make the log of %s: %w", n.name, err)
	}
	defer log.Close()
	args := []string{"up"}
	if peer != "" {
		args = []string{"join", peer}
	}
	args = append(args, "--data", n.dir, "--name", n.name, "--http", "127.0.0.1:0", "--mesh", "127.0.0.1:0", "--gossip", "127.0.0.1:0",
		"--sim-gpus", strconv.Itoa(d.gpus), "--kit-command", "cvlab example", "--end-with-parent")
	if peer == "" {
		args = append(args, "--cluster-name", "dev")
	}
	n.cmd = exec.Command(self, args...)
	n.cmd.Env = append(os.Environ(), "CVLAB_JOIN_TOKEN="+token)
	n.cmd.Stdout, n.cmd.Stderr = log, log
	// A group of its own: Ctrl-C is for this program, which ends the experiments before the nodes.
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := n.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", n.name, err)
	}
	d.nodes = append(d.nodes, n)
	n.watch.Go(func() error { defer close(n.done); return n.cmd.Wait() })
	err = until(ctx, n.name+" to answer", func() bool {
		running, err := node.ReadRunning(n.dir)
		n.running = running
		return err == nil && running.HTTP != "" || n.ended()
	})
	if err == nil && n.ended() {
		err = fmt.Errorf("%s has ended", n.name)
	}
	return n, err
}

func (n *devNode) logPath() string { return filepath.Join(n.dir, "node.log") }

func (n *devNode) ended() bool {
	select {
	case <-n.done:
		return true
	default:
		return false
	}
}

// client makes a client that asks the nodes in turn and waits until the cluster has a leader and its token is granted.
func (d *devCluster) client(ctx context.Context) (*api.Client, error) {
	token, err := node.ReadToken(d.nodes[0].dir)
	if err != nil {
		return nil, err
	}
	o := api.ClientOptions{URL: d.nodes[0].running.HTTP, Token: token}
	for _, n := range d.nodes[1:] {
		o.Fallback = append(o.Fallback, api.Address{URL: n.running.HTTP})
	}
	c, err := api.NewClient(o)
	if err != nil {
		return nil, err
	}
	err = until(ctx, "the cluster to have a leader", func() bool {
		s, err := c.Cluster(ctx)
		return err == nil && s.Leader != nil
	})
	return c, err
}

// stop cancels what runs, ends the nodes, and waits for all of it.
func (d *devCluster) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	d.cancelAll(ctx)
	for _, n := range d.nodes {
		_ = n.cmd.Process.Signal(syscall.SIGTERM)
	}
	for _, n := range d.nodes {
		select {
		case <-n.done:
		case <-ctx.Done():
			_ = n.cmd.Process.Kill()
			<-n.done
		}
		_ = n.watch.Wait() // how a node ends when told to is of no interest
	}
	return nil
}

// cancelAll ends the experiments, so that nothing of the demonstration is left running.
func (d *devCluster) cancelAll(ctx context.Context) {
	if len(d.nodes) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := d.client(ctx)
	if err != nil {
		return
	}
	open := []fsm.Status{fsm.Pending, fsm.Running, fsm.Held}
	_, _ = c.Bulk(ctx, api.BulkRequest{Action: "cancel", Select: &api.BulkSelect{Status: open}})
	_ = until(ctx, "experiments to end", func() bool {
		page, err := c.Queue(ctx, api.QueueQuery{Status: []fsm.Status{fsm.Running}, Limit: 1})
		return err == nil && len(page.Experiments) == 0
	})
}

// wait blocks until ctx ends or a node dies that nobody told to.
func (d *devCluster) wait(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// explain adds the end of the nodes' logs to an error.
func (d *devCluster) explain(err error) error {
	for _, n := range d.nodes {
		text, readErr := os.ReadFile(n.logPath())
		if readErr != nil || !n.ended() {
			continue
		}
		lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
		last := bytes.Join(lines[max(0, len(lines)-5):], []byte("\n  "))
		err = errors.Join(err, fmt.Errorf("%s ended; it said:\n  %s", n.name, last))
	}
	return err
}

// until waits for a condition.
func until(ctx context.Context, what string, holds func() bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
		case <-tick.C:
		}
	}
	return nil
}
