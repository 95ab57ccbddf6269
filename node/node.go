// Package node is the daemon of one machine: it opens everything in order, runs it, and closes it in reverse.
//
//	n, err := node.New(ctx, node.Options{DataDir: dir, Logger: logger})
//	…
//	err = n.Run(ctx)   // until ctx ends; jobs go on
//
// New acquires and starts no loop; a failure half-way closes what was opened. Run starts the loops in stages, the mesh at
// the bottom, and returns when the last one has ended. Node is the one type that knows all the others; it decides nothing.
package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/deveronica/cvlab/cluster"
	"github.com/deveronica/cvlab/cluster/mesh"
	"github.com/deveronica/cvlab/executor"
	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/node/gpu"
	"github.com/deveronica/cvlab/node/leader"
	"github.com/deveronica/cvlab/node/worker"
	"github.com/deveronica/cvlab/ui"
	"github.com/deveronica/cvlab/ui/api"
)

// Node is one machine's daemon.
type Node struct {
	o       Options
	closers closers
	http    net.Listener
	mesh    *mesh.Mesh
	roster  *cluster.Roster
	id      *mesh.Identity
	boot    string
	token   string

	seat    *cluster.Seat
	monitor *gpu.Monitor
	runner  *executor.Runner
	found   []executor.Found
	peers   *peers
	api     *api.Server
	front   *front
	ready   chan struct{}
	rejoin  chan *Rejoin
	left    chan struct{} // filled when the node has left its cluster

	machines *machines
	logs     *logs
	charts   *charts

	seatMu sync.Mutex // the monitor asks for held GPUs before there is a seat
}

// New opens everything a node needs. It may block while the machine is being admitted to a cluster.
func New(ctx context.Context, o Options) (*Node, error) {
	hostname, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("find the host name: %w; give one with --name", err)
	}
	if o, err = o.withDefaults(hostname, runtime.NumCPU()); err != nil {
		return nil, err
	}
	n := &Node{o: o, ready: make(chan struct{}), rejoin: make(chan *Rejoin, 1), left: make(chan struct{}, 1), roster: cluster.NewRoster()}
	for _, step := range []func(context.Context) error{
		n.openData, n.openPorts, n.openMachine, n.openExecutor, n.openSeat, n.openHandlers,
	} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(err, n.closers.closeAll())
		}
	}
	return n, nil
}

func (n *Node) openData(context.Context) error {
	dir, err := filepath.Abs(n.o.DataDir)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	n.o.DataDir = dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w; choose another one with --data", err)
	}
	if err := n.checkFilesystem(dir); err != nil {
		return err
	}
	lockFile, err := lock(dir)
	if err != nil {
		return err
	}
	n.closers.add("lock", lockFile.Close)
	if err := finishLeaving(dir); err != nil {
		return err
	}
	if err = n.openIdentity(); err != nil {
		return err
	}
	if n.token, err = loadToken(dir, n.o.Logger); err != nil {
		return err
	}
	if n.boot = n.o.BootID; n.boot == "" {
		n.boot, err = bootID()
	}
	return err
}

func (n *Node) openPorts(context.Context) error {
	var err error
	if n.http, err = net.Listen("tcp", n.o.HTTP); err != nil {
		return fmt.Errorf("listen for HTTP: %w; is another node running here? choose another port with --http", err)
	}
	n.closers.add("HTTP port", func() error {
		if err := n.http.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	n.mesh, err = mesh.Listen(mesh.Options{Addr: n.o.Mesh, Identity: n.id, Logger: n.o.Logger, Membership: n.roster})
	if err != nil {
		return fmt.Errorf("listen for other nodes: %w; is another node running here? choose another port with --mesh", err)
	}
	n.closers.add("mesh", n.mesh.Close)
	return nil
}

func (n *Node) openMachine(ctx context.Context) error {
	var err error
	n.monitor, err = gpu.Open(ctx, gpu.Options{
		Simulated: n.o.SimulatedGPUs, SimulatedFile: n.o.SimulatedFile, NodeID: n.id.ID(), Held: n.heldGPUs,
		DataDir: n.o.DataDir, Logger: n.o.Logger,
	})
	if err != nil {
		return fmt.Errorf("look for GPUs: %w", err)
	}
	n.closers.add("GPU monitor", n.monitor.Close)
	if !n.o.Kit.UV {
		_, lookErr := exec.LookPath("uv")
		n.o.Kit.UV = lookErr == nil
	}
	n.monitor.Measure(ctx)
	return nil
}

func (n *Node) openExecutor(ctx context.Context) error {
	var err error
	n.runner, err = executor.Open(executor.Options{
		AttemptsDir: filepath.Join(n.o.DataDir, "attempts"), Supervisor: n.o.Supervisor, BootID: n.boot, Logger: n.o.Logger,
	})
	if err != nil {
		return err
	}
	if n.found, err = n.runner.Recover(ctx); err != nil {
		return err
	}
	return n.refuseRemoved(n.id)
}

func (n *Node) openSeat(ctx context.Context) error {
	o := cluster.Options{
		Dir: n.o.DataDir, Identity: n.id, Mesh: n.mesh, Roster: n.roster, GossipAddr: n.o.Gossip, Advertise: n.o.Advertise,
		Self: n.self, Disk: n.o.Disk, DiskOf: diskOf, Health: n.word, Logger: n.o.Logger, At: n.o.At,
		Tuning: cluster.Tuning{Gossip: cluster.GossipTuning{ForgetDead: n.o.Forget}},
	}
	if n.o.Join == "" {
		o.Found = &cluster.Founding{Name: n.o.ClusterName}
	} else {
		o.Join = &cluster.Joining{Peer: n.o.Join}
		if n.o.JoinToken != "" {
			token, err := mesh.ParseJoinToken(n.o.JoinToken)
			if err != nil {
				return fmt.Errorf("join token: %w", err)
			}
			o.Join.Token = token
		}
	}
	open := cluster.Open
	if n.o.Replace && Admitted(n.o.DataDir) {
		open = n.replaceCluster
	}
	seat, err := open(ctx, o)
	if err != nil {
		return err
	}
	n.seatMu.Lock()
	n.seat = seat
	n.seatMu.Unlock()
	n.closers.add("cluster", seat.Close)
	return nil
}

func (n *Node) openHandlers(context.Context) error {
	logger := n.o.Logger
	dial := func(ctx context.Context, id string) (net.Conn, error) { return n.seat.DialPeer(ctx, id, "peer") }
	n.peers = newPeers(dial, logger.With("component", "peers"))
	n.machines = &machines{seat: n.seat, peers: n.peers, logger: logger.With("component", "machines")}
	n.logs = &logs{self: n.seat.ID(), state: n.seat.State(), peers: n.peers, path: n.runner.LogPath}
	n.charts = &charts{
		self: n.seat.ID(), seat: n.seat, peers: n.peers, runs: filepath.Join(n.o.DataDir, "runs"), cache: filepath.Join(n.o.DataDir, "metrics"),
		output: n.runner.LogPath, logger: logger.With("component", "metrics"),
	}
	own := ownAccess(n.id.ID(), n.token)
	var err error
	n.api, err = api.New(api.Options{
		Cluster: &clusterView{Seat: n.seat, name: n.o.Name}, Machines: n.machines, Logs: n.logs, Charts: n.charts, Joins: &joins{node: n},
		Version: n.o.Version, NodeName: n.o.Name, Logger: logger,
		Local: &own, AllowedHosts: n.allowedHosts, NoUI: n.o.NoUI, Pages: ui.Handler(),
	})
	if err != nil {
		return fmt.Errorf("open the API: %w", err)
	}
	cert, err := n.id.CertificateFor(n.names()...)
	if err != nil {
		return fmt.Errorf("make the certificate of the HTTP port: %w", err)
	}
	n.front = newFront(frontOptions{
		listener: n.http, cert: cert, handler: n.api.Handler(), plainHTTP: n.o.PlainHTTP, logger: logger.With("component", "http"),
	})
	return n.announce()
}

// announce writes DATA/node.json, where the programs of this machine look for their node.
func (n *Node) announce() error {
	data, err := marshalRunning(Running{
		PID: os.Getpid(), Node: n.seat.ID(), Name: n.o.Name, HTTP: n.URL(), Mesh: reachable(n.mesh.Addr(), n.o.Advertise),
	})
	if err != nil {
		return err
	}
	path := filepath.Join(n.o.DataDir, "node.json")
	n.closers.add("node.json", func() error {
		if r, err := ReadRunning(n.o.DataDir); err != nil || r.PID != os.Getpid() {
			return nil // not ours any more
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
	return writeFile(path, data, 0o644)
}

// Run runs the node until ctx ends or a part of it fails. Experiments that run here go on.
func (n *Node) Run(ctx context.Context) error {
	orders := make(chan worker.Order, 64)
	l := leader.New(leader.Options{
		Cluster: n.seat, Health: &leaderHealth{machines: n.machines, seat: n.seat}, Logger: n.o.Logger.With("component", "leader"),
		Self: n.seat.ID(), Voters: n.voters, Lease: n.o.Lease,
	})
	renew := &renewals{seat: n.seat, peers: n.peers, leader: l, others: n.members}
	stored := worker.Store{
		RunsDir: filepath.Join(n.o.DataDir, "runs"),
		Records: func(token string) string { return filepath.Dir(n.runner.LogPath(token)) },
	}
	w := worker.New(worker.Options{
		Checkpoints: newCheckpoints(n.seat.ID(), stored, n.peers, n.o.Logger.With("component", "checkpoints")),
		Renewals:    renew, Fences: n.runner, At: n.o.At,
		Cluster: n.seat, Processes: n.runner, Records: n.runner, Found: n.found, Orders: orders, BootID: n.boot,
		RunsDir: stored.RunsDir, NodeName: n.o.Name, Kit: n.o.Kit, Logger: n.o.Logger.With("component", "worker"),
	})
	n.machines.keeper = w // before anybody can ask: the servers start below
	warnings := asides(n.found, n.runner.QuarantineDir())
	peer := &peerServer{state: n.seat.State(), machines: n.machines, logs: n.logs, charts: n.charts, renewals: renew, stored: stored, who: mesh.PeerID, logger: n.o.Logger.With("component", "peers")}
	announce := &announcer{announce: n.seat.Announce, changed: n.monitor.Changed, logger: n.o.Logger}
	keys := &credentials{seat: n.seat, own: ownAccess(n.id.ID(), n.token)}
	notify := &notifier{ready: n.ready, alive: n.alive, logger: n.o.Logger}
	beacons := &beaconer{seat: n.seat, monitor: n.monitor, disk: n.seat, held: n.holds, far: n.charts.Here, bearing: func() bearing { return newBearing(w, warnings) }, logger: n.o.Logger}
	was := &former{dataDir: n.o.DataDir, seat: n.seat, renamed: n.seat.Reannounce, logger: n.o.Logger.With("component", "node")}
	err := runStages(ctx,
		[]loop{{"mesh", n.runMesh}},
		[]loop{{"cluster", n.seat.Run}},
		[]loop{
			{"GPU monitor", n.monitor.Run},
			{"executor", n.runner.Run},
			{"old records", n.runner.Tidy},
			{"peer server", func(ctx context.Context) error { return peer.Run(ctx, n.seat.PeerListener()) }},
		},
		[]loop{
			{"HTTP server", n.front.Run},
			{"leader", l.Run},
			{"worker", w.Run},
			{"orders", func(ctx context.Context) error { return n.peers.followOrders(ctx, n.seat, orders) }},
			{"inventory", announce.Run},
			{"credentials", keys.Run},
			{"beacons", beacons.Run},
			{"metrics", n.charts.Run},
			{"systemd", notify.Run},
			{"join", n.awaitRejoin},
			{"former identity", was.Run},
			{"readiness", func(ctx context.Context) error { close(n.ready); <-ctx.Done(); return nil }},
		})
	n.peers.close()
	if errors.Is(err, cluster.ErrDisk) {
		if left := n.closers.closeHung(); left != nil {
			n.o.Logger.Warn("the node ends with what waits for the disk", "left", left)
		}
		return err
	}
	if errors.Is(err, cluster.ErrRemoved) {
		err = n.removed(err)
	}
	return errors.Join(err, n.closers.closeAll())
}

// runMesh runs the mesh. The seat closes it when it cuts the node off from the others, and then ends with the reason.
func (n *Node) runMesh(ctx context.Context) error {
	err := n.mesh.Run(ctx)
	if err == nil {
		<-ctx.Done()
	}
	return err
}

// Close frees what New has opened, for a node that is not run.
func (n *Node) Close() error { return n.closers.closeAll() }

// alive asks the node over its own port, as a user would.
func (n *Node) alive(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL()+"/healthz", nil)
	if err != nil {
		return fmt.Errorf("ask myself: %w", err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ask myself: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask myself: %s", resp.Status)
	}
	return nil
}

func (n *Node) self() fsm.Node {
	return fsm.Node{
		Name: n.o.Name, HTTP: reachable(n.http.Addr(), n.o.Advertise), NoExec: n.o.NoExec, NoUI: n.o.NoUI, GPUs: inventory(n.monitor.Reading()),
		CPUSlots: n.o.CPUSlots, Labels: n.o.Labels, BootID: n.boot, Version: n.o.Version, Kit: n.o.Kit.Ready(),
	}
}
