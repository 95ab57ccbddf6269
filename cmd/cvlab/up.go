package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/deveronica/cvlab/cluster"
	"github.com/deveronica/cvlab/node"
	"github.com/deveronica/cvlab/node/leader"
	"github.com/deveronica/cvlab/ui/api"
)

// nodeFlags are the flags of up and join.
type nodeFlags struct {
	name, http, mesh, gossip, advertise, clusterName string
	kitDir, kitCommand                               string
	labels                                           []string
	cpuSlots, simGPUs                                int
	simFile                                          string
	serverOnly, clientOnly, plainHTTP, verbose       bool
	withParent, anyFilesystem                        bool

	token, tokenFile string // join only
	asNew, yes       bool   // join only
}

func (f *nodeFlags) define(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&f.name, "name", "", "what people call this machine (CVLAB_DEVICE_ID; default: the host name)")
	flags.StringVar(&f.http, "http", "", "address of the UI and API (default :8000)")
	flags.StringVar(&f.mesh, "mesh", "", "address for the other nodes, TCP (default :8001)")
	flags.StringVar(&f.gossip, "gossip", "", "address for gossip, TCP and UDP (default :8002)")
	flags.StringVar(&f.advertise, "advertise", "", "host the other machines reach this one under (default: found out)")
	flags.StringArrayVar(&f.labels, "label", nil, "label of this machine, KEY=VALUE; may be repeated")
	flags.StringVar(&f.kitDir, "kit-dir", "", "checkout of cvlab-kit that runs configs here")
	flags.StringVar(&f.kitCommand, "kit-command", "", "command that runs configs instead; {kit} and {config} are filled in")
	flags.IntVar(&f.cpuSlots, "cpu-slots", 0, "experiments without a GPU that run here at once (default: a quarter of the cores)")
	flags.IntVar(&f.simGPUs, "sim-gpus", 0, "pretend to have this many GPUs, for tests and demonstrations")
	flags.StringVar(&f.simFile, "sim-file", "", "file that describes the pretended GPUs; read again every second")
	flags.BoolVar(&f.serverOnly, "server-only", false, "vote and serve, but run no experiments")
	flags.BoolVar(&f.serverOnly, "no-exec", false, "the same as --server-only")
	flags.BoolVar(&f.clientOnly, "client-only", false, "run experiments, but serve no pages")
	flags.BoolVar(&f.clientOnly, "no-ui", false, "the same as --client-only")
	flags.BoolVar(&f.plainHTTP, "plain-http", false, "let other machines use HTTP without TLS; tokens then cross the network in the clear")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "log what is of interest to developers")
	flags.BoolVar(&f.anyFilesystem, "any-filesystem", false, "keep the data directory on a network or FUSE file system although it cannot be relied on")
	flags.BoolVar(&f.withParent, "end-with-parent", false, "end when the process that started this one is gone")
	_ = flags.MarkHidden("end-with-parent")
}

func (p *program) upCommand() *cobra.Command {
	f := &nodeFlags{}
	c := &cobra.Command{
		Use:   "up",
		Short: "Run this machine's node; a fresh data directory founds a cluster of one",
		Args:  exactly(0, "no argument; to join a cluster: cvlab join HOST"),
		RunE:  func(cmd *cobra.Command, _ []string) error { return p.runNode(cmd.Context(), f, "") },
	}
	f.define(c)
	c.Flags().StringVar(&f.clusterName, "cluster-name", "", "name of the cluster to found (default: this machine's name)")
	return c
}

func (p *program) joinCommand() *cobra.Command {
	f := &nodeFlags{}
	c := &cobra.Command{
		Use:   "join PEER",
		Short: "Run this machine's node as a member of PEER's cluster (host or host:port)",
		Long: `join runs this machine's node as a member of PEER's cluster. The first time it needs a join token, which any member
prints with "cvlab token create --join". Give it by --token-file, CVLAB_JOIN_TOKEN or at the prompt; --token works too, but
other users of this machine can see it there. Once admitted, later starts need none.`,
		Args: exactly(1, "one PEER: the host, or host:port, of any member"),
		RunE: func(cmd *cobra.Command, args []string) error { return p.runNode(cmd.Context(), f, args[0]) },
	}
	f.define(c)
	c.Flags().StringVar(&f.token, "token", "", "join token")
	c.Flags().StringVar(&f.tokenFile, "token-file", "", "file that holds the join token")
	c.Flags().BoolVar(&f.asNew, "as-new", false, "join as a new node: the present identity and state of this directory are set aside")
	c.Flags().BoolVar(&f.yes, "yes", false, "with --as-new: stop what runs here, the cluster runs it again")
	return c
}

func (p *program) runNode(ctx context.Context, f *nodeFlags, peer string) error {
	o, err := p.nodeOptions(f, peer)
	if err != nil {
		return err
	}
	if f.asNew {
		kept, err := p.startAnew(ctx, o.DataDir, f.yes, true)
		if err != nil {
			return err
		}
		if kept != "" {
			fmt.Fprintf(p.stderr, "cvlab: this node joins as a new one; its former files are in %s\n", kept)
		}
	}
	if peer != "" {
		if told, err := p.tellRunning(ctx, f, o.DataDir, peer); told || err != nil {
			return err
		}
	}
	if peer != "" && !node.Admitted(o.DataDir) {
		if o.JoinToken, err = p.joinToken(ctx, f); err != nil {
			return err
		}
	}
	var then *node.Rejoin // to be told to the node once it is up
	for {
		err := p.runOnce(ctx, o, f.withParent, then)
		again, rejoin := errors.AsType[*node.Rejoin](err)
		switch {
		case rejoin:
			o.Join, o.JoinToken, o.Replace, then = again.Peer, again.Token, true, nil
		case o.Replace && node.ReadJoinError(o.DataDir) != "" && ctx.Err() == nil:
			// The join failed and the old cluster is back: go on in it, as before.
			fmt.Fprintf(p.stderr, "cvlab: %v; going on in the old cluster\n", err)
			o.Join, o.JoinToken, o.Replace = "", "", false
			if peer != "" {
				return err // it was this command that wanted to join
			}
		case errors.Is(err, cluster.ErrOtherMember) && then == nil:
			// This node was up once before, and is to join now: whether it may is seen when it is up.
			token, terr := p.joinToken(ctx, f)
			if terr != nil {
				return terr
			}
			o.Join, then = "", &node.Rejoin{Peer: peer, Token: token}
		default:
			return p.lastWords(err, o.DataDir)
		}
	}
}

// runOnce runs one node until it ends.
func (p *program) runOnce(ctx context.Context, o node.Options, withParent bool, then *node.Rejoin) error {
	if err := offerExample(); err != nil {
		return err
	}
	opener := node.Opener{Options: o, Say: func(sentence string) { fmt.Fprintf(p.stderr, "cvlab: %s\n", plainLines(sentence)) }}
	n, err := opener.Open(ctx)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.Run(ctx) })
	g.Go(func() error {
		if then == nil {
			return p.welcome(ctx, n, !o.NoUI)
		}
		if _, err := n.Welcome(ctx); err != nil {
			return nil // it ends before it was ready, and says why itself
		}
		return n.JoinOther(ctx, then.Peer, then.Token)
	})
	if withParent {
		g.Go(func() error { return endWithParent(ctx) })
	}
	if err := g.Wait(); err != nil && !errors.Is(err, errParentGone) {
		return err
	}
	return nil
}

// changeOver bounds how long a running node may take to join another cluster.
const changeOver = 60 * time.Second

// tellRunning tells the node that runs on the data directory, if one does, to join a peer's cluster, and waits until it
// has or says why not.
func (p *program) tellRunning(ctx context.Context, f *nodeFlags, dir, peer string) (told bool, err error) {
	if !node.Locked(dir) {
		return false, nil
	}
	here, err := node.ReadRunning(dir)
	if err != nil {
		return true, fmt.Errorf("a node uses %s but does not answer yet: %w; try again", dir, err)
	}
	own, err := node.ReadToken(dir)
	if err != nil {
		return true, err
	}
	c, err := api.NewClient(api.ClientOptions{URL: here.HTTP, Token: own})
	if err != nil {
		return true, err
	}
	before, err := c.Cluster(ctx)
	if err != nil {
		return true, err
	}
	token, err := p.joinToken(ctx, f)
	if err != nil {
		return true, err
	}
	if err := c.JoinOther(ctx, peer, token); err != nil {
		return true, fmt.Errorf("a node runs here already (process %d): %w", here.PID, err)
	}
	ctx, cancel := context.WithTimeout(ctx, changeOver)
	defer cancel()
	err = until(ctx, "the running node to join", func() bool {
		now, err := c.Cluster(ctx)
		return err == nil && now.ID != before.ID && now.Leader != nil || node.ReadJoinError(dir) != ""
	})
	if err != nil {
		return true, err
	}
	if why := node.ReadJoinError(dir); why != "" {
		return true, errors.New(strings.TrimSpace(why))
	}
	fmt.Fprintf(p.stdout, "the node that runs here (process %d) has joined the cluster of %s\n", here.PID, peer)
	return true, nil
}

func (p *program) nodeOptions(f *nodeFlags, peer string) (node.Options, error) {
	s, err := loadSettings()
	if err != nil {
		return node.Options{}, err
	}
	labels, err := pairs("label", f.labels)
	if err != nil {
		return node.Options{}, err
	}
	if labels == nil {
		labels = s.Labels
	}
	dir, _ := p.dataDir(s)
	level := slog.LevelInfo
	if f.verbose {
		level = slog.LevelDebug
	}
	o := node.Options{
		DataDir: dir, Name: first(f.name, os.Getenv("CVLAB_DEVICE_ID"), s.DeviceID),
		HTTP: first(f.http, s.HTTP), Mesh: first(f.mesh, s.Mesh), Gossip: first(f.gossip, s.Gossip),
		Advertise: first(f.advertise, s.Advertise), ClusterName: f.clusterName, Join: peer, Labels: labels,
		CPUSlots: max(f.cpuSlots, 0), SimulatedGPUs: f.simGPUs, SimulatedFile: f.simFile,
		NoExec: f.serverOnly, NoUI: f.clientOnly, PlainHTTP: f.plainHTTP, Version: version(),
		Logger: slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: level})),
	}
	if o.CPUSlots == 0 {
		o.CPUSlots = s.CPUSlots
	}
	o.Machine = os.Getenv(testMachine)
	if o.Disk, err = testDisk(os.Getenv("CVLAB_TEST_DISK")); err != nil {
		return o, err
	}
	// Faults of disks are tested on FUSE.
	o.AnyFilesystem = f.anyFilesystem || os.Getenv("CVLAB_TEST_ANY_FILESYSTEM") == "1"
	if o.Lease, err = testLease(os.Getenv("CVLAB_TEST_LEASE")); err != nil {
		return o, err
	}
	if o.At, err = testFailpoint(os.Getenv("CVLAB_TEST_FAILPOINT"), killSelf); err != nil {
		return o, err
	}
	o.BootID = os.Getenv("CVLAB_TEST_BOOT_ID")
	if text := os.Getenv("CVLAB_TEST_FORGET"); text != "" {
		if o.Forget, err = time.ParseDuration(text); err != nil {
			return o, usage("CVLAB_TEST_FORGET: %w", err)
		}
	}
	if o.Kit.Dir = first(f.kitDir, s.Kit.Dir); o.Kit.Dir != "" {
		if o.Kit.Dir, err = filepath.Abs(o.Kit.Dir); err != nil {
			return o, fmt.Errorf("--kit-dir: %w", err)
		}
		if _, err := os.Stat(filepath.Join(o.Kit.Dir, "main.py")); err != nil && f.kitCommand == "" && s.Kit.Command == "" {
			return o, usage("--kit-dir %s: there is no main.py in it; clone cvlab-kit there first", o.Kit.Dir)
		}
	}
	if o.Kit.Command, err = words(first(f.kitCommand, s.Kit.Command)); err != nil {
		return o, usage("--kit-command: %w", err)
	}
	if len(o.Kit.Command) > 0 && o.Kit.Command[0] == "cvlab" {
		// This program, even where it is not on the PATH of a job.
		if o.Kit.Command[0], err = os.Executable(); err != nil {
			return o, fmt.Errorf("--kit-command: %w", err)
		}
	}
	return o, nil
}

// offerExample lets jobs find this program, as the last of their PATH: configs of the built-in example name it "cvlab".
func offerExample() error {
	if _, err := exec.LookPath("cvlab"); err == nil {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	path := strings.TrimPrefix(os.Getenv("PATH")+":"+filepath.Dir(self), ":")
	if err := os.Setenv("PATH", path); err != nil {
		return fmt.Errorf("let jobs find this program: %w", err)
	}
	return nil
}

// testLease reads the hidden setting by which tests make leases short: their length and the margin for stopping a job, such
// as "6s,1s". All machines of a cluster must have the same.
func testLease(text string) (leader.LeaseTimes, error) {
	if text == "" {
		return leader.LeaseTimes{}, nil
	}
	length, margin, _ := strings.Cut(text, ",")
	f, err := time.ParseDuration(length)
	k, kerr := time.ParseDuration(margin)
	if err = errors.Join(err, kerr); err != nil || f <= 0 || k <= 0 {
		return leader.LeaseTimes{}, usage("CVLAB_TEST_LEASE=%q: want LENGTH,MARGIN such as 6s,1s (%w)", text, err)
	}
	return leader.LeaseTimes{Length: f, Margin: k}, nil
}

// testDisk reads the hidden setting by which tests fit a node on a small file system: the size of its reserve and the free
// space below which its disk is low, such as "8MiB,16MiB".
func testDisk(text string) (cluster.DiskLimits, error) {
	if text == "" {
		return cluster.DiskLimits{}, nil
	}
	reserve, floor, _ := strings.Cut(text, ",")
	r, rerr := bytesOf(reserve)
	f, ferr := bytesOf(floor)
	if err := errors.Join(rerr, ferr); err != nil {
		return cluster.DiskLimits{}, usage("CVLAB_TEST_DISK=%q: want RESERVE,FLOOR such as 8MiB,16MiB (%w)", text, err)
	}
	return cluster.DiskLimits{Reserve: r, Floor: f}, nil
}

// bytesOf reads a size of at least a byte: a number, with one of the units KiB, MiB, GiB, or with B or nothing.
func bytesOf(text string) (int64, error) {
	digits := strings.TrimRight(text, "BKMGi")
	n, err := strconv.ParseInt(digits, 10, 64)
	shift, known := map[string]int{"": 0, "B": 0, "KiB": 10, "MiB": 20, "GiB": 30}[text[len(digits):]]
	if err != nil || !known || n <= 0 || n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("%q is no size", text)
	}
	return n << shift, nil
}

// joinToken finds the token for the first join.
func (p *program) joinToken(ctx context.Context, f *nodeFlags) (string, error) {
	if f.token != "" {
		return f.token, nil
	}
	if f.tokenFile != "" {
		text, err := os.ReadFile(f.tokenFile)
		if err != nil {
			return "", fmt.Errorf("read the join token: %w", err)
		}
		return strings.TrimSpace(string(text)), nil
	}
	if t := os.Getenv("CVLAB_JOIN_TOKEN"); t != "" {
		return t, nil
	}
	return p.askToken(ctx)
}

func (p *program) askToken(ctx context.Context) (string, error) {
	return p.askSecret(ctx, `Join token (from "cvlab token create --join" on a member): `,
		`joining needs a token the first time: run "cvlab token create --join" on a member, then give it by --token-file FILE or CVLAB_JOIN_TOKEN`)
}

// welcome prints what a person wants to know once the node answers.
func (p *program) welcome(ctx context.Context, n *node.Node, pages bool) error {
	w, err := n.Welcome(ctx)
	if err != nil {
		return nil // the node ends before it was ready, and says why itself
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\ncluster  %s\nnode     %s\n", w.Cluster, w.Node)
	fmt.Fprintf(&b, "GPUs     %s\n", w.GPUs)
	if pages {
		fmt.Fprintf(&b, "open     %s\n         (signs you in once, within 15 minutes)\n", w.LoginURL)
	}
	if w.JoinToken != "" {
		_, port, _ := net.SplitHostPort(w.Mesh)
		peer := w.Mesh
		if port == "8001" {
			peer = strings.TrimSuffix(w.Mesh, ":8001")
		}
		fmt.Fprintf(&b, "add a machine, there (one use, one hour):\n         CVLAB_JOIN_TOKEN=%s cvlab join %s\n", w.JoinToken, peer)
	}
	b.WriteString("submit   cvlab run config.yaml\n\n")
	_, err = fmt.Fprint(p.stdout, b.String())
	return err
}

var errParentGone = errors.New("the parent process is gone")

// endWithParent returns errParentGone when another process than the one that started this one is its parent.
func endWithParent(ctx context.Context) error {
	parent := os.Getppid()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if os.Getppid() != parent {
				return errParentGone
			}
		}
	}
}
