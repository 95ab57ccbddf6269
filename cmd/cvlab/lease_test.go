package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/deveronica/cvlab/cluster"
	"github.com/deveronica/cvlab/executor"
	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/node/leader"
	"github.com/deveronica/cvlab/ui/api"
)

// beat is one sign of life of a job, written outside the cluster.
type beat struct {
	attempt, pid int
	at           time.Duration // since boot
}

// beatingJob writes a beat every 50 ms until the file "go" is there.
func (l *lab) beatingJob() []string {
	return []string{"sh", "-c", fmt.Sprintf(
		`while [ ! -e %[1]s/go ]; do read up rest < /proc/uptime; echo $CVLAB_ATTEMPT:$$:$up >> %[1]s/$CVLAB_EXPERIMENT; sleep 0.05; done`, l.witness)}
}

func (l *lab) beats(id uint64) []beat {
	l.t.Helper()
	text, err := os.ReadFile(filepath.Join(l.witness, word(id)))
	if err != nil {
		return nil
	}
	var beats []beat
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 || !strings.HasSuffix(line, "\n") {
			continue // being written
		}
		attempt, err1 := strconv.Atoi(f[0])
		pid, err2 := strconv.Atoi(f[1])
		up, err3 := strconv.ParseFloat(f[2], 64)
		if err1 != nil || err2 != nil || err3 != nil {
			l.t.Fatalf("beat %q", line)
		}
		beats = append(beats, beat{attempt, pid, time.Duration(up * float64(time.Second))})
	}
	return beats
}

func (l *lab) last(id uint64) beat {
	beats := l.beats(id)
	if len(beats) == 0 {
		return beat{}
	}
	return beats[len(beats)-1]
}

// beating waits for a beat from now on and gives it.
func (l *lab) beating(id uint64, limit time.Duration) beat {
	l.t.Helper()
	now := executor.Boottime()
	l.eventually(limit, fmt.Sprintf("experiment %d to beat", id), func() bool { return l.last(id).at > now })
	return l.last(id)
}

// frozen waits until the job has not beaten for a second and gives its last beat.
func (l *lab) frozen(id uint64, limit time.Duration) beat {
	l.t.Helper()
	l.eventually(limit, fmt.Sprintf("experiment %d to stand still", id), func() bool { return executor.Boottime()-l.last(id).at > time.Second })
	return l.last(id)
}

// wantNoInterleaving fails if an attempt beat after a later one had begun.
func (l *lab) wantNoInterleaving(id uint64) {
	l.t.Helper()
	newest := 0
	for _, b := range l.beats(id) {
		if b.attempt < newest {
			l.t.Fatalf("experiment %d: attempt %d executed at %s, after attempt %d had begun", id, b.attempt, b.at, newest)
		}
		newest = b.attempt
	}
}

// host gives the machine that runs an experiment, asked at any that is up, and the others.
func (l *lab) host(id uint64) (host *machine, others []*machine) {
	l.t.Helper()
	d := l.get(l.machines[0], id)
	for _, m := range l.machines {
		if m.name == d.Attempts[len(d.Attempts)-1].Node {
			host = m
		} else {
			others = append(others, m)
		}
	}
	if host == nil {
		l.t.Fatalf("experiment %d is on no machine: %+v", id, d.Attempts)
	}
	return host, others
}

// A worker's daemon dies and nobody is there to renew: its job is frozen when the lease of 6 s ends, goes on elsewhere after
// the wait of 12.1 s and no earlier, and the old process is killed when the daemon is back.
func TestKilledWorkersExperimentGoesOnElsewhere(t *testing.T) {
	l := newLabWith(t, []string{"CVLAB_TEST_LEASE=6s,1s"}, 3, "--cpu-slots", "1")
	id := l.submit(l.machines[0], api.AddRequest{Command: l.beatingJob(), Device: "cpu"})
	first := l.beating(id, 30*time.Second)
	host, others := l.host(id)
	// Longer than the lease, so that it is only alive because it was renewed.
	l.eventually(30*time.Second, "the job to outlive its lease", func() bool { return l.last(id).at > first.at+8*time.Second })
	host.kill()
	killed := executor.Boottime()
	last := l.frozen(id, 30*time.Second)
	if d := last.at - killed; last.attempt != 1 || d < 4*time.Second || d > 7*time.Second {
		t.Errorf("attempt %d was frozen %s after the daemon's death, want 1 and at most 6 s", last.attempt, d)
	}
	if err := syscall.Kill(first.pid, 0); err != nil {
		t.Errorf("the frozen process is gone: %v", err)
	}
	l.eventually(90*time.Second, "the second attempt", func() bool { return l.last(id).attempt == 2 })
	for _, b := range l.beats(id) {
		if b.attempt == 2 && b.at-killed < 11*time.Second {
			t.Errorf("the second attempt began %s after the daemon's death, before the wait was over", b.at-killed)
			break
		}
	}
	host.restart()
	l.eventually(20*time.Second, "the old process to be killed", func() bool { return syscall.Kill(first.pid, 0) != nil })
	l.beating(id, 20*time.Second)
	l.letGo()
	d := l.waitStatus(others[0], id, fsm.Completed)
	if len(d.Attempts) != 2 || d.Attempts[0].Class != fsm.ClassNodeLost || !strings.Contains(d.Attempts[0].Sentence, "was not heard for") {
		t.Errorf("attempts %+v", d.Attempts)
	}
	l.wantNoInterleaving(id)
}

// Two of three daemons are away, first for less than a lease, then for longer: nothing is started again, and the one process
// goes on, the second time after it was frozen.
func TestQuorumLostRestartsNothing(t *testing.T) {
	l := newLabWith(t, []string{"CVLAB_TEST_LEASE=8s,1s"}, 3, "--cpu-slots", "1")
	id := l.submit(l.machines[0], api.AddRequest{Command: l.beatingJob(), Device: "cpu"})
	first := l.beating(id, 30*time.Second)
	host, others := l.host(id)
	for _, long := range []bool{false, true} {
		for _, m := range others {
			m.kill()
		}
		gone := executor.Boottime()
		if long {
			l.frozen(id, 30*time.Second)
			l.eventually(10*time.Second, "its node to say that it is frozen", func() bool {
				d := l.get(host, id)
				return d.FrozenSince != nil && d.Attempts[0].FrozenSince != nil && strings.Contains(d.Reason, "no word from the cluster for 8s")
			})
			if out := host.must("show", word(id)); !strings.Contains(out, "frozen since ") || !strings.Contains(out, "it goes on when word comes") {
				t.Errorf("show says:\n%s", out)
			}
		} else {
			l.eventually(30*time.Second, "three seconds", func() bool { return executor.Boottime() > gone+3*time.Second })
		}
		for _, m := range others {
			m.start("up")
		}
		for _, m := range l.machines {
			m.waitLed()
		}
		if b := l.beating(id, 20*time.Second); b.pid != first.pid {
			t.Errorf("process %d has become %d", first.pid, b.pid)
		}
	}
	l.eventually(10*time.Second, "nobody to call it frozen any more", func() bool { return l.get(host, id).FrozenSince == nil })
	// No late consequence either: more than the new leader's wait passes.
	now := executor.Boottime()
	l.eventually(60*time.Second, "16 seconds of work", func() bool { return l.last(id).at > now+16*time.Second })
	l.letGo()
	if d := l.waitStatus(host, id, fsm.Completed); len(d.Attempts) != 1 {
		t.Errorf("%d attempts, want 1: %+v", len(d.Attempts), d.Attempts)
	}
	l.wantNoInterleaving(id)
}

func TestHiddenLeaseSetting(t *testing.T) {
	for text, want := range map[string]leader.LeaseTimes{"": {}, "6s,1s": {Length: 6 * time.Second, Margin: time.Second}} {
		if got, err := testLease(text); err != nil || got != want {
			t.Errorf("%q gives %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"6s", "6s,", ",1s", "6,1", "0s,1s", "6s,-1s", "6s,1s,1s"} {
		if got, err := testLease(text); err == nil || !strings.Contains(err.Error(), "CVLAB_TEST_LEASE") {
			t.Errorf("%q gives %v, %v", text, got, err)
		}
	}
}

func TestHiddenDiskSetting(t *testing.T) {
	for text, want := range map[string]cluster.DiskLimits{
		"": {}, "8MiB,16MiB": {Reserve: 8 << 20, Floor: 16 << 20}, "512KiB,1GiB": {Reserve: 512 << 10, Floor: 1 << 30}, "4096,1B": {Reserve: 4096, Floor: 1},
	} {
		if got, err := testDisk(text); err != nil || got != want {
			t.Errorf("%q gives %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"8MiB", "8MiB,", ",16MiB", "8MB,16MiB", "0,1MiB", "-1MiB,1MiB", "1MiB,2MiB,3MiB", "99999999999GiB,1MiB", "MiB,1MiB"} {
		if got, err := testDisk(text); err == nil || !strings.Contains(err.Error(), "CVLAB_TEST_DISK") {
			t.Errorf("%q gives %v, %v", text, got, err)
		}
	}
}
