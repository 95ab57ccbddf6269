package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// cgroup is a control group (version 2) of the job alone. Its one use here is that the kernel can kill all of it at once,
// also what forks faster than it can be listed. A nil *cgroup is valid and holds nothing.
type cgroup struct {
	path string
	dir  *os.File
}

// newCgroup makes a group below the caller's own. It fails where that is not allowed, which is common and no harm.
func newCgroup(token, mark string) (*cgroup, error) {
	base, err := ownCgroup()
	if err != nil {
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	path := filepath.Join(base, "cvlab-"+token+"-"+mark)
	if err := os.Mkdir(path, 0o755); err != nil {
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make cgroup: %w", err), os.Remove(path))
	}
	return &cgroup{path: path, dir: dir}, nil
}

// openCgroup gives the group at path if it still is the one made with this mark, else nil.
func openCgroup(path, mark string) *cgroup {
	if path == "" || !strings.HasSuffix(path, "-"+mark) {
		return nil
	}
	if _, err := os.Stat(filepath.Join(path, "cgroup.procs")); err != nil {
		return nil
	}
	return &cgroup{path: path}
}

func ownCgroup() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	return locateCgroup(string(mounts), string(own))
}

// locateCgroup finds the directory of the caller's own version 2 group from the texts of mountinfo and cgroup.
func locateCgroup(mounts, own string) (string, error) {
	var at string
	for line := range strings.Lines(own) {
		if p, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			at = p
		}
	}
	if at == "" {
		return "", errors.New("no version 2 group in /proc/self/cgroup")
	}
	for line := range strings.Lines(mounts) {
		before, after, _ := strings.Cut(line, " - ")
		f := strings.Fields(before)
		if kind, _, _ := strings.Cut(after, " "); kind != "cgroup2" || len(f) < 5 {
			continue
		}
		rel, ok := strings.CutPrefix(at, strings.TrimSuffix(f[3], "/"))
		if ok && (rel == "" || rel[0] == '/') {
			return filepath.Join(f[4], rel), nil
		}
	}
	return "", errors.New("no cgroup2 mount in /proc/self/mountinfo")
}

// name is the group's path, "" for none.
func (c *cgroup) name() string {
	if c == nil {
		return ""
	}
	return c.path
}

// kill sends SIGKILL to everything in the group. Kernels before 5.14 cannot; then the caller's walk must do.
func (c *cgroup) kill() {
	if c == nil {
		return
	}
	if err := os.WriteFile(filepath.Join(c.path, "cgroup.kill"), []byte("1"), 0); err == nil {
		return
	}
	for _, pid := range c.procs() {
		if s, err := readStat(pid); err == nil && slices.Contains(c.procs(), pid) {
			_ = signalProc(s.Proc, 9) // gone already, or killed in the next round
		}
	}
}

// procs lists the processes of the group and of groups the job made below it.
func (c *cgroup) procs() []int {
	if c == nil {
		return nil
	}
	var pids []int
	for _, dir := range c.dirs() {
		data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			continue
		}
		for w := range strings.FieldsSeq(string(data)) {
			if pid, err := strconv.Atoi(w); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

func (c *cgroup) dirs() []string {
	var dirs []string
	_ = filepath.WalkDir(c.path, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	return dirs
}

// remove gives the group back, deepest first. The kernel may need a moment after the last process.
func (c *cgroup) remove() {
	if c == nil {
		return
	}
	if c.dir != nil {
		c.dir.Close()
	}
	for range 50 {
		for _, dir := range slices.Backward(c.dirs()) {
			_ = os.Remove(dir)
		}
		if _, err := os.Stat(c.path); err != nil {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}
