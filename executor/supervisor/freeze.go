package supervisor

import (
	"bytes"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// freezeLimit is how long a job may take to stand still before it is killed instead (rule R6).
const freezeLimit = 2 * time.Second

// freezer makes a job stand still: its cgroup where the kernel can freeze one, and SIGSTOP for whatever is not in it. It
// goes in rounds, because a process may fork while the others are listed, and because one in the kernel stops late.
type freezer struct {
	group   *cgroup
	root    int           // the processes below it are the job
	stopped map[Proc]bool // by us; what the job has stopped itself is not ours to continue
	calm    int           // rounds in a row that found everything standing still
	limit   time.Time
}

func newFreezer(group *cgroup, root int) *freezer {
	return &freezer{group: group, root: root, stopped: map[Proc]bool{}, limit: time.Now().Add(freezeLimit)}
}

// round does what one look can do and says whether everything stands still. Two looks in a row must find it so: a child
// that was forked during the first one is not in its list.
func (f *freezer) round() bool {
	grouped := map[int]bool{}
	still := true
	if f.group.freeze(true) {
		still = f.group.frozen()
		for _, pid := range f.group.procs() {
			grouped[pid] = true
		}
	}
	for _, s := range descendants(f.root) {
		if grouped[s.PID] || s.state == 'T' || s.state == 't' {
			continue
		}
		still = false
		if signalProc(s.Proc, unix.SIGSTOP) == nil {
			f.stopped[s.Proc] = true
		}
	}
	f.calm++
	if !still {
		f.calm = 0
	}
	return f.calm >= 2
}

// thaw lets everything go on that was stopped here.
func (f *freezer) thaw() {
	f.group.freeze(false)
	for p := range f.stopped {
		_ = signalProc(p, unix.SIGCONT) // it may have been killed meanwhile
	}
}

// freeze asks the kernel to freeze or thaw the group, and says whether it can.
func (c *cgroup) freeze(on bool) bool {
	if c == nil {
		return false
	}
	text := "0"
	if on {
		text = "1"
	}
	return os.WriteFile(filepath.Join(c.path, "cgroup.freeze"), []byte(text), 0) == nil
}

// frozen says whether nothing in the group executes.
func (c *cgroup) frozen() bool {
	data, err := os.ReadFile(filepath.Join(c.path, "cgroup.events"))
	return err == nil && bytes.Contains(data, []byte("frozen 1"))
}
