package cluster

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/deveronica/cvlab/cluster/mesh"
	"github.com/deveronica/cvlab/fsm"
)

// worn is a stopped node with a history: entries of several pages, three snapshots, starts and stops.
func worn(t *testing.T) *machine {
	t.Helper()
	m := newMachine(t, "worn")
	m.start(found("lab"))
	for i := range 5 {
		for j := range 8 {
			bulk(t, m, fmt.Sprintf("%d-%d", i, j), 700*j)
		}
		if err := m.seat.raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
		if i == 2 {
			m.stop()
			m.start(again)
		}
	}
	bulk(t, m, "last", 10)
	return m
}

// bulk commits an entry with a config of some bytes.
func bulk(t *testing.T, m *machine, key string, size int) {
	t.Helper()
	e := submission(key)
	e.Command.(*fsm.Submit).Spec.Config = strings.Repeat("x", size)
	if r, err := m.seat.Propose(t.Context(), e); err != nil || r.Refused() {
		t.Fatalf("submit: %+v, %v", r, err)
	}
}

// copyDir copies a data directory as cp -a does.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(from, path)
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), data, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// wound is one way to damage a file.
type wound struct {
	name string
	do   func(path string) error
}

func wounds(size int64, seed uint64) []wound {
	list := []wound{
		{"deleted", os.Remove},
		{"empty", func(p string) error { return os.Truncate(p, 0) }},
		{"cut in half", func(p string) error { return os.Truncate(p, size/2) }},
		{"one byte short", func(p string) error { return os.Truncate(p, max(0, size-1)) }},
	}
	dice := rand.New(rand.NewPCG(seed, uint64(size)))
	for range 20 {
		at, bit := dice.Int64N(size), byte(1)<<dice.IntN(8)
		list = append(list, wound{fmt.Sprintf("bit %#x of byte %d flipped", bit, at), func(p string) error {
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			data[at] ^= bit
			return os.WriteFile(p, data, 0o600)
		}})
	}
	return list
}

func TestDamageIsNeverSilent(t *testing.T) {
	m := worn(t)
	m.stop()
	want := m.seat.State().View()
	for _, clean := range []bool{true, false} {
		if !clean {
			// As after kill -9: the log is not marked as closed.
			w, err := openWatermark(m.seat.raftDir(), bootOf(), m.seat.raft.LastIndex(), func(error) {})
			if err != nil {
				t.Fatal(err)
			}
			w.file.Close()
		}
		refused, opened := 0, 0
		for path, size := range filesOf(t, m.dir) {
			if !clean && path != "raft/raft.db" && path != "raft/watermark" {
				continue // nothing else knows the difference
			}
			for _, w := range wounds(size, 7) {
				if hurt(t, m, path, w, want) {
					opened++
				} else {
					refused++
				}
			}
		}
		t.Logf("clean %v: %d refused, %d opened with the same facts", clean, refused, opened)
		if refused == 0 || opened == 0 {
			t.Error("all ended alike: the table asks nothing")
		}
	}
}

func filesOf(t *testing.T, dir string) map[string]int64 {
	t.Helper()
	files := map[string]int64{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		rel, _ := filepath.Rel(dir, path)
		files[rel] = info.Size()
		return err
	})
	if err != nil || len(files) < 10 {
		t.Fatalf("only %d files, %v", len(files), err)
	}
	return files
}

// hurt damages one file of a copy and starts it. Either it is refused with advice, or the facts are what they were.
func hurt(t *testing.T, m *machine, path string, w wound, want fsm.View) (opened bool) {
	t.Helper()
	c := &machine{t: t, name: m.name, dir: t.TempDir(), tuning: m.tuning, addr: m.addr, gossip: m.gossip}
	copyDir(t, m.dir, c.dir)
	if err := w.do(filepath.Join(c.dir, path)); err != nil {
		t.Fatal(err)
	}
	err := c.tryStart(found("another"))
	if err != nil {
		// The key itself is read before there is a seat, and refused with words of its own; the node's tests ask for those.
		if !errors.Is(err, ErrDamaged) && path != "identity.pem" {
			t.Errorf("%s %s: refused with %v, want ErrDamaged", path, w.name, err)
		}
		if errors.Is(err, ErrDamaged) && (!strings.Contains(err.Error(), "cvlab recover") || !strings.Contains(err.Error(), "go on")) {
			t.Errorf("%s %s: refused without advice: %v", path, w.name, err)
		}
		return false
	}
	defer c.stop()
	eventually(t, path+" "+w.name+": the facts are there", func() bool { return c.seat.State().Index() >= want.Index() })
	if got := c.seat.State().View().Digest(); got != want.Digest() {
		wanted := want.Digest()
		t.Errorf("%s %s: opened with facts %s, want %s", path, w.name, hex.EncodeToString(got[:4]), hex.EncodeToString(wanted[:4]))
	}
	return true
}

// contents is all that raft would read from a log, as text.
func contents(path string) (string, error) {
	var b strings.Builder
	s, err := surveyLog(context.Background(), path, true, func(l *raft.Log) {
		fmt.Fprintf(&b, "%d %d %d %x\n", l.Index, l.Term, l.Type, l.Data)
	})
	fmt.Fprintf(&b, "%+v", s)
	return b.String(), err
}

func TestNoBitOfALogFlipsUnnoticed(t *testing.T) {
	m := worn(t)
	m.stop()
	path := filepath.Join(m.seat.raftDir(), "raft.db")
	whole, err := contents(path)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dice := rand.New(rand.NewPCG(1, 2))
	found, harmless := 0, 0
	for range 1500 {
		at, bit := dice.IntN(len(data)), byte(1)<<dice.IntN(8)
		data[at] ^= bit
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		now, err := contents(path)
		data[at] ^= bit
		switch {
		case err != nil:
			found++
		case now == whole:
			harmless++ // in a free page, or behind the last value of one
		default:
			t.Fatalf("bit %#x of byte %d changes what raft reads, and nothing notices", bit, at)
		}
	}
	t.Logf("%d found, %d changed nothing", found, harmless)
	if found < 100 || harmless < 100 {
		t.Error("the flips hit only one kind of place: the test asks nothing")
	}
}

func FuzzLog(f *testing.F) {
	dir := f.TempDir()
	path := filepath.Join(dir, "raft.db")
	store, err := openStore(path)
	if err != nil {
		f.Fatal(err)
	}
	w, err := openWatermark(dir, "boot", 0, func(err error) { f.Error(err) })
	if err != nil {
		f.Fatal(err)
	}
	sealed, err := newSealedStore(store, path, w, func(err error) { f.Error(err) })
	if err == nil {
		err = errors.Join(sealed.StoreLogs([]*raft.Log{{Index: 1, Term: 1, Data: []byte("a")}, {Index: 2, Term: 1, Data: make([]byte, 5000)}}),
			sealed.SetUint64([]byte("CurrentTerm"), 1), store.Close(), w.close())
	}
	if err != nil {
		f.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:5000])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, lenient := range []bool{true, false} {
			v := &logVisitor{s: &logSurvey{}, strict: !lenient, values: map[string][]byte{}}
			_ = walkBolt(t.Context(), bytes.NewReader(data), int64(len(data)), lenient, v.visit)
		}
	})
}

func FuzzWatermark(f *testing.F) {
	f.Add(mesh.Seal([]byte(`{"boot":"b","clean":true,"last":3}`)))
	f.Add([]byte("\"00000000\"\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := decodeMark(data); err == nil && m.holds("") != m.Clean {
			t.Fatalf("%+v", m)
		}
	})
}

func TestALogThatIsDeletedUnderItsNodeEndsIt(t *testing.T) {
	m := newMachine(t, "solo")
	m.start(found("lab"))
	submit(t, m, "a")
	if err := os.RemoveAll(m.dir); err != nil {
		t.Fatal(err)
	}
	m.group.Wait()
	m.group = nil
	if !errors.Is(m.err, ErrDamaged) || !strings.Contains(m.err.Error(), "while this node runs") {
		t.Fatalf("run ended with %v, want ErrDamaged", m.err)
	}
}

func TestAnEntryThatIsDamagedWhileTheNodeRunsEndsItWithASentence(t *testing.T) {
	m := newMachine(t, "solo")
	m.start(found("lab"))
	submit(t, m, "a")
	last := m.seat.raft.LastIndex()
	var l raft.Log
	bolt := m.seat.raft.store.bolt
	if err := bolt.GetLog(last, &l); err != nil {
		t.Fatal(err)
	}
	l.Data[len(l.Data)/2] ^= 1
	if err := bolt.StoreLog(&l); err != nil { // below the seals, as a disk would
		t.Fatal(err)
	}
	var reader sync.WaitGroup // it stays until the process ends, as raft's own would
	reader.Go(func() { _ = m.seat.raft.store.store.GetLog(last, &raft.Log{}) })
	m.group.Wait()
	m.group = nil
	if !errors.Is(m.err, ErrDamaged) || !strings.Contains(m.err.Error(), fmt.Sprintf("entry %d", last)) {
		t.Fatalf("run ended with %v, want ErrDamaged that names entry %d", m.err, last)
	}
}
