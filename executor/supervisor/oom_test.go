package supervisor

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// group is a cgroup whose memory.events says something; "" for a kernel that does not count memory for it.
func group(t *testing.T, events string) *cgroup {
	t.Helper()
	dir := t.TempDir()
	if events != "" {
		if err := os.WriteFile(filepath.Join(dir, "memory.events"), []byte(events), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &cgroup{path: dir}
}

func TestOOMKills(t *testing.T) {
	const now = 10 // what the machine has counted
	killed, exited, childKilled := Exit{Reason: ReasonExited, Code: 137, Signal: 9}, Exit{Reason: ReasonExited, Code: 1}, Exit{Reason: ReasonExited, Code: 137}
	for _, c := range []struct {
		name      string
		group     *cgroup
		before    int // the machine's count when it began
		exit      Exit
		own, host int
	}{
		{"its cgroup counts", group(t, "low 0\nhigh 0\nmax 12\noom 2\noom_kill 2\noom_group_kill 0\n"), 7, killed, 2, 0},
		{"its cgroup counts none, whatever the machine says", group(t, "oom 2\noom_kill 0\n"), 7, killed, 0, 0},
		{"no count for its cgroup", group(t, ""), 7, killed, 0, 3},
		{"a cgroup that says nonsense", group(t, "oom_kill many\n"), 9, killed, 0, 1},
		{"no cgroup", nil, 9, killed, 0, 1},
		{"a child was killed, and its shell says so", nil, 9, childKilled, 0, 1},
		{"nobody was killed for memory", nil, now, killed, 0, 0},
		{"it ended by itself", nil, 9, exited, 0, 0},
		{"nobody counted when it began", nil, -1, killed, 0, 0},
		{"somebody asked", nil, 9, Exit{Reason: ReasonStopped, Code: 137, Signal: 9}, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := standing{group: c.group, oomBefore: c.before}
			if own, host := s.oomKills(c.exit, now); own != c.own || host != c.host {
				t.Errorf("noted %d of its own and %d of the machine, want %d and %d", own, host, c.own, c.host)
			}
		})
	}
}

// Fields that came later are left out where they say nothing, so that older readers go on to understand the rest.
func TestLaterFieldsOnDisk(t *testing.T) {
	r, e := sampleRecord(), sampleExit()
	r.GPUs = []string{"GPU-1", "GPU-2"}
	e.OOMKills, e.HostOOMKills = 1, 2
	record, err1 := EncodeRecord(r)
	exit, err2 := EncodeExit(e)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	for name, got := range map[string][]byte{"attempt-gpus.json.v1": record, "exit-oom.json.v1": exit} {
		want, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %s", name, cmp.Diff(string(want), string(got)))
		}
	}
	if got, err := DecodeRecord(record); err != nil || !cmp.Equal(got, r) {
		t.Error(err, cmp.Diff(r, got))
	}
	if got, err := DecodeExit(exit); err != nil || !cmp.Equal(got, e) {
		t.Error(err, cmp.Diff(e, got))
	}
}
