package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRenamesKeepTheNewest(t *testing.T) {
	var r Renames
	for i := range KeptRenames + 10 {
		r.Note(fmt.Sprintf("e%d", i))
	}
	r.Note("e20")
	r.Note("bad\xff")
	r.Note("")
	if r.Count != KeptRenames+11 || len(r.Newest) != KeptRenames {
		t.Errorf("%d counted, %d kept", r.Count, len(r.Newest))
	}
	if last := r.Newest[len(r.Newest)-1]; last != (Rename{N: KeptRenames + 11, Name: "e20"}) {
		t.Errorf("newest is %+v", last)
	}
	if slices.ContainsFunc(r.Newest, func(o Rename) bool { return o.Name == "e5" }) {
		t.Error("an old one is kept")
	}
	dir := t.TempDir()
	if _, err := ReadRenames(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before the first: %v", err)
	}
	if err := WriteRenames(dir, r); err != nil {
		t.Fatal(err)
	}
	got, err := ReadRenames(dir)
	r.Version = Version
	if diff := cmp.Diff(r, got); diff != "" || err != nil {
		t.Errorf("%v, read back (-want +got):\n%s", err, diff)
	}
	path := filepath.Join(dir, RenamesFile)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[10] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadRenames(dir); !errors.Is(err, ErrDamaged) {
		t.Errorf("a flipped bit: %v", err)
	}
}

func FuzzDecodeRenames(f *testing.F) {
	good, err := seal(Renames{Version: Version, Count: 3, Newest: []Rename{{N: 1, Name: "a"}, {N: 3, Name: "b"}}}, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, false)
	for _, body := range []string{`{"version":1,"count":1,"newest":[{"n":1,"name":"../x"}]}`, `{"version":1,"count":1,"newest":[{"n":2,"name":"x"}]}`, `{"version":2}`} {
		f.Add([]byte(body+"\n"), true)
	}
	f.Fuzz(func(t *testing.T, data []byte, mend bool) {
		if mend {
			data = append(data, sealOf(data)...)
		}
		r, err := DecodeRenames(data)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("error of another kind: %v", err)
			}
			return
		}
		for _, one := range r.Newest {
			if filepath.Base(one.Name) != one.Name || one.N == 0 || one.N > r.Count {
				t.Errorf("took %+v", one)
			}
		}
	})
}
