package node

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/node/worker"
)

// ownRuns is what a machine has of its own checkpoints.
type ownRuns struct {
	t   *testing.T
	dir string
}

func newOwnRuns(t *testing.T) ownRuns { return ownRuns{t, t.TempDir()} }

func (d ownRuns) store() worker.Store {
	return worker.Store{
		RunsDir: filepath.Join(d.dir, "runs"), Records: func(token string) string { return filepath.Join(d.dir, "attempts", token) },
	}
}

func (d ownRuns) write(path, text string) {
	d.t.Helper()
	path = filepath.Join(d.dir, path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		d.t.Fatal(err)
	}
}

// big is more than fits into the buffers between two machines.
const big = 3 << 20

// publish puts a checkpoint of two files on the disk, as it was published by a node.
func (d ownRuns) publish(node string) fsm.Checkpoint {
	d.t.Helper()
	m := worker.Manifest{Experiment: 7, Attempt: 2, Path: "checkpoints/e1"}
	for name, text := range map[string]string{"model": strings.Repeat("weights ", big/8), "state": "adam"} {
		d.write("runs/7/2/checkpoints/e1/"+name, text)
		sum := sha256.Sum256([]byte(text))
		m.Files = append(m.Files, worker.ManifestFile{Path: "checkpoints/e1/" + name, Size: uint64(len(text)), SHA256: hex.EncodeToString(sum[:])})
	}
	slices.SortFunc(m.Files, func(a, b worker.ManifestFile) int { return strings.Compare(a.Path, b.Path) })
	data, digest, err := m.Encode()
	if err != nil {
		d.t.Fatal(err)
	}
	d.write("attempts/1-9/checkpoint-3.json", string(data))
	return fsm.Checkpoint{
		Experiment: 7, Attempt: 2, Token: fsm.Token{Epoch: 1, Index: 9}, Seq: 3, Node: node, Path: m.Path, Files: 2, Size: m.Size(), Digest: digest,
	}
}

// keep lets a node answer for the checkpoints of a disk.
func (m *meshLab) keep(node string, d ownRuns) {
	l := m.net.listen(node)
	s := &peerServer{stored: d.store(), who: whoOf, logger: quiet()}
	m.running.Go(func() {
		if err := s.Run(m.ctx, l); err != nil {
			m.t.Errorf("%s ended with: %v", node, err)
		}
	})
}

func wantCopy(t *testing.T, into string) {
	t.Helper()
	model, err1 := os.ReadFile(filepath.Join(into, "e1", "model"))
	state, err2 := os.ReadFile(filepath.Join(into, "e1", "state"))
	if err := errors.Join(err1, err2); err != nil || len(model) != big || string(state) != "adam" {
		t.Errorf("the copy has %d bytes and %q, %v", len(model), state, err)
	}
}

func TestCheckpointsComeFromWhereTheyAre(t *testing.T) {
	onMesh(t, func(t *testing.T, m *meshLab) {
		onA, onB := newOwnRuns(t), newOwnRuns(t)
		m.keep(nodeA, onA)
		m.keep(nodeB, onB)
		here := newCheckpoints(nodeA, onA.store(), m.peer(nodeA), quiet())
		for name, k := range map[string]fsm.Checkpoint{"of this machine": onA.publish(nodeA), "of another": onB.publish(nodeB)} {
			into := filepath.Join(t.TempDir(), "resume")
			if err := here.Fetch(t.Context(), k, into); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			wantCopy(t, into)
		}
		if m.net.dialled() != 1 {
			t.Errorf("%d machines were asked", m.net.dialled())
		}
	})
}

func TestDamagedCheckpointsAreNotTaken(t *testing.T) {
	at := "runs/7/2/checkpoints/e1/"
	for name, damage := range map[string]func(d ownRuns){
		"changed":       func(d ownRuns) { d.write(at+"model", strings.Repeat("Weights ", big/8)) },
		"the last byte": func(d ownRuns) { d.write(at+"state", "adan") },
		"shorter":       func(d ownRuns) { d.write(at+"state", "ada") },
		"one file gone": func(d ownRuns) { _ = os.Remove(filepath.Join(d.dir, at, "state")) },
		"all gone":      func(d ownRuns) { _ = os.RemoveAll(filepath.Join(d.dir, "runs")) },
		"a link out": func(d ownRuns) {
			_ = os.Remove(filepath.Join(d.dir, at, "state"))
			_ = os.Symlink("/etc/passwd", filepath.Join(d.dir, at, "state"))
		},
		"the manifest gone": func(d ownRuns) { _ = os.RemoveAll(filepath.Join(d.dir, "attempts")) },
		"another manifest":  func(d ownRuns) { d.write("attempts/1-9/checkpoint-3.json", "{}") },
	} {
		for _, node := range []string{nodeA, nodeB} {
			t.Run(name+" on "+node[:1], func(t *testing.T) {
				onMesh(t, func(t *testing.T, m *meshLab) {
					d := newOwnRuns(t)
					m.keep(nodeB, d)
					k := d.publish(node)
					damage(d)
					into := filepath.Join(t.TempDir(), "resume")
					began := time.Now()
					err := newCheckpoints(nodeA, d.store(), m.peer(nodeA), quiet()).Fetch(t.Context(), k, into)
					if err == nil || errors.Is(err, worker.ErrWrite) || time.Since(began) > 0 {
						t.Errorf("after %s: %v", time.Since(began), err)
					}
					if _, err := os.Lstat(into); err == nil {
						t.Error("half a copy is left behind")
					}
				})
			})
		}
	}
}

// stalls is a node that answers, sends a part, and then nothing.
func (m *meshLab) stalls(id string, d ownRuns, k fsm.Checkpoint, send int) {
	l := m.net.listen(id)
	m.running.Go(func() {
		<-m.ctx.Done()
		l.Close()
	})
	m.running.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		r := bufio.NewReader(c)
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		manifest, err := os.ReadFile(filepath.Join(d.dir, "attempts/1-9/checkpoint-3.json"))
		if err != nil {
			m.t.Error(err)
		}
		_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nX-Manifest: %d\r\nContent-Length: %d\r\n\r\n%s", len(manifest), uint64(len(manifest))+k.Size, manifest)
		_, _ = io.WriteString(c, strings.Repeat("weights ", big/8)[:send])
		_, _ = io.Copy(io.Discard, r) // until the other one gives up
	})
}

// The start of an attempt does not hang on a machine that has gone.
func TestSilentMachinesAreGivenUp(t *testing.T) {
	for name, c := range map[string]struct {
		make func(m *meshLab, d ownRuns, k fsm.Checkpoint)
		most time.Duration
	}{
		"it is off":             {func(m *meshLab, _ ownRuns, _ fsm.Checkpoint) { m.net.cut = map[[2]string]bool{{nodeA, nodeB}: true} }, checkpointAnswer},
		"it does not listen":    {func(*meshLab, ownRuns, fsm.Checkpoint) {}, 0},
		"it says nothing":       {func(m *meshLab, _ ownRuns, _ fsm.Checkpoint) { m.mute(nodeB, false) }, checkpointAnswer},
		"it stops after a file": {func(m *meshLab, d ownRuns, k fsm.Checkpoint) { m.stalls(nodeB, d, k, big) }, checkpointStall},
		"it stops in a file":    {func(m *meshLab, d ownRuns, k fsm.Checkpoint) { m.stalls(nodeB, d, k, big/2) }, checkpointStall},
	} {
		t.Run(name, func(t *testing.T) {
			onMesh(t, func(t *testing.T, m *meshLab) {
				d := newOwnRuns(t)
				k := d.publish(nodeB)
				c.make(m, d, k)
				into := filepath.Join(t.TempDir(), "resume")
				began := time.Now()
				err := newCheckpoints(nodeA, newOwnRuns(t).store(), m.peer(nodeA), quiet()).Fetch(t.Context(), k, into)
				if err == nil || time.Since(began) != c.most || c.most > 0 && !errors.Is(err, errSilent) {
					t.Errorf("after %s: %v", time.Since(began), err)
				}
			})
		})
	}
}

// failing is a source that begins a copy and breaks off.
type failing struct{ err error }

func (f failing) Fetch(_ context.Context, _ fsm.Checkpoint, into string, _ func(int64)) error {
	return errors.Join(f.err, os.MkdirAll(filepath.Join(into, "half"), 0o755))
}

func TestTheNextSourceIsAsked(t *testing.T) {
	d := newOwnRuns(t)
	k := d.publish(nodeA)
	own := ownCheckpoints{nodeA, d.store()}
	into := filepath.Join(t.TempDir(), "resume")
	c := &checkpoints{sources: []checkpointSource{failing{errors.New("broken")}, failing{errElsewhere}, own}, logger: quiet()}
	// The second one has nothing to do with it and should not leave anything either.
	c.sources[1] = writersCheckpoints{self: nodeA}
	if err := c.Fetch(t.Context(), k, into); err != nil {
		t.Fatal(err)
	}
	wantCopy(t, into)
	c.sources = []checkpointSource{failing{fmt.Errorf("full: %w", worker.ErrWrite)}, own}
	if err := c.Fetch(t.Context(), k, filepath.Join(t.TempDir(), "resume")); !errors.Is(err, worker.ErrWrite) {
		t.Errorf("a full disk: %v", err)
	}
	c.sources = nil
	if err := c.Fetch(t.Context(), k, into); !errors.Is(err, errElsewhere) {
		t.Errorf("nobody has it: %v", err)
	}
}

func TestQuestionsForCheckpointsThatMakeNoSense(t *testing.T) {
	onMesh(t, func(t *testing.T, m *meshLab) {
		d := newOwnRuns(t)
		d.publish(nodeB)
		m.keep(nodeB, d)
		p := m.peer(nodeA)
		for _, question := range []string{"", "x", "{}", `{"token":"../../x"}`, `{"token":"1-9","seq":3}`, `{"token":"1-9","seq":-1}`} {
			if resp, err := p.get(t.Context(), nodeB, "/checkpoint", map[string][]string{"checkpoint": {question}}); err == nil {
				resp.Body.Close()
				t.Errorf("%q was answered", question)
			}
		}
	})
}
