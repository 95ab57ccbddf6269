package fsm_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deveronica/cvlab/fsm"
)

// livedInLab has something in every table.
func livedInLab(t fataler) *lab {
	l := foundedLab(t)
	l.ok(&fsm.Admit{Node: machine("b", 1), Access: "j"})
	l.apply(fsm.Entry{By: "ana", Key: "k1", Command: &fsm.Submit{Spec: sweep(5)}})
	token := l.run(1, "a", "a-0")
	l.run(2, "b", "b-0")
	l.ok(&fsm.Finish{Token: token, Node: "a", Class: fsm.ClassUserError, ExitCode: ptr(1), Message: "line one\nline two \u2028 <&>"})
	l.ok(&fsm.Annotate{Experiments: []uint64{3}, Tags: ptr([]string{"x"}), Notes: ptr("ünïcode")})
	l.ok(&fsm.Cancel{Experiments: []uint64{4}})
	l.ok(&fsm.Remove{Node: "b", Off: true})
	// A gang of which one part has ended.
	l.ok(&fsm.Admit{Node: machine("c", 1), Access: "j"})
	l.ok(&fsm.Admit{Node: machine("d", 1), Access: "j"})
	gang := sweep(1)
	gang.Device.Nodes = 2
	id := l.ok(&fsm.Submit{Spec: gang}).Experiments[0]
	token = l.ok(&fsm.Assign{Experiment: id, Node: "d", GPUs: []string{"d-0"}, Others: []fsm.Slot{{Node: "c", GPUs: []string{"c-0"}}}}).Token
	l.ok(&fsm.Start{Token: token, Node: "d", BootID: "boot", Port: 29500})
	l.ok(&fsm.Start{Token: token, Node: "c", BootID: "boot"})
	l.ok(&fsm.Finish{Token: token, Node: "c", Class: fsm.ClassHostOOM, ExitCode: ptr(137)})
	return l
}

func TestRestoreGivesTheSame(t *testing.T) {
	l := livedInLab(t)
	data := snapshot(t, l.state)
	s := restored(t, data)
	if digest(s) != digest(l.state) || s.Index() != l.state.Index() {
		t.Errorf("index %d digest %s, want %d %s", s.Index(), digest(s), l.state.Index(), digest(l.state))
	}
	if diff := cmp.Diff(string(data), string(snapshot(t, s))); diff != "" {
		t.Errorf("the snapshot of the restored differs:\n%s", diff)
	}
	if got, want := show(s.View()), show(l.state.View()); got != want {
		t.Error(cmp.Diff(want, got))
	}
	// Indexes are rebuilt too: what is held stays held.
	if h := s.View().Holder("a-0"); h != nil {
		t.Errorf("a-0 is held by %+v after its attempt ended", h)
	}
	for node, want := range map[string]int{"d": 1, "c": 0, "": 1} {
		if got := len(slices.Collect(s.View().Open(node))); got != want {
			t.Errorf("%d attempts are open on node %q, want %d", got, node, want)
		}
	}
}

// damaged is what a replica must do with a bad snapshot: say so, and keep what it has.
func damaged(t *testing.T, s *fsm.State, data []byte, how string) {
	t.Helper()
	before, index := digest(s), s.Index()
	if err := s.Restore(bytes.NewReader(data)); !errors.Is(err, fsm.ErrDamagedSnapshot) {
		t.Fatalf("%s: Restore says %v", how, err)
	}
	if digest(s) != before || s.Index() != index {
		t.Fatalf("%s: the state was touched", how)
	}
}

func TestCutSnapshot(t *testing.T) {
	data := snapshot(t, livedInLab(t).state)
	s := foundedLab(t).state
	lines := bytes.SplitAfter(data, []byte("\n"))
	for n := range len(lines) - 1 {
		damaged(t, s, bytes.Join(lines[:n], nil), fmt.Sprintf("cut after line %d", n))
	}
	for _, n := range []int{1, 10, len(data) / 2, len(data) - 2, len(data) - 1} {
		damaged(t, s, data[:n], fmt.Sprintf("cut after byte %d", n))
	}
}

func TestFlippedByte(t *testing.T) {
	data := snapshot(t, livedInLab(t).state)
	s := foundedLab(t).state
	for i := range data {
		for _, bit := range []byte{1, 0x20, 0x80} {
			flipped := bytes.Clone(data)
			flipped[i] ^= bit
			damaged(t, s, flipped, fmt.Sprintf("byte %d, bit %#x", i, bit))
		}
	}
}

func TestLinesOfAnotherSnapshot(t *testing.T) {
	lines := strings.SplitAfter(string(snapshot(t, livedInLab(t).state)), "\n")
	s := foundedLab(t).state
	swapped := append([]string{}, lines...)
	swapped[2], swapped[3] = swapped[3], swapped[2]
	damaged(t, s, []byte(strings.Join(swapped, "")), "two lines swapped")
	damaged(t, s, []byte(strings.Join(append(lines[:3:3], lines[4:]...), "")), "a line left out")
}

// sealed closes lines with a right end, so that what they say is read and not only that they were changed.
func sealed(lines []string) []byte {
	body := strings.Join(lines, "")
	return fmt.Appendf([]byte(body), "{\"lines\":%d,\"sha256\":\"%x\"}\n", len(lines), sha256.Sum256([]byte(body)))
}

// What was written by a later version, and is sound, is refused too.
func TestSnapshotOfAnotherVersion(t *testing.T) {
	lines := strings.SplitAfter(string(snapshot(t, livedInLab(t).state)), "\n")
	lines = lines[:len(lines)-2]
	s := foundedLab(t).state
	if digest(restored(t, sealed(lines))) != digest(livedInLab(t).state) {
		t.Fatal("sealed lines are not a snapshot")
	}
	for _, c := range []struct {
		name     string
		line     int
		old, new string
	}{
		{"format", 0, `"format":1`, `"format":2`},
		{"unknown field of the header", 0, `"format"`, `"shards":2,"format"`},
		{"unknown table", 2, `"nodes"`, `"gangs"`},
		{"unknown field of a record", 2, `"mesh"`, `"rack":"r1","mesh"`},
		{"field of another type", 2, `"cpu_slots":2`, `"cpu_slots":"2"`},
	} {
		changed := slices.Clone(lines)
		changed[c.line] = strings.Replace(changed[c.line], c.old, c.new, 1)
		if changed[c.line] == lines[c.line] {
			t.Fatalf("%s: nothing was changed in %s", c.name, lines[c.line])
		}
		damaged(t, s, sealed(changed), c.name)
	}
}

type brokenWriter struct{ left int }

var errFull = errors.New("no space left on device")

func (w *brokenWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestSnapshotToFullDisk(t *testing.T) {
	l := livedInLab(t)
	l.submit(2000)
	size := len(snapshot(t, l.state))
	for _, left := range []int{0, size / 2, size - 1} {
		if err := l.state.View().Write(&brokenWriter{left: left}); !errors.Is(err, errFull) {
			t.Errorf("with room for %d of %d bytes Write says %v", left, size, err)
		}
	}
}
