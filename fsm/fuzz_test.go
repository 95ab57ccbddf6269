package fsm_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/deveronica/cvlab/fsm"
)

// Any bytes: Decode refuses or reads them; what it reads can be written again and means the same; Apply returns, and the
// state it leaves survives a snapshot (I19, I20).
func FuzzDecode(f *testing.F) {
	paths, err := filepath.Glob("testdata/wire/*.json")
	if err != nil || len(paths) == 0 {
		f.Fatalf("no goldens: %v", err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	l := livedInLab(f)
	for _, data := range l.log {
		f.Add(data)
	}
	f.Add([]byte(`{"kind":"submit","at":"0000-01-01T00:00:00Z","body":null}`))
	f.Add([]byte(`{"kind":"drain","at":"9999-12-31T23:59:59-23:59","body":{"node":"a"}}`))
	base := snapshot(f, l.state)
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := fsm.Decode(data)
		if err != nil {
			if !errors.Is(err, fsm.ErrUnknownCommand) {
				t.Fatalf("Decode fails with %v", err)
			}
			return
		}
		// Within the limits of Encode, writing and reading again is stable.
		if once, err := fsm.Encode(e); err == nil {
			again, err := fsm.Decode(once)
			if err != nil {
				t.Fatalf("%s was written and is not read: %v", once, err)
			}
			if twice := encode(t, again); !bytes.Equal(once, twice) {
				t.Fatalf("written as %s, then as %s", once, twice)
			}
		}
		s := restored(t, base)
		before := s.View().Digest()
		r, err := s.Apply(s.Index()+1, data)
		if err != nil {
			t.Fatalf("Decode reads it and Apply says %v", err)
		}
		if r.Refused() && s.View().Digest() != before {
			t.Fatalf("refused with %+v, and left a trace", r)
		}
		if third := restored(t, snapshot(t, s)); same(s, third) != "" {
			t.Fatalf("I19: %s", same(s, third))
		}
	})
}

// Any bytes, as a whole snapshot and as the records of one whose checksum is right: Restore refuses and touches nothing,
// or gives a state that writes itself the same way again.
func FuzzRestore(f *testing.F) {
	l := livedInLab(f)
	whole := snapshot(f, l.state)
	lines := bytes.SplitAfter(whole, []byte("\n"))
	f.Add(whole, false)
	f.Add(bytes.Join(lines[:len(lines)-2], nil), true)
	for _, line := range lines[1 : len(lines)-2] {
		f.Add(append(bytes.Clone(lines[0]), line...), true)
	}
	before := l.state.View().Digest()
	f.Fuzz(func(t *testing.T, data []byte, seal bool) {
		if seal {
			var body []string
			for line := range bytes.Lines(data) {
				body = append(body, string(line))
			}
			data = sealed(body)
		}
		s := restored(t, whole)
		if err := s.Restore(bytes.NewReader(data)); err != nil {
			if !errors.Is(err, fsm.ErrDamagedSnapshot) || s.View().Digest() != before {
				t.Fatalf("refused with %v, same state: %t", err, s.View().Digest() == before)
			}
			return
		}
		if third := restored(t, snapshot(t, s)); same(s, third) != "" {
			t.Fatalf("I19: %s", same(s, third))
		}
	})
}

func FuzzParseToken(f *testing.F) {
	for _, s := range []string{"1-42", "0-0", "-", "18446744073709551615-1", "1-042"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if token, err := fsm.ParseToken(s); err == nil && token.String() != s {
			t.Fatalf("ParseToken(%q) is written %q", s, token)
		}
	})
}
