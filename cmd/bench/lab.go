package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/node"
	"github.com/deveronica/cvlab/ui/api"
)

// labOptions say what cluster to start.
type labOptions struct {
	program string // the cvlab to measure
	dir     string // for data directories and logs; exists and is empty
	nodes   int    // 1, 3 or 5
	gpus    int    // simulated, on each
	args    []string
	env     []string     // for every node, KEY=VALUE
	hosts   *hosts       // a network of the nodes' own; nil is loopback
	http    *http.Client // shared by all clients; nil gives each its own
	disks   *disks       // where data directories lie; nil is dir
}

// lab is a cluster of real node processes on this computer. Whoever starts one must end it.
type lab struct {
	o     labOptions
	nodes []*member
}

// member is one node: its directory and addresses, and its process while it runs.
type member struct {
	name, dir          string
	http, mesh, gossip string
	host               *host    // nil on loopback
	env                []string // of this node alone
	started            atomic.Pointer[process]
	watch              sync.WaitGroup
}

// process is one life of a node.
type process struct {
	*os.Process
	done chan struct{} // closed when it has ended
}

// startLimit bounds the start of a whole cluster; a voter must be steady for 2 s before it votes.
const startLimit = 90 * time.Second

// startLab starts the nodes and waits until all of them vote, are heard and have their GPUs. On an error it ends what it
// started and adds what the nodes said.
func startLab(ctx context.Context, o labOptions) (*lab, error) {
	l := &lab{o: o}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := l.start(ctx); err != nil {
		err = errors.Join(err, l.lastWords())
		return nil, errors.Join(err, l.end())
	}
	return l, nil
}

func (l *lab) start(ctx context.Context) error {
	for i := range l.o.nodes {
		m, err := l.member(i)
		if err != nil {
			return err
		}
		l.nodes = append(l.nodes, m)
	}
	first := l.nodes[0]
	if err := l.launch(first, "up", "--cluster-name", "bench"); err != nil {
		return err
	}
	if err := l.waitLed(ctx, first); err != nil {
		return err
	}
	if l.o.nodes > 1 {
		c, err := l.client(first)
		if err != nil {
			return err
		}
		token, err := c.CreateToken(ctx, api.TokenRequest{Kind: fsm.AccessJoin, Uses: l.o.nodes - 1})
		if err != nil {
			return fmt.Errorf("make a join token: %w", err)
		}
		for _, m := range l.nodes[1:] {
			file := m.dir + ".token"
			if err := os.WriteFile(file, []byte(token.Token), 0o600); err != nil {
				return fmt.Errorf("hand out the join token: %w", err)
			}
			if err := l.launch(m, "join", first.mesh, "--token-file", file); err != nil {
				return err
			}
		}
	}
	return l.waitWhole(ctx)
}

func (l *lab) member(i int) (*member, error) {
	m := &member{name: "m" + strconv.Itoa(i+1)}
	m.dir = filepath.Join(l.o.dir, m.name)
	if err := os.Mkdir(m.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of %s: %w", m.name, err)
	}
	if err := l.o.disks.attach(m.dir); err != nil {
		return nil, err
	}
	if l.o.hosts != nil {
		m.host = l.o.hosts.all[i]
		m.http, m.mesh, m.gossip = m.host.addr+":8000", m.host.addr+":8001", m.host.addr+":8002"
		return m, nil
	}
	// A node that is killed and started again must come back under the same addresses, so they are chosen here.
	for _, where := range []*string{&m.http, &m.mesh, &m.gossip} {
		addr, err := freeAddress()
		if err != nil {
			return nil, err
		}
		*where = addr
	}
	return m, nil
}

// freeAddress finds a port on loopback that is free for TCP and UDP. It lies below the ports that the kernel gives to
// outgoing connections: those of thousands of submissions must not take it while a node that was killed is away.
func freeAddress() (string, error) {
	for range 1000 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(10_000+rand.N(22_000)))
		tcp, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		udp, err := net.ListenPacket("udp", addr)
		tcp.Close()
		if err == nil {
			udp.Close()
			return addr, nil
		}
	}
	return "", errors.New("find a free port: a thousand tries found none that is free for both TCP and UDP")
}

// launch starts a node's process; it does not wait for it to be of use.
func (l *lab) launch(m *member, command string, more ...string) error {
	log, err := os.OpenFile(m.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the log of %s: %w", m.name, err)
	}
	defer log.Close()
	args := append([]string{command}, more...)
	args = append(args, "--data", m.dir, "--name", m.name, "--http", m.http, "--mesh", m.mesh, "--gossip", m.gossip, "--end-with-parent")
	if l.o.gpus > 0 {
		args = append(args, "--sim-gpus", strconv.Itoa(l.o.gpus))
	}
	if m.host != nil {
		args = append(args, "--advertise", m.host.addr, "--plain-http")
	}
	args = append(append([]string{l.o.program}, args...), l.o.args...)
	if m.host != nil {
		args = append([]string{"ip", "netns", "exec", m.host.space}, args...) // it execs: the process stays ours
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = slices.Concat(cleanEnv(), l.o.env, m.env)
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own: Ctrl-C is for this program, which then ends the nodes in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", m.name, err)
	}
	p := &process{Process: cmd.Process, done: make(chan struct{})}
	m.started.Store(p)
	m.watch.Go(func() { defer close(p.done); _ = cmd.Wait() }) // how it ended is in its log
	return nil
}

// cleanEnv keeps the settings of whoever runs this away from the nodes.
func cleanEnv() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "CVLAB_") && !strings.HasPrefix(kv, "XDG_") {
			env = append(env, kv)
		}
	}
	return env
}

func (m *member) log() string { return m.dir + ".log" }

// ended says whether the node's process is gone; one that was never started is.
func (m *member) ended() bool {
	p := m.started.Load()
	if p == nil {
		return true
	}
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// kill ends a node as a crash would, and waits for that. What it runs goes on.
func (m *member) kill() error {
	p := m.started.Load()
	if err := p.Kill(); err != nil {
		return fmt.Errorf("kill %s: %w", m.name, err)
	}
	<-p.done
	return nil
}

// client makes a client that asks m first and then the others given, with the token of m's own machine.
func (l *lab) client(m *member, others ...*member) (*api.Client, error) {
	return l.clientFor(0, m, others...)
}

// once makes a client that asks m and does not repeat.
func (l *lab) once(m *member) (*api.Client, error) { return l.clientFor(1, m) }

func (l *lab) clientFor(retry time.Duration, m *member, others ...*member) (*api.Client, error) {
	token, err := node.ReadToken(m.dir)
	if err != nil {
		return nil, err
	}
	o := api.ClientOptions{URL: "http://" + m.http, Token: token, RetryFor: retry, HTTP: l.o.http}
	for _, f := range others {
		o.Fallback = append(o.Fallback, api.Address{URL: "http://" + f.http})
	}
	c, err := api.NewClient(o)
	if err != nil {
		return nil, fmt.Errorf("make a client of %s: %w", m.name, err)
	}
	return c, nil
}

// asker makes plain requests.
func (l *lab) asker() *http.Client {
	if l.o.http != nil {
		return l.o.http
	}
	return http.DefaultClient
}

// see asks one node how it sees the cluster.
func (l *lab) see(ctx context.Context, m *member) (api.ClusterStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c, err := l.once(m)
	if err != nil {
		return api.ClusterStatus{}, err
	}
	return c.Cluster(ctx)
}

func (l *lab) waitLed(ctx context.Context, m *member) error {
	return until(ctx, m.name+" to have a leader", func() (bool, error) {
		if m.ended() {
			return false, fmt.Errorf("%s has ended by itself", m.name)
		}
		s, err := l.see(ctx, m)
		return err == nil && s.Leader != nil, nil
	})
}

// waitWhole waits until every node names the same leader, votes and has applied what the others have, and the leader
// hears all of them with their GPUs: the state every measurement begins in.
func (l *lab) waitWhole(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	return until(ctx, fmt.Sprintf("%d nodes to be whole", len(l.nodes)), func() (bool, error) {
		for _, m := range l.nodes {
			if m.ended() {
				return false, fmt.Errorf("%s has ended by itself", m.name)
			}
		}
		return l.whole(ctx), nil
	})
}

// wantedVoters is how many of n nodes vote when all is well: 1, 1, 3, 3, 5, 5, 5 …
func wantedVoters(n int) int { return min(n-(n+1)%2, 5) }

func (l *lab) whole(ctx context.Context) bool { return l.wholeWithin(ctx, 0) }

// waitWholeBusy is waitWhole while clients submit: replicas may be some entries apart.
func (l *lab) waitWholeBusy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	return until(ctx, fmt.Sprintf("%d busy nodes to be whole", len(l.nodes)), func() (bool, error) { return l.wholeWithin(ctx, 200), nil })
}

// wholeWithin says whether all is well and no two nodes are more than so many entries apart.
func (l *lab) wholeWithin(ctx context.Context, apart uint64) bool {
	var first api.ClusterStatus
	for i, m := range l.nodes {
		s, err := l.see(ctx, m)
		if err != nil || s.Leader == nil || s.Voters != wantedVoters(len(l.nodes)) {
			return false
		}
		for _, n := range s.Nodes {
			if n.State != "alive" {
				return false
			}
		}
		if i == 0 {
			first = s
		}
		if s.Leader.ID != first.Leader.ID || max(s.Index, first.Index)-min(s.Index, first.Index) > apart || len(s.Nodes) != len(l.nodes) {
			return false
		}
	}
	c, err := l.once(l.nodes[0])
	if err != nil {
		return false
	}
	devices, err := c.Devices(ctx)
	active := 0
	for _, d := range devices {
		if d.State == "active" && len(d.GPUs) == l.o.gpus {
			active++
		}
	}
	return err == nil && active == len(l.nodes)
}

// leader gives the node that leads and the others; it waits a little while nobody leads.
func (l *lab) leader(ctx context.Context) (leads *member, others []*member, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, leaderLimit, errors.New("nobody does"))
	defer cancel()
	err = until(ctx, "somebody to lead", func() (bool, error) {
		leads, others = l.led(ctx, l.nodes)
		return leads != nil, nil
	})
	return leads, others, err
}

// leaderLimit bounds the wait for a leader where there should be one.
const leaderLimit = 20 * time.Second

// led gives the node that leads by what it says itself, so that nobody who was killed or cut off is taken for it.
func (l *lab) led(ctx context.Context, among []*member) (leads *member, others []*member) {
	var term uint64
	for _, m := range among {
		if m.ended() {
			continue
		}
		s, err := l.see(ctx, m)
		if err == nil && s.Leader != nil && s.Leader.Name == m.name && s.Term >= term {
			leads, term = m, s.Term
		}
	}
	for _, m := range l.nodes {
		if m != leads {
			others = append(others, m)
		}
	}
	return leads, others
}

// lastWords gives the end of every node's log, as an error to be joined to the one that made them interesting.
func (l *lab) lastWords() error {
	var all []error
	for _, m := range l.nodes {
		if text, err := os.ReadFile(m.log()); err == nil {
			lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
			all = append(all, fmt.Errorf("%s said last:\n  %s", m.name, bytes.Join(lines[max(0, len(lines)-8):], []byte("\n  "))))
		}
	}
	return errors.Join(all...)
}

// end ends the nodes and whatever they run, each by its own process ID, and waits for that. It heeds no context: it is
// what is done when the context has ended.
func (l *lab) end() error {
	l.o.disks.mend()
	for _, m := range l.nodes {
		if p := m.started.Load(); p != nil {
			_ = p.Signal(syscall.SIGTERM) // it may have ended already
		}
	}
	limit := time.After(10 * time.Second)
	for _, m := range l.nodes {
		p := m.started.Load()
		if p == nil {
			continue
		}
		select {
		case <-p.done:
		case <-limit:
			limit = time.After(0)
			_ = p.Kill()
		}
		m.watch.Wait()
	}
	return errors.Join(endSupervisors(l.o.dir), l.o.disks.detach())
}
