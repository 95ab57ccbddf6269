package node

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/deveronica/cvlab/cluster"
	"github.com/deveronica/cvlab/node/leader"
	"github.com/deveronica/cvlab/node/worker"
)

// Options say how one machine's node runs. Zero values mean the defaults named here.
type Options struct {
	// DataDir holds everything the node keeps; see the contract of files on a node.
	DataDir string
	// Name is what people call this machine; default: the host name.
	Name string
	// HTTP, Mesh and Gossip are the addresses of the three ports as host:port; an empty host means all interfaces and
	// port 0 any free one. Defaults: ":8000", ":8001", ":8002".
	HTTP, Mesh, Gossip string
	// Advertise is the host that the others reach this machine under; default: found out.
	Advertise string
	// ClusterName names the cluster that a fresh data directory founds; default: the node's name.
	ClusterName string
	// Join is the mesh address of a member; empty founds a cluster if the data directory is in none.
	Join string
	// JoinToken is the token for Join; not needed once the node was admitted.
	JoinToken string
	// Replace joins although the data directory holds a cluster already, which is then forgotten. If the join fails, the
	// old cluster is left as it was.
	Replace bool

	Labels map[string]string
	Kit    worker.Kit
	// CPUSlots is how many experiments without a GPU run here at once; default: a quarter of the cores, at least 1.
	CPUSlots int
	// SimulatedGPUs makes that many pretended GPUs instead of looking for real ones; SimulatedFile describes them.
	SimulatedGPUs int
	SimulatedFile string

	// NoExec makes a machine that votes and serves but runs nothing; NoUI one that serves no pages.
	NoExec, NoUI bool
	// PlainHTTP lets other machines use the HTTP port without TLS.
	PlainHTTP bool

	// Disk is how much of the data directory's file system is kept for the node; zero values mean the usual.
	Disk cluster.DiskLimits
	// AnyFilesystem allows a data directory on a file system that is refused otherwise, such as NFS.
	AnyFilesystem bool

	// Lease are the times of leases; zero values mean the usual ones.
	Lease leader.LeaseTimes
	// Forget is how long a dead member is gossiped to before it is forgotten; default: as in cluster.GossipTuning.
	Forget time.Duration
	// At is told of the steps of changes and of attempts, see cluster.Options and worker.Options; for tests only.
	At func(step string)
	// BootID names this boot of the machine; default: the kernel's. Tests restart machines by another one.
	BootID string

	// Machine stands in for the marks of this machine in tests.
	Machine string

	// Supervisor is the command that starts a supervisor; default: this program's own "supervise".
	Supervisor []string
	Version    string
	Logger     *slog.Logger
}

// withDefaults fills what was left out and says what is wrong, naming the option.
func (o Options) withDefaults(hostname string, cores int) (Options, error) {
	if o.DataDir == "" {
		return o, errors.New("data directory: none given; use --data DIR or CVLAB_DATA_DIR")
	}
	if o.Name == "" {
		o.Name = hostname
	}
	for _, a := range []struct {
		option string
		addr   *string
		normal string
	}{{"http", &o.HTTP, ":8000"}, {"mesh", &o.Mesh, ":8001"}, {"gossip", &o.Gossip, ":8002"}} {
		if *a.addr == "" {
			*a.addr = a.normal
		}
		if _, _, err := net.SplitHostPort(*a.addr); err != nil {
			return o, fmt.Errorf("--%s: %w; write HOST:PORT, such as %s", a.option, err, a.normal)
		}
	}
	if o.Join != "" {
		if _, _, err := net.SplitHostPort(o.Join); err != nil {
			o.Join = net.JoinHostPort(strings.Trim(o.Join, "[]"), "8001")
		}
	}
	if o.NoExec && o.NoUI {
		return o, errors.New("--server-only and --client-only exclude each other")
	}
	if o.ClusterName == "" {
		o.ClusterName = o.Name
	}
	if o.CPUSlots == 0 {
		o.CPUSlots = max(1, cores/4)
	}
	if o.CPUSlots < 0 || o.SimulatedGPUs < 0 || o.SimulatedGPUs > 64 {
		return o, errors.New("--cpu-slots and --sim-gpus: want 0 or more, and at most 64 simulated GPUs")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}
