package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/node"
	"github.com/deveronica/cvlab/ui/api"
)

// The leader is killed while 20 experiments run and 20 wait. Every acknowledged one ends exactly once, with its own exit
// code, and no running process is disturbed.
func TestLeaderKilledUnderWork(t *testing.T) {
	l := newLab(t, 3, "--cpu-slots", "7")
	leads, others := l.leader()
	through := others[0]
	codes := map[uint64]int{}
	for i := range 41 {
		code := []int{0, 0, 3}[i%3]
		id := l.submit(through, api.AddRequest{Command: l.job("600", code), Device: "cpu"})
		codes[id] = code
	}
	running := func() (ids []uint64) {
		for id := range codes {
			if len(l.witnessed(id)) > 0 {
				ids = append(ids, id)
			}
		}
		return ids
	}
	l.eventually(60*time.Second, "21 experiments to run", func() bool { return len(running()) == 21 })
	before := map[uint64]string{}
	for _, id := range running() {
		before[id] = strings.Join(l.witnessed(id), " ")
	}
	leads.kill()
	// The next submission goes through a survivor while the election is under way.
	late := l.submit(through, api.AddRequest{Command: l.job("600", 0), Device: "cpu"})
	codes[late] = 0
	for id, said := range before {
		pid := said[strings.LastIndexByte(said, ':')+1:]
		if _, err := os.Stat("/proc/" + pid); err != nil {
			t.Errorf("experiment %d: process %s was disturbed by the leader's death", id, pid)
		}
	}
	leads.restart()
	l.letGo()
	for id, code := range codes {
		want := fsm.Completed
		if code != 0 {
			want = fsm.Failed
		}
		d := l.waitStatus(through, id, want)
		if d.ExitCode == nil || *d.ExitCode != code {
			t.Errorf("experiment %d: exit code %v, want %d", id, d.ExitCode, code)
		}
		if said := l.witnessed(id); len(said) != 2 || !strings.HasPrefix(said[0], "start:1:") || strings.Replace(said[0], "start", "end", 1) != said[1] {
			t.Errorf("experiment %d ran as %v, want one start and one end of one process", id, said)
		}
		if len(d.Attempts) != 1 {
			t.Errorf("experiment %d has %d attempts, want 1", id, len(d.Attempts))
		}
	}
}

// All three nodes are killed at once and started again: nothing acknowledged is lost, and what ran goes on.
func TestAllKilledAndRestarted(t *testing.T) {
	l := newLab(t, 3, "--cpu-slots", "1")
	_, others := l.leader()
	var ids []uint64
	for range 9 {
		ids = append(ids, l.submit(others[1], api.AddRequest{Command: l.job("600", 0), Device: "cpu"}))
	}
	l.eventually(30*time.Second, "three to run", func() bool {
		return len(l.witnessed(ids[0])) == 1 && len(l.witnessed(ids[1])) == 1 && len(l.witnessed(ids[2])) == 1
	})
	for _, m := range l.machines {
		m.kill()
	}
	for _, m := range l.machines {
		m.start("up")
	}
	for _, m := range l.machines {
		m.waitLed()
	}
	l.letGo()
	for _, id := range ids {
		d := l.waitStatus(l.machines[0], id, fsm.Completed)
		if said := l.witnessed(id); len(said) != 2 || len(d.Attempts) != 1 {
			t.Errorf("experiment %d ran as %v in %d attempts", id, said, len(d.Attempts))
		}
	}
}

// A worker's daemon is killed and started again: the same process goes on, and exit code and every byte of the output
// are there, also of a job that ended while the daemon was away.
func TestWorkerKilledAndRestarted(t *testing.T) {
	l := newLab(t, 1, "--cpu-slots", "2")
	m := l.machines[0]
	long := l.submit(m, api.AddRequest{Command: l.job("600", 7), Device: "cpu"})
	short := l.submit(m, api.AddRequest{
		Command: []string{"sh", "-c", "echo begin; touch " + l.witness + "/short; while [ ! -e " + l.witness + "/shortgo ]; do sleep 0.05; done; seq 1 20000; printf '\\000\\377junk'; exit 5"},
		Device:  "cpu",
	})
	l.eventually(30*time.Second, "both to run", func() bool {
		_, err := os.Stat(filepath.Join(l.witness, "short"))
		return err == nil && len(l.witnessed(long)) == 1
	})
	m.kill()
	l.must(os.WriteFile(filepath.Join(l.witness, "shortgo"), nil, 0o644))
	token := l.attemptDir(m, 2)
	l.eventually(30*time.Second, "the short job to end", func() bool {
		text, err := os.ReadFile(filepath.Join(token, "out.log"))
		return err == nil && strings.HasSuffix(string(text), "junk")
	})
	m.restart()
	if d := l.waitStatus(m, short, fsm.Failed); d.ExitCode == nil || *d.ExitCode != 5 {
		t.Errorf("the job that ended meanwhile has exit code %v, want 5", d.ExitCode)
	}
	var want strings.Builder
	want.WriteString("begin\n")
	for i := 1; i <= 20000; i++ {
		want.WriteString(strconv.Itoa(i) + "\n")
	}
	want.WriteString("\x00\xffjunk")
	if got := m.must("logs", word(short), "--raw"); got != want.String() {
		t.Errorf("output has %d bytes, want %d: it is not what was written", len(got), want.Len())
	}
	l.letGo()
	d := l.waitStatus(m, long, fsm.Failed)
	if d.ExitCode == nil || *d.ExitCode != 7 {
		t.Errorf("the job that went on has exit code %v, want 7", d.ExitCode)
	}
	if said := l.witnessed(long); len(said) != 2 || strings.Replace(said[0], "start", "end", 1) != said[1] {
		t.Errorf("the job that went on was %v, want one process from start to end", said)
	}
}

// attemptDir gives the directory of the attempt with that number of experiment.
func (l *lab) attemptDir(m *machine, experiment uint64) string {
	l.t.Helper()
	dirs, err := filepath.Glob(filepath.Join(m.dir, "attempts", "*", "attempt.json"))
	l.must(err)
	for _, f := range dirs {
		text, err := os.ReadFile(f)
		if err == nil && strings.Contains(strings.ReplaceAll(string(text), " ", ""), fmt.Sprintf(`"experiment":%d,`, experiment)) {
			return filepath.Dir(f)
		}
	}
	l.t.Fatalf("no attempt of experiment %d below %s", experiment, m.dir)
	return ""
}

// Who has no good token does not get in, and hears in one sentence why.
func TestJoinRefused(t *testing.T) {
	l := newLab(t, 1)
	founder := l.machines[0]
	good := l.joinToken(1, time.Hour)
	l.machine("guest").join(founder, good)
	expired := l.joinToken(1, time.Second)
	other := newLab(t, 1)
	foreign := other.joinToken(1, time.Hour)
	l.eventually(10*time.Second, "a token to expire", func() bool {
		out := founder.must("token", "list", "--json")
		return strings.Contains(out, `"expired": true`)
	})
	for _, c := range []struct{ name, token, want string }{
		{"mistyped", good[:len(good)-1] + "x", "mistyped"},
		{"used", good, "used"},
		{"expired", expired, "expired"},
		{"of another cluster", foreign, "token"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &machine{lab: l, name: "intruder", dir: t.TempDir()}
			file := filepath.Join(t.TempDir(), "token")
			l.must(os.WriteFile(file, []byte(c.token), 0o600))
			_, errs, code := m.cvlab("join", founder.mesh, "--token-file", file, "--data", m.dir, "--http", "127.0.0.1:0", "--mesh", "127.0.0.1:0", "--gossip", "127.0.0.1:0")
			if code != exitFailed || !strings.Contains(errs, c.want) {
				t.Errorf("exit code %d, said %q; want %d and a sentence with %q", code, errs, exitFailed, c.want)
			}
			if n := strings.Count(strings.TrimSpace(errs), "\n"); n > 1 {
				t.Errorf("said %d lines, want one sentence:\n%s", n+1, errs)
			}
		})
	}
	s, err := founder.client().Cluster(t.Context())
	l.must(err)
	if len(s.Nodes) != 2 {
		t.Errorf("the cluster has %d nodes, want the founder and the guest", len(s.Nodes))
	}
}

// A follower loses its disk and joins again on the same address: it comes as a new node, and its old self has no vote
// that somebody else could cast.
func TestWipedFollowerIsANewNode(t *testing.T) {
	l := newLab(t, 3)
	_, others := l.leader()
	wiped, witness := others[0], others[1]
	old, err := node.ReadRunning(wiped.dir)
	l.must(err)
	wiped.kill()
	l.must(os.RemoveAll(wiped.dir))
	token := strings.TrimSpace(witness.must("token", "create", "--join"))
	wiped.join(witness, token)
	fresh, err := node.ReadRunning(wiped.dir)
	l.must(err)
	if fresh.Node == old.Node {
		t.Fatal("the wiped node came back under its old ID")
	}
	l.eventually(30*time.Second, "the old self to have no vote", func() bool {
		s, err := witness.client().Cluster(t.Context())
		if err != nil {
			return false
		}
		for _, n := range s.Nodes {
			if n.ID == old.Node && (n.Role == "voter" || n.Role == "leader") {
				return false
			}
		}
		return s.Voters == 3
	})
	// It works, and it works with any one machine away.
	leads, rest := l.leader()
	leads.kill()
	l.submit(rest[0], api.AddRequest{Command: []string{"true"}, Device: "cpu"})
}

// A wiped machine ran something: nobody can know whether it still does, so its old self stays listed, and a person is told
// what to say once it is known.
func TestTheOldSelfStaysWhileItMayRunSomething(t *testing.T) {
	l := newLab(t, 3, "--cpu-slots", "1")
	_, others := l.leader()
	wiped, witness := others[0], others[1]
	id := l.submit(witness, api.AddRequest{Command: l.job("600", 0), Device: wiped.name})
	l.eventually(30*time.Second, "it to run", func() bool { return len(l.witnessed(id)) == 1 })
	wiped.kill()
	killSupervisors(wiped.dir)
	l.must(os.RemoveAll(wiped.dir))
	wiped.join(witness, strings.TrimSpace(witness.must("token", "create", "--join")))
	l.eventually(30*time.Second, "people to be told", func() bool {
		return strings.Contains(witness.must("cluster"), "cvlab remove "+wiped.name+" --it-is-off")
	})
	witness.must("remove", wiped.name, "--it-is-off")
	l.eventually(30*time.Second, "the new self to have the name", func() bool {
		s, err := witness.client().Cluster(t.Context())
		if err != nil || len(s.Nodes) != 3 {
			return false
		}
		for _, n := range s.Nodes {
			if n.Name != "m1" && n.Name != "m2" && n.Name != "m3" {
				return false
			}
		}
		return s.Voters == 3
	})
}

// A node that was started alone, as a service does, is told to join while it runs. If that fails it goes on as before, and
// a cluster that somebody would miss is not left.
func TestRunningNodeIsToldToJoin(t *testing.T) {
	l := newLab(t, 1)
	founder := l.machines[0]
	alone := l.machine("alone")
	alone.start("up")
	alone.waitLed()
	join := func(token string) (string, string, int) {
		file := filepath.Join(t.TempDir(), "token")
		l.must(os.WriteFile(file, []byte(token), 0o600))
		return alone.cvlab("join", founder.mesh, "--token-file", file)
	}
	id := func(m *machine) string {
		s, err := m.client().Cluster(t.Context())
		l.must(err)
		return s.ID
	}
	before := id(alone)
	good := l.joinToken(1, time.Hour)
	if _, errs, code := join(strings.TrimSpace(newLab(t, 1).joinToken(1, time.Hour))); code != exitFailed || !strings.Contains(errs, "token") {
		t.Errorf("with a foreign token: exit code %d, %q", code, errs)
	}
	alone.waitLed()
	if now := id(alone); now != before {
		t.Fatalf("after a failed join it is in cluster %s, want its old one %s", now, before)
	}
	if out, errs, code := join(good); code != 0 || !strings.Contains(out, "has joined") {
		t.Fatalf("with a good token: exit code %d, %q %q", code, out, errs)
	}
	if now, want := id(alone), id(founder); now != want {
		t.Errorf("it is in cluster %s, want %s", now, want)
	}
	alone.kill()
	alone.restart() // by plain "up": the join is not forgotten
	l.submit(alone, api.AddRequest{Command: []string{"true"}, Device: "cpu"})

	busy := l.machine("busy")
	busy.start("up")
	busy.waitLed()
	l.submit(busy, api.AddRequest{Command: []string{"true"}, Device: "cpu"})
	file := filepath.Join(t.TempDir(), "token")
	l.must(os.WriteFile(file, []byte(l.joinToken(1, time.Hour)), 0o600))
	if _, errs, code := busy.cvlab("join", founder.mesh, "--token-file", file); code != exitFailed || !strings.Contains(errs, "experiments") {
		t.Errorf("a node with experiments: exit code %d, %q", code, errs)
	}
}

// A machine comes back under other addresses, as after a new lease of DHCP: it is the same node, found again without
// anybody's help.
func TestMachineComesBackUnderAnotherAddress(t *testing.T) {
	l := newLab(t, 3)
	_, others := l.leader()
	moved, witness := others[0], others[1]
	before, err := node.ReadRunning(moved.dir)
	l.must(err)
	moved.kill()
	moved.http, moved.mesh, moved.gossip = freePort(t), freePort(t), freePort(t)
	moved.start("up")
	l.eventually(30*time.Second, "the moved machine to be heard at its new address", func() bool {
		s, err := witness.client().Cluster(t.Context())
		if err != nil {
			return false
		}
		for _, n := range s.Nodes {
			if n.ID == before.Node {
				return n.State == "alive" && n.Mesh == moved.mesh && s.Voters == 3 && len(s.Nodes) == 3
			}
		}
		return false
	})
	l.submit(moved, api.AddRequest{Command: []string{"true"}, Device: "cpu"})
}
