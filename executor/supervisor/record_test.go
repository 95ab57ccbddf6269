package supervisor

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func encoded(t testing.TB) (record, exit, life []byte) {
	t.Helper()
	record, err1 := EncodeRecord(sampleRecord())
	exit, err2 := EncodeExit(sampleExit())
	life, err3 := EncodeLife(sampleLife())
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	return record, exit, life
}

// A supervisor lives through upgrades of the daemon, and the records of both must go on to be read. If this test fails,
// the format has changed: count Version up and keep reading the old one.
func TestFormatsOnDisk(t *testing.T) {
	record, exit, life := encoded(t)
	for name, got := range map[string][]byte{RecordFile: record, ExitFile: exit, LifeFile: life} {
		path := filepath.Join("testdata", name+".v1")
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %s", name, cmp.Diff(string(want), string(got)))
		}
	}
}

func TestRecordsComeBack(t *testing.T) {
	record, exit, life := encoded(t)
	r, err := DecodeRecord(record)
	if diff := cmp.Diff(sampleRecord(), r); err != nil || diff != "" {
		t.Error(err, diff)
	}
	e, err := DecodeExit(exit)
	if diff := cmp.Diff(sampleExit(), e); err != nil || diff != "" {
		t.Error(err, diff)
	}
	l, err := DecodeLife(life)
	if diff := cmp.Diff(sampleLife(), l); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

func TestEveryFlippedBitIsNoticed(t *testing.T) {
	record, exit, life := encoded(t)
	for name, c := range map[string]struct {
		data   []byte
		decode func([]byte) error
	}{
		RecordFile: {record, func(b []byte) error { _, err := DecodeRecord(b); return err }},
		ExitFile:   {exit, func(b []byte) error { _, err := DecodeExit(b); return err }},
		LifeFile:   {life, func(b []byte) error { _, err := DecodeLife(b); return err }},
	} {
		for i := range c.data {
			for bit := range 8 {
				c.data[i] ^= 1 << bit
				if err := c.decode(c.data); !errors.Is(err, ErrDamaged) {
					t.Fatalf("%s, byte %d, bit %d: got %v", name, i, bit, err)
				}
				c.data[i] ^= 1 << bit
			}
		}
		if err := c.decode(c.data[:len(c.data)-1]); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s cut short: got %v", name, err)
		}
	}
}

func TestBlankIsNotDamaged(t *testing.T) {
	block := blankBlock()
	if _, err := DecodeExit(block); !errors.Is(err, ErrBlank) {
		t.Errorf("got %v", err)
	}
	if _, err := DecodeLife(block); !errors.Is(err, ErrBlank) {
		t.Errorf("got %v", err)
	}
	for name, bad := range map[string][]byte{"zeros": make([]byte, BlockSize), "empty": nil, "one flipped": append([]byte{'!'}, block[1:]...)} {
		if _, err := DecodeExit(bad); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestAnyMessageFitsTheBlock(t *testing.T) {
	for name, unit := range map[string]string{"control": "\x01", "html": "<", "invalid": "\xff", "wide": "\u2028", "plain": "x"} {
		e := sampleExit()
		e.Token = strings.Repeat("9", 64)
		e.Message = strings.Repeat(unit, 10_000)
		data, err := EncodeExit(e)
		if err != nil || len(data) != BlockSize {
			t.Errorf("%s: %d bytes, %v", name, len(data), err)
		}
		if got, err := DecodeExit(data); err != nil || got.Code != e.Code || got.Message == "" {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
}

func TestDecodeRequest(t *testing.T) {
	for name, c := range map[string]struct {
		line string
		ok   bool
	}{
		"status":        {`{"v":1,"nonce":"n","op":"status"}`, true},
		"stop":          {`{"v":1,"nonce":"n","op":"stop","grace_s":2.5,"why":"x"}`, true},
		"newer version": {`{"v":2,"nonce":"n","op":"status"}`, false},
		"no version":    {`{"nonce":"n","op":"status"}`, false},
		"unknown field": {`{"v":1,"nonce":"n","op":"status","force":true}`, false},
		"negative":      {`{"v":1,"nonce":"n","op":"stop","grace_s":-1}`, false},
		"endless":       {`{"v":1,"nonce":"n","op":"stop","grace_s":1e300}`, false},
		"two values":    {`{"v":1,"nonce":"n","op":"status"}{}`, false},
		"nothing":       {``, false},
		"no object":     {`[]`, false},
	} {
		if _, err := DecodeRequest([]byte(c.line)); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecodeRecord(f *testing.F) {
	record, exit, _ := encoded(f)
	f.Add(record)
	f.Add(exit)
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := DecodeRecord(data)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		again, err := EncodeRecord(r)
		if err != nil {
			t.Fatal(err)
		}
		if r2, err := DecodeRecord(again); err != nil || !cmp.Equal(r, r2) {
			t.Fatalf("%v: %s", err, cmp.Diff(r, r2))
		}
	})
}

// fuzzBlock gives the fuzzer a chance to get past the checksum: the checksum of its bytes is put right for it.
func fuzzBlock(f *testing.F, sample []byte, decode func([]byte) error) {
	f.Add(sample[:BlockSize-sealSize], true)
	f.Add(sample, false)
	f.Add(blankBlock(), false)
	f.Fuzz(func(t *testing.T, data []byte, mend bool) {
		if mend && len(data) >= BlockSize-sealSize {
			body := data[:BlockSize-sealSize]
			data = append(body[:len(body):len(body)], sealOf(body)...)
		}
		if err := decode(data); err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrBlank) {
			t.Fatalf("an error of another kind: %v", err)
		}
	})
}

func FuzzDecodeExit(f *testing.F) {
	_, exit, _ := encoded(f)
	fuzzBlock(f, exit, func(b []byte) error {
		e, err := DecodeExit(b)
		if err == nil && e.Token == "" {
			return errors.New("an exit of nobody")
		}
		return err
	})
}

func FuzzDecodeLife(f *testing.F) {
	_, _, life := encoded(f)
	fuzzBlock(f, life, func(b []byte) error {
		l, err := DecodeLife(b)
		if err == nil && l.Supervisor.PID < 1 {
			return errors.New("the process of nobody") // kill(0) and kill(-1) would hit everybody
		}
		return err
	})
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add([]byte(`{"v":1,"nonce":"n","op":"stop","grace_s":2.5,"why":"x"}`))
	f.Add([]byte(`{"v":1,"nonce":"n","op":"signal","signal":"SIGUSR1"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := DecodeRequest(data)
		if err == nil && (r.Version != Version || r.GraceS != nil && *r.GraceS < 0) {
			t.Fatalf("accepted %+v", r)
		}
	})
}
