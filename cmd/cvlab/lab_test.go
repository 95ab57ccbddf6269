package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/node"
	"github.com/deveronica/cvlab/ui/api"
)

// testProgram is where TestMain has built cvlab: the tests in this package use it as a lab would, as processes.
var testProgram = struct{ path string }{}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "cvlab-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	testProgram.path = filepath.Join(dir, "cvlab")
	build := exec.Command("go", "build", "-o", testProgram.path, ".")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	code := 1
	if err := build.Run(); err == nil {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// lab is a few machines of one test, all on loopback.
type lab struct {
	t        *testing.T
	dir      string
	machines []*machine
	witness  string // directory into which jobs write, outside the cluster
	waiters  sync.WaitGroup
	env      []string // of the nodes, beside what is cleaned
}

// machine is one node's data directory, its ports, and its process while it runs.
type machine struct {
	lab                *lab
	name, dir          string
	http, mesh, gossip string
	args               []string
	cmd                *exec.Cmd
	ended              chan struct{}
}

// newLab starts n machines: the first founds, the others join it.
func newLab(t *testing.T, n int, args ...string) *lab {
	t.Helper()
	return newLabWith(t, nil, n, args...)
}

// newLabWith is newLab with variables in the nodes' environment.
func newLabWith(t *testing.T, env []string, n int, args ...string) *lab {
	t.Helper()
	return newLabOn(t, func(string) {}, env, n, args...)
}

// newLabOn is newLabWith on disks of their own: mount puts one at the data directory of each machine.
func newLabOn(t *testing.T, mount func(dir string), env []string, n int, args ...string) *lab {
	t.Helper()
	l := &lab{t: t, dir: t.TempDir(), env: env}
	l.witness = filepath.Join(l.dir, "witness")
	l.must(os.Mkdir(l.witness, 0o755))
	t.Cleanup(l.end)
	for i := 1; i <= n; i++ {
		m := l.machine("m"+strconv.Itoa(i), args...)
		l.must(os.MkdirAll(m.dir, 0o700))
		mount(m.dir)
		if i == 1 {
			m.start("up")
			m.waitLed()
			continue
		}
		m.join(l.machines[0], l.joinToken(1, time.Hour))
	}
	l.waitVoters(map[int]int{1: 1, 2: 1, 3: 3, 4: 3, 5: 5}[n])
	return l
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// machine makes a machine that does not run yet. Its ports stay the same over restarts, as a real machine's do.
func (l *lab) machine(name string, args ...string) *machine {
	l.t.Helper()
	m := &machine{lab: l, name: name, dir: filepath.Join(l.dir, name), args: args, http: freePort(l.t), mesh: freePort(l.t), gossip: freePort(l.t)}
	l.machines = append(l.machines, m)
	return m
}

// freePort finds a port on loopback that is free for TCP and UDP, below those that the kernel gives to outgoing
// connections: none of them must take it while a node is away for a moment.
func freePort(t *testing.T) string {
	t.Helper()
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
			return addr
		}
	}
	t.Fatal("no port is free")
	return ""
}

func (m *machine) start(command string, more ...string) {
	t := m.lab.t
	t.Helper()
	m.lab.must(os.MkdirAll(m.dir, 0o700))
	log, err := os.OpenFile(m.dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	m.lab.must(err)
	defer log.Close()
	args := append([]string{command}, more...)
	args = append(args, "--data", m.dir, "--name", m.name, "--http", m.http, "--mesh", m.mesh, "--gossip", m.gossip)
	m.cmd = exec.Command(testProgram.path, append(args, m.args...)...)
	m.cmd.Env = append(cleanEnv(), m.lab.env...)
	m.cmd.Stdout, m.cmd.Stderr = log, log
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	m.lab.must(m.cmd.Start())
	m.ended = make(chan struct{})
	cmd, ended := m.cmd, m.ended
	m.lab.waiters.Go(func() { _ = cmd.Wait(); close(ended) })
}

func (m *machine) join(peer *machine, token string) {
	m.lab.t.Helper()
	m.lab.must(os.MkdirAll(m.dir, 0o700))
	file := filepath.Join(m.lab.dir, m.name+".token")
	m.lab.must(os.WriteFile(file, []byte(token), 0o600))
	m.start("join", peer.mesh, "--token-file", file)
	m.waitLed()
}

// kill ends the node's process as a power cut would end it, and waits for that. What it runs goes on.
func (m *machine) kill() {
	m.lab.must(m.cmd.Process.Kill())
	<-m.ended
	m.cmd = nil
}

// restart starts the node again on what is on its disk.
func (m *machine) restart() { m.start("up"); m.waitLed() }

// end stops the nodes and whatever they run.
func (l *lab) end() {
	if l.t.Failed() {
		for _, m := range l.machines {
			if text, err := os.ReadFile(m.dir + ".log"); err == nil {
				lines := strings.Split(string(text), "\n")
				l.t.Logf("%s said:\n%s", m.name, strings.Join(lines[max(0, len(lines)-40):], "\n"))
			}
		}
	}
	for _, m := range l.machines {
		if m.cmd != nil {
			_ = m.cmd.Process.Kill()
			<-m.ended
		}
		killSupervisors(m.dir)
	}
	l.waiters.Wait()
}

// killSupervisors ends the attempts of a data directory, found by their command line; jobs die with their supervisor.
func killSupervisors(dir string) {
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range processes {
		text, err := os.ReadFile(file)
		if err == nil && bytes.Contains(text, []byte("supervise")) && bytes.Contains(text, []byte(dir)) {
			pid, _ := strconv.Atoi(strings.Split(file, "/")[2])
			_ = syscall.Kill(pid, syscall.SIGTERM)
		}
	}
}

func cleanEnv() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "CVLAB_") && !strings.HasPrefix(kv, "XDG_") {
			env = append(env, kv)
		}
	}
	return env
}

// cvlab runs a client command against this machine and gives its output and exit code.
func (m *machine) cvlab(args ...string) (stdout, stderr string, code int) {
	m.lab.t.Helper()
	ctx, cancel := context.WithTimeout(m.lab.t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, testProgram.path, args...)
	cmd.Env = append(cleanEnv(), "CVLAB_DATA_DIR="+m.dir)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		m.lab.t.Fatalf("cvlab %v: %v", args, err)
	}
	return out.String(), errs.String(), code
}

// must runs a client command that has to succeed.
func (m *machine) must(args ...string) string {
	m.lab.t.Helper()
	out, errs, code := m.cvlab(args...)
	if code != 0 {
		m.lab.t.Fatalf("cvlab %v on %s: exit code %d\n%s%s", args, m.name, code, out, errs)
	}
	return out
}

func (m *machine) client() *api.Client {
	m.lab.t.Helper()
	token, err := node.ReadToken(m.dir)
	m.lab.must(err)
	c, err := api.NewClient(api.ClientOptions{URL: "http://" + m.http, Token: token})
	m.lab.must(err)
	return c
}

func (m *machine) waitLed() {
	m.lab.t.Helper()
	m.lab.eventually(30*time.Second, m.name+" to have a leader", func() bool {
		if _, err := node.ReadToken(m.dir); err != nil {
			return false
		}
		s, err := m.client().Cluster(m.lab.t.Context())
		return err == nil && s.Leader != nil
	})
}

func (l *lab) joinToken(uses int, ttl time.Duration) string {
	l.t.Helper()
	out := l.machines[0].must("token", "create", "--join", "--uses", strconv.Itoa(uses), "--ttl", ttl.String())
	return strings.TrimSpace(out)
}

func (l *lab) waitVoters(n int) {
	l.t.Helper()
	l.eventually(30*time.Second, fmt.Sprintf("%d voters", n), func() bool {
		s, err := l.machines[0].client().Cluster(l.t.Context())
		return err == nil && s.Voters == n
	})
}

// leader gives the machine that leads, and the others.
func (l *lab) leader() (leads *machine, others []*machine) {
	l.t.Helper()
	var name string
	l.eventually(30*time.Second, "a leader", func() bool {
		for _, m := range l.machines {
			if m.cmd == nil {
				continue
			}
			if s, err := m.client().Cluster(l.t.Context()); err == nil && s.Leader != nil {
				name = s.Leader.Name
				return true
			}
		}
		return false
	})
	for _, m := range l.machines {
		if m.name == name {
			leads = m
		} else if m.cmd != nil {
			others = append(others, m)
		}
	}
	if leads == nil {
		l.t.Fatalf("the leader %q is no machine of this lab", name)
	}
	return leads, others
}

// eventually waits for a condition.
func (l *lab) eventually(limit time.Duration, what string, holds func() bool) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), limit)
	defer cancel()
	l.must(until(ctx, what, holds))
}

// witnessed is what a job wrote about itself, outside the cluster: one line for every start and one for every end.
func (l *lab) witnessed(id uint64) []string {
	text, err := os.ReadFile(filepath.Join(l.witness, word(id)))
	if err != nil {
		return nil
	}
	return strings.Fields(string(text))
}

// job is a command that tells the witness that it starts, waits for the file "go" (or the seconds), tells that it ends,
// and exits with the code.
func (l *lab) job(wait string, code int) []string {
	script := fmt.Sprintf(`echo start:$CVLAB_ATTEMPT:$$ >> %[1]s/$CVLAB_EXPERIMENT; i=0; while [ ! -e %[1]s/go ] && [ $i -lt %[2]s ]; do sleep 0.1; i=$((i+1)); echo line $i; done; echo end:$CVLAB_ATTEMPT:$$ >> %[1]s/$CVLAB_EXPERIMENT; exit %[3]d`,
		l.witness, wait, code)
	return []string{"sh", "-c", script}
}

func (l *lab) letGo() { l.must(os.WriteFile(filepath.Join(l.witness, "go"), nil, 0o644)) }

// submit submits through a machine and gives the number.
func (l *lab) submit(m *machine, r api.AddRequest) uint64 {
	l.t.Helper()
	added, err := m.client().Add(l.t.Context(), r)
	l.must(err)
	return added.Experiments[0].ID
}

// get asks a machine for one experiment.
func (l *lab) get(m *machine, id uint64) api.Detail {
	l.t.Helper()
	d, err := m.client().Get(l.t.Context(), id)
	l.must(err)
	return d
}

func (l *lab) waitStatus(m *machine, id uint64, s fsm.Status) api.Detail {
	l.t.Helper()
	var d api.Detail
	l.eventually(60*time.Second, fmt.Sprintf("experiment %d to be %s", id, s), func() bool {
		got, err := m.client().Get(l.t.Context(), id)
		d = got
		return err == nil && d.Status == s
	})
	return d
}
