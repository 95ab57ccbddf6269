package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/node"
	"github.com/deveronica/cvlab/ui/api"
)

// needRoot skips tests that mount file systems.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root may mount file systems")
	}
}

// smallDisk mounts 64 MiB in memory.
func smallDisk(t *testing.T) func(dir string) {
	return func(dir string) {
		t.Helper()
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("mount a small file system: %v", err)
			}
			t.Skipf("mount a small file system: %v", err)
		}
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }) // the node may still be there
	}
}

// fill leaves no byte free on a machine's disk.
func (m *machine) fill() {
	m.lab.t.Helper()
	f, err := os.OpenFile(filepath.Join(m.dir, "filler"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	m.lab.must(err)
	defer f.Close()
	for block := make([]byte, 1<<20); len(block) > 0; {
		if _, err := f.Write(block); errors.Is(err, unix.ENOSPC) {
			block = block[:len(block)/2]
		} else if err != nil {
			m.lab.t.Fatal(err)
		}
	}
}

func (m *machine) empty() { m.lab.must(os.Remove(filepath.Join(m.dir, "filler"))) }

// disk is the machine's disk in the words of another one.
func (m *machine) disk(asked *machine) string {
	s, err := asked.client().Cluster(m.lab.t.Context())
	if err != nil {
		return ""
	}
	for _, n := range s.Nodes {
		if n.Name == m.name {
			return n.Disk
		}
	}
	return ""
}

// led gives the leader and the others, as a machine that runs sees it.
func (l *lab) led(asked *machine) (leader *machine, others []*machine) {
	l.t.Helper()
	l.eventually(30*time.Second, "a leader", func() bool {
		s, err := asked.client().Cluster(l.t.Context())
		if err != nil || s.Leader == nil {
			return false
		}
		leader, others = nil, nil
		for _, m := range l.machines {
			if m.name == s.Leader.Name {
				leader = m
			} else {
				others = append(others, m)
			}
		}
		return leader != nil
	})
	return leader, others
}

// hasty is a client that takes the first answer.
func (m *machine) hasty() *api.Client {
	m.lab.t.Helper()
	token, err := node.ReadToken(m.dir)
	m.lab.must(err)
	c, err := api.NewClient(api.ClientOptions{URL: "http://" + m.http, Token: token, RetryFor: time.Nanosecond})
	m.lab.must(err)
	return c
}

// refused submits until the answer is a refusal, and gives that.
func (m *machine) refused(limit time.Duration) *api.Error {
	m.lab.t.Helper()
	var e *api.Error
	m.lab.eventually(limit, "a submission to be refused", func() bool {
		_, err := m.hasty().Add(m.lab.t.Context(), api.AddRequest{Command: []string{"true"}, Device: "cpu", Hold: true})
		return errors.As(err, &e)
	})
	return e
}

// F44, F45: a leader on a full disk hands over; while two of three disks are full nothing new is taken, by name; and when
// both machines have stopped for it, the third still says why. With room they come back by themselves.
func TestFullDisksAreToldByName(t *testing.T) {
	needRoot(t)
	l := newLabOn(t, smallDisk(t), []string{"CVLAB_TEST_DISK=8MiB,16MiB"}, 3)
	leader, others := l.led(l.machines[0])
	leader.fill()
	l.eventually(30*time.Second, "another leader", func() bool { now, _ := l.led(others[0]); return now != leader })
	l.eventually(30*time.Second, "the others to know of the full disk", func() bool {
		return leader.disk(others[0]) == "full" && leader.disk(others[1]) == "full"
	})
	kept := l.submit(others[0], api.AddRequest{Command: []string{"true"}, Device: "cpu", Hold: true})
	for _, command := range []string{"cluster", "devices"} {
		if out := others[0].must(command); !strings.Contains(out, "disk full") {
			t.Errorf("cvlab %s does not show it:\n%s", command, out)
		}
	}
	leader.empty()
	l.eventually(30*time.Second, "the reserve to be back", func() bool { return leader.disk(others[0]) == "ok" })

	well, full := others[0], []*machine{leader, others[1]}
	names := []string{full[0].name, full[1].name}
	if names[0] > names[1] {
		names[0], names[1] = names[1], names[0]
	}
	want := fmt.Sprintf("%s and %s are out of disk space; free some there", names[0], names[1])
	for _, m := range full {
		m.fill()
	}
	if e := well.refused(30 * time.Second); e.Status != http.StatusInsufficientStorage || !strings.HasPrefix(e.Detail, want) {
		t.Errorf("refused with %d: %v", e.Status, e)
	}
	if _, errs, code := well.cvlab("cancel", word(kept)); code != 0 {
		t.Errorf("a cancel on full disks: exit code %d\n%s", code, errs)
	}
	// Whoever fills the disk takes what the reserve gave, too, so that the next write ends the node.
	for _, m := range full {
		l.eventually(60*time.Second, m.name+" to stop", func() bool {
			m.fill()
			_ = well.hasty().Drain(t.Context(), well.name) // any change that is written
			_ = well.hasty().Resume(t.Context(), well.name)
			return m.hasEnded()
		})
		m.waitFailed()
		m.start("up") // as systemd does
	}
	e := well.refused(30 * time.Second)
	if e.Status != http.StatusServiceUnavailable || !strings.Contains(e.Detail, want) {
		t.Errorf("without a leader refused with %d: %v", e.Status, e)
	}
	for _, m := range full {
		m.empty()
	}
	for _, m := range full {
		m.waitLed()
	}
	l.eventually(60*time.Second, "submissions to be taken again", func() bool {
		_, err := well.client().Add(t.Context(), api.AddRequest{Command: []string{"true"}, Device: "cpu", Hold: true})
		return err == nil
	})
	l.waitStatus(full[0], kept, fsm.Cancelled) // what was acknowledged is there
}

// frozenDisk makes a disk on a file, and gives a way to freeze it: every write then hangs in the kernel, where no signal
// reaches it.
func frozenDisk(t *testing.T) func(dir string) {
	return func(dir string) {
		t.Helper()
		image := dir + ".img"
		script := `set -e; truncate -s 96M "$1"; mkfs.ext4 -q "$1"; mount -o loop "$1" "$2"; fsfreeze --help >/dev/null`
		if out, err := exec.Command("sh", "-c", script, "sh", image, dir).CombinedOutput(); err != nil {
			t.Skipf("make a disk that can be frozen: %v: %s", err, out)
		}
		t.Cleanup(func() {
			_ = exec.Command("fsfreeze", "-u", dir).Run() // it may be thawed already
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
}

func (m *machine) freeze(how string) {
	m.lab.t.Helper()
	if out, err := exec.Command("fsfreeze", how, m.dir).CombinedOutput(); err != nil {
		m.lab.t.Fatalf("fsfreeze %s: %v: %s", how, err, out)
	}
}

// said counts a sentence in the machine's log.
func (m *machine) said(sentence string) int {
	text, err := os.ReadFile(m.dir + ".log")
	m.lab.must(err)
	return strings.Count(string(text), sentence)
}

// hasEnded says whether the node's process is gone.
func (m *machine) hasEnded() bool {
	select {
	case <-m.ended:
		return true
	default:
		return false
	}
}

// waitFailed waits for the node to end by itself, with an error.
func (m *machine) waitFailed() {
	m.lab.t.Helper()
	m.lab.eventually(30*time.Second, m.name+" to end", m.hasEnded)
	if code := m.cmd.ProcessState.ExitCode(); code != exitFailed {
		m.lab.t.Errorf("%s ended with %d", m.name, code)
	}
}

// F41, F42: the leader's disk hangs, so that not even its process can end; another leads. Then a follower's hangs, and the
// leader is not touched.
func TestHungDisks(t *testing.T) {
	needRoot(t)
	l := newLabOn(t, frozenDisk(t), []string{"CVLAB_TEST_DISK=4MiB,8MiB"}, 3)
	leader, others := l.led(l.machines[0])
	leader.freeze("-f")
	id := l.submit(others[0], api.AddRequest{Command: []string{"true"}, Device: "cpu", Hold: true})
	if now, _ := l.led(others[0]); now == leader {
		t.Error("the leader with the hung disk still leads")
	}
	leader.freeze("-u")
	leader.waitFailed()
	if n := leader.said("the disk does not answer"); n == 0 {
		t.Error("its last words do not say why")
	}
	leader.restart()
	l.waitStatus(leader, id, fsm.Held) // what was acknowledged is there

	leader, others = l.led(leader)
	before, err := leader.client().Cluster(t.Context())
	l.must(err)
	sick := others[0]
	said := sick.said("this node stops taking part")
	sick.freeze("-f")
	l.submit(leader, api.AddRequest{Command: []string{"true"}, Device: "cpu", Hold: true})
	l.eventually(30*time.Second, "it to stop taking part", func() bool { return sick.said("this node stops taking part") > said })
	sick.freeze("-u")
	sick.waitFailed()
	sick.restart()
	l.submit(sick, api.AddRequest{Command: []string{"true"}, Device: "cpu", Hold: true})
	if after, err := leader.client().Cluster(t.Context()); err != nil || after.Term != before.Term {
		t.Errorf("the leader was touched: term %d, then %d (%v)", before.Term, after.Term, err)
	}
}
