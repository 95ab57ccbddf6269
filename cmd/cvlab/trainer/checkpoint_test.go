package trainer

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func sample(epoch, batch int, accuracies ...float64) checkpoint {
	c := checkpoint{
		Widths: []int{2, 1}, Optimizer: "adam", BatchSize: 4, RNG: []byte{1, 2, 3},
		At:      position{Epoch: epoch, Batch: batch, Order: []int{2, 0, 1}, LossSum: 0.1 + 0.2, Correct: 1},
		tensors: [][]float64{{0.1, math.SmallestNonzeroFloat64}, {}, {math.Copysign(0, -1), math.Inf(1)}},
	}
	for i, a := range accuracies {
		c.At.History = append(c.At.History, Row{Step: i + 1, Accuracy: a, TrainLoss: 1.0 / 3})
	}
	return c
}

func encoded(t testing.TB, c checkpoint) []byte {
	t.Helper()
	data, err := c.encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestCheckpointComesBackBitForBit(t *testing.T) {
	want := sample(2, 7, 0.5, 2.0/3)
	got, err := decodeCheckpoint(encoded(t, want))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(checkpoint{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !math.Signbit(got.tensors[2][0]) {
		t.Error("minus zero lost its sign")
	}
}

func TestEveryDamageIsSeen(t *testing.T) {
	data := encoded(t, sample(1, 0, 0.5))
	for i := range data {
		bad := append([]byte(nil), data...)
		bad[i] ^= 0x10
		if _, err := decodeCheckpoint(bad); !errors.Is(err, ErrDamaged) {
			t.Fatalf("byte %d of %d changed: %v", i, len(data), err)
		}
		if _, err := decodeCheckpoint(data[:i]); !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut to %d of %d bytes: %v", i, len(data), err)
		}
	}
	if _, err := decodeCheckpoint(append(data, 0)); !errors.Is(err, ErrDamaged) {
		t.Errorf("one byte more: %v", err)
	}
}

// sealed is a file with a right sum around any header and numbers.
func sealed(header string, numbers []byte) []byte {
	out := binary.LittleEndian.AppendUint32([]byte(checkpointMagic), uint32(len(header)))
	out = append(append(out, header...), numbers...)
	sum := sha256.Sum256(out)
	return append(out, sum[:]...)
}

func TestSealedNonsenseIsRefused(t *testing.T) {
	longHeader := sealed("{}", nil)
	binary.LittleEndian.PutUint32(longHeader[len(checkpointMagic):], math.MaxUint32)
	body := longHeader[:len(longHeader)-sha256.Size]
	sum := sha256.Sum256(body)
	for want, data := range map[string][]byte{
		"its header is longer":  append(body, sum[:]...),
		"is not readable":       sealed("{", nil),
		"fewer numbers":         sealed(`{"lengths":[1,1]}`, make([]byte, 15)),
		"it holds fewer":        sealed(`{"lengths":[-1]}`, make([]byte, 8)),
		"holds fewer numbers":   sealed(`{"lengths":[9223372036854775807]}`, make([]byte, 8)),
		"more numbers than its": sealed(`{"lengths":[1]}`, make([]byte, 9)),
	} {
		if _, err := decodeCheckpoint(data); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func FuzzDecodeCheckpoint(f *testing.F) {
	whole := encoded(f, sample(1, 2, 0.5))
	f.Add(whole, "", []byte{})
	f.Add([]byte(checkpointMagic), `{"lengths":[1],"at":{"order":[1]}}`, make([]byte, 8))
	f.Fuzz(func(t *testing.T, raw []byte, header string, numbers []byte) {
		for _, data := range [][]byte{raw, sealed(header, numbers)} {
			c, err := decodeCheckpoint(data)
			if err != nil {
				if !errors.Is(err, ErrDamaged) {
					t.Fatalf("not a damage: %v", err)
				}
				continue
			}
			_ = c.At.fits(3, 3)
			again, err := decodeCheckpoint(encoded(t, c))
			if err != nil || string(encoded(t, again)) != string(encoded(t, c)) {
				t.Fatalf("does not come back: %v", err)
			}
		}
	})
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func save(t *testing.T, dir string, c checkpoint) {
	t.Helper()
	if _, err := saveCheckpoint(dir, c); err != nil {
		t.Fatal(err)
	}
}

func TestStoreKeepsTheNewestAndTheBest(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "dir")
	curve := []float64{0.1, 0.9, 0.2, 0.3, 0.4, 0.5}
	for epoch := 1; epoch <= 5; epoch++ {
		save(t, dir, sample(epoch, 0, curve[:epoch]...))
	}
	if diff := cmp.Diff([]string{"epoch_0002.ckpt", "epoch_0003.ckpt", "epoch_0004.ckpt", "epoch_0005.ckpt"}, names(t, dir)); diff != "" {
		t.Errorf("after five epochs (-want +got):\n%s", diff)
	}
	other := filepath.Join(dir, "notes.txt")
	half := filepath.Join(dir, ".epoch_0005_batch_0030.ckpt.part") // of a process that was killed
	for _, path := range []string{other, half} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	save(t, dir, sample(5, 12, curve[:5]...))
	save(t, dir, sample(5, 20, curve[:5]...))
	want := []string{"epoch_0002.ckpt", "epoch_0005.ckpt", "epoch_0005_batch_0012.ckpt", "epoch_0005_batch_0020.ckpt", "notes.txt"}
	if diff := cmp.Diff(want, names(t, dir)); diff != "" {
		t.Errorf("in the sixth epoch (-want +got):\n%s", diff)
	}
	// A run from the beginning in the same place: what lies ahead of it is of another life.
	save(t, dir, sample(1, 0, 0.3))
	if diff := cmp.Diff([]string{"epoch_0001.ckpt", "notes.txt"}, names(t, dir)); diff != "" {
		t.Errorf("after a fresh start (-want +got):\n%s", diff)
	}
}

func TestLoadPassesOverDamagedOnesInADirectoryOnly(t *testing.T) {
	dir := t.TempDir()
	save(t, dir, sample(1, 0, 0.1))
	save(t, dir, sample(2, 0, 0.1, 0.2))
	save(t, dir, sample(2, 9, 0.1, 0.2))
	newest := filepath.Join(dir, "epoch_0002_batch_0009.ckpt")
	if err := os.Truncate(newest, 200); err != nil {
		t.Fatal(err)
	}
	var said []string
	note := func(err error) { said = append(said, err.Error()) }

	_, _, err := loadCheckpoint(newest, note)
	if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), newest) || len(said) > 0 {
		t.Errorf("the file itself: %v, said %q", err, said)
	}
	c, from, err := loadCheckpoint(dir, note)
	if err != nil || c.At.Epoch != 2 || c.At.Batch != 0 || filepath.Base(from) != "epoch_0002.ckpt" {
		t.Errorf("the directory: epoch %d batch %d from %s, %v", c.At.Epoch, c.At.Batch, from, err)
	}
	if len(said) != 1 || !strings.Contains(said[0], newest) {
		t.Errorf("said %q", said)
	}
	for _, n := range names(t, dir) {
		if err := os.Truncate(filepath.Join(dir, n), 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := loadCheckpoint(dir, note); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "epoch_0001.ckpt") {
		t.Errorf("all damaged: %v", err)
	}
	if _, _, err := loadCheckpoint(t.TempDir(), note); err == nil || !strings.Contains(err.Error(), "no checkpoint") {
		t.Errorf("an empty directory: %v", err)
	}
	if _, _, err := loadCheckpoint(filepath.Join(dir, "nope"), note); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing one: %v", err)
	}
}

func TestWriteFileLeavesTheOldOneWhenItFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a", "m.csv")
	if err := writeFile(path, []byte("old")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "a", ".m.csv.part"), 0o700); err != nil { // in the way of the next one
		t.Fatal(err)
	}
	if err := writeFile(path, []byte("new")); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "old" {
		t.Errorf("the file holds %q, %v", got, err)
	}
	if err := writeFile(filepath.Join(path, "x"), nil); err == nil {
		t.Error("a file was taken for a directory")
	}
}
