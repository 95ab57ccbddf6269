package metrics

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// place is one run directory with a clock that a test moves.
type place struct {
	*testing.T
	dir, cache string
	run        *Run
	now        time.Time
}

func newPlace(t *testing.T) *place {
	p := &place{T: t, dir: t.TempDir(), cache: filepath.Join(t.TempDir(), "m"), now: time.Unix(0, 0)}
	p.open()
	return p
}

func (p *place) open() {
	p.Helper()
	run, err := Open(p.dir, p.cache)
	if err != nil {
		p.Fatal(err)
	}
	p.run = run
}

func (p *place) write(name, text string) {
	p.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		p.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		p.Fatal(err)
	}
	p.now = p.now.Add(time.Hour)
	// Two writes within one tick of the file system's clock look the same by time; their sizes mostly differ, here always.
	if err := os.Chtimes(path, p.now, p.now); err != nil {
		p.Fatal(err)
	}
}

func (p *place) update(want bool) {
	p.Helper()
	p.now = p.now.Add(time.Hour)
	changed, err := p.run.Update(p.Context(), p.now, false)
	if err != nil || changed != want {
		p.Fatalf("changed %t, %v; want %t", changed, err, want)
	}
}

// shows lists every series with its values.
func (p *place) shows() string {
	p.Helper()
	var b strings.Builder
	for _, s := range p.run.Series() {
		list, err := p.run.Chart(s.Key, math.Inf(-1), math.Inf(1), MaxBuckets)
		if err != nil {
			p.Fatal(err)
		}
		fmt.Fprintf(&b, "%s:", s.Key)
		for _, v := range list {
			fmt.Fprintf(&b, " %v=%v", v.From, v.Last)
		}
		fmt.Fprintf(&b, " (last %v, min %v at %v, max %v at %v)\n", s.All.Last, s.All.Min, s.All.MinStep, s.All.Max, s.All.MaxStep)
	}
	return b.String()
}

func (p *place) want(text string) {
	p.Helper()
	if diff := cmp.Diff(strings.TrimLeft(text, "\n"), p.shows()); diff != "" {
		p.Fatalf("(-want +got)\n%s", diff)
	}
}

// TestTableThatIsWrittenAnew is cvlab-kit's: each row writes the whole file, columns appear late, cells are filled in later.
func TestTableThatIsWrittenAnew(t *testing.T) {
	p := newPlace(t)
	p.update(false)
	p.write("logs/a/x.csv", "step,train_loss\n1,0.5\n")
	p.update(true)
	p.update(false)
	p.write("logs/a/x.csv", "step,train_loss,accuracy\n1,0.5,0.25\n2,0.125,\n")
	p.update(true)
	p.want("accuracy: 1=0.25 (last 0.25, min 0.25 at 1, max 0.25 at 1)\ntrain_loss: 1=0.5 2=0.125 (last 0.125, min 0.125 at 2, max 0.5 at 1)\n")
	p.write("logs/a/x.csv", "step,train_loss,accuracy\n1,0.5,0.25\n2,0.125,0.75\n")
	p.update(true)
	want := "accuracy: 1=0.25 2=0.75 (last 0.75, min 0.25 at 1, max 0.75 at 2)\ntrain_loss: 1=0.5 2=0.125 (last 0.125, min 0.125 at 2, max 0.5 at 1)\n"
	p.want(want)
	// A look in the middle of a rewrite sees an empty file, and what was known stays until there is more.
	p.open()
	p.update(false)
	p.want(want)
	// The run ends with a line that has no end.
	p.write("logs/a/x.csv", "step,train_loss,accuracy\n1,0.5,0.25\n2,0.125,0.75\n3,1,1")
	p.update(true)
	p.want(want)
	if changed, err := p.run.Update(t.Context(), p.now, true); err != nil || !changed {
		t.Fatalf("changed %t, %v", changed, err)
	}
	p.want("accuracy: 1=0.25 2=0.75 3=1 (last 1, min 0.25 at 1, max 1 at 3)\ntrain_loss: 1=0.5 2=0.125 3=1 (last 1, min 0.125 at 2, max 1 at 3)\n")
	left, err := filepath.Glob(filepath.Join(p.cache, "*.0"))
	if err != nil || len(left) != 2 {
		t.Errorf("columns of before are still there: %v, %v", left, err)
	}
}

// TestLongFileIsReadOnce appends to a file of some megabytes; what was read is not read again, and a file that was written anew is.
func TestLongFileIsReadOnce(t *testing.T) {
	p := newPlace(t)
	var text strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&text, "{\"step\": %d, \"loss\": %d.5}\n", i+1, i%100)
	}
	p.write("metrics.jsonl", text.String())
	p.update(true)
	before := p.run.Series()[0]
	text.WriteString("{\"step\": 100001, \"loss\": 1000}\n")
	p.write("metrics.jsonl", text.String())
	p.update(true)
	after := p.run.Series()[0]
	if before.column != after.column || after.All.N != 100_001 || after.All.Max != 1000 {
		t.Errorf("column %d then %d, %+v", before.column, after.column, after.All)
	}
	p.write("metrics.jsonl", strings.Replace(text.String(), "0.5", "7.5", 1)+"\n\n")
	p.update(true)
	if anew := p.run.Series()[0]; anew.column == after.column || anew.All.N != 100_001 {
		t.Errorf("column %d again, %+v", anew.column, anew.All)
	}
}

// Two files with the same names in them do not mix.
func TestSameNamesInTwoFiles(t *testing.T) {
	p := newPlace(t)
	p.write("a.csv", "step,loss\n1,1\n")
	p.write("b.csv", "step,loss,acc\n1,2,3\n")
	p.update(true)
	p.want("a.csv:loss: 1=1 (last 1, min 1 at 1, max 1 at 1)\nacc: 1=3 (last 3, min 3 at 1, max 3 at 1)\nb.csv:loss: 1=2 (last 2, min 2 at 1, max 2 at 1)\n")
}

// Columns that are damaged are made anew, and answer rightly.
func TestDamagedColumns(t *testing.T) {
	for _, damage := range []string{"index cut", "index flipped", "index gone", "column gone", "column cut"} {
		t.Run(damage, func(t *testing.T) {
			p := newPlace(t)
			p.write("a.csv", "step,loss\n1,1\n2,5\n")
			p.update(true)
			want := p.shows()
			index, column := filepath.Join(p.cache, "index"), filepath.Join(p.cache, "1.0")
			data, err := os.ReadFile(index)
			if err != nil {
				t.Fatal(err)
			}
			switch damage {
			case "index cut":
				err = os.Truncate(index, int64(len(data)/2))
			case "index flipped":
				data[len(data)/2] ^= 4
				err = os.WriteFile(index, data, 0o600)
			case "index gone":
				err = os.Remove(index)
			case "column gone":
				err = os.Remove(column)
			case "column cut":
				err = os.Truncate(column, 10)
			}
			if err != nil {
				t.Fatal(err)
			}
			p.open()
			p.update(true)
			p.want(want)
		})
	}
}

// What is no plain file is left alone: links out of the directory, a FIFO that would hang, a directory with the name of a table.
func TestHostileFiles(t *testing.T) {
	p := newPlace(t)
	secret := filepath.Join(t.TempDir(), "secret.csv")
	if err := os.WriteFile(secret, []byte("step,secret\n1,1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.write("a.csv", "step,loss\n1,1\n")
	for name, make := range map[string]func(string) error{
		"link.csv": func(s string) error { return os.Symlink(secret, s) },
		"dir":      func(s string) error { return os.Symlink(filepath.Dir(secret), s) },
		"fifo.csv": func(s string) error { return unix.Mkfifo(s, 0o600) },
		"d.csv":    func(s string) error { return os.Mkdir(s, 0o700) },
	} {
		if err := make(filepath.Join(p.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	p.update(true)
	p.want("loss: 1=1 (last 1, min 1 at 1, max 1 at 1)\n")
	root, err := os.OpenRoot(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	// Swapped between the look and the opening.
	for _, name := range []string{"link.csv", "fifo.csv", "d.csv"} {
		if f, _, err := openSource(root, name); err == nil {
			f.Close()
			t.Errorf("%s was opened", name)
		}
	}
}

func TestChartRefuses(t *testing.T) {
	p := newPlace(t)
	for _, want := range []int{0, -1, MaxBuckets + 1} {
		if _, err := p.run.Chart("x", 0, 1, want); err == nil || !strings.Contains(err.Error(), "20000") {
			t.Errorf("%d: %v", want, err)
		}
	}
	if _, err := p.run.Chart("x", 0, 1, 10); err == nil || !strings.Contains(err.Error(), "no such metric") {
		t.Error(err)
	}
}
