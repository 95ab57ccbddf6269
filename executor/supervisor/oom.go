package supervisor

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// oomKills gives what is to be noted about processes that were killed because memory was full: those of the job, where its
// cgroup counts them; else those of the whole machine, which has counted now, if the job looks like one of them.
func (s *standing) oomKills(e Exit, now int) (own, host int) {
	if n := s.group.oomKills(); n >= 0 {
		return n, 0
	}
	killed := e.Signal == int(unix.SIGKILL) || e.Code == 128+int(unix.SIGKILL) // itself, or a child as its shell tells it
	if e.Reason != ReasonExited || !killed || s.oomBefore < 0 || now <= s.oomBefore {
		return 0, 0
	}
	return 0, now - s.oomBefore
}

// oomKills gives the group's own count, with groups below it; -1 where memory is not counted for it.
func (c *cgroup) oomKills() int {
	if c == nil {
		return -1
	}
	return counter(filepath.Join(c.path, "memory.events"), "oom_kill")
}

// hostOOMKills gives the kernel's count since the boot, -1 if it has none (Linux before 4.13).
func hostOOMKills() int { return counter("/proc/vmstat", "oom_kill") }

// counter reads one "NAME NUMBER" line of a kernel's file, -1 if it is not there.
func counter(path, name string) int {
	data, err := os.ReadFile(path)
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(data)) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if word != name {
			continue
		}
		if n, err := strconv.Atoi(rest); err == nil && n >= 0 {
			return n
		}
	}
	return -1
}
