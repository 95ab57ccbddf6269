package executor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/deveronica/cvlab/executor/supervisor"
)

// age makes a tombstone look old.
func (b *bench) age(token string, d time.Duration) {
	b.t.Helper()
	at := time.Now().Add(-d)
	if err := os.Chtimes(filepath.Join(b.dir(token), supervisor.TombstoneFile), at, at); err != nil {
		b.t.Fatal(err)
	}
}

// Old settled attempts lose their records and keep their output; they can still never be launched again. What is not
// settled, or new, is not touched.
func TestTidy(t *testing.T) {
	b := newBench(t)
	for _, token := range []string{"1-1", "1-2", "1-3"} {
		b.start(b.job(token, "echo", "hello"))
		b.wait(token)
	}
	b.start(b.job("1-4", "sleep", "1000"))
	for _, token := range []string{"1-1", "1-2"} {
		if err := b.Forget(t.Context(), token); err != nil {
			t.Fatal(err)
		}
	}
	b.age("1-1", recordsKept+time.Hour)
	b.age("1-2", recordsKept-time.Hour)
	for _, want := range []int{1, 0} {
		if n, err := b.tidy(time.Now()); n != want || err != nil {
			t.Errorf("removed the records of %d attempts, %v; want %d", n, err, want)
		}
	}
	for token, kept := range map[string]bool{"1-1": false, "1-2": true, "1-3": true, "1-4": true} {
		for _, name := range []string{supervisor.RecordFile, supervisor.ExitFile} {
			_, err := os.Lstat(filepath.Join(b.dir(token), name))
			if kept != (err == nil) || err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s of %s: %v, want it kept: %t", name, token, err, kept)
			}
		}
	}
	if got := b.log("1-1"); got != "hello\n" {
		t.Errorf("the output is %q", got)
	}
	if err := b.Prepare(t.Context(), b.job("1-1", "echo", "again")); !errors.Is(err, ErrTombstone) {
		t.Errorf("its token can be used again: %v", err)
	}
	n, found := b.again()
	if _, is := found["1-1"]; is || len(found) != 2 {
		t.Errorf("found %v, want 1-3 and 1-4", found)
	}
	if got := n.Running(); len(got) != 1 {
		t.Errorf("%v run", got)
	}
}

func TestTidyKeepsTheNewest(t *testing.T) {
	b := newBench(t)
	const more = 3
	for i := range recordsMost + more {
		dir := b.dir(fmt.Sprintf("1-%d", i+1))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{supervisor.RecordFile, supervisor.TombstoneFile} {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		b.age(fmt.Sprintf("1-%d", i+1), time.Duration(recordsMost+more-i)*time.Minute)
	}
	if n, err := b.tidy(time.Now()); n != more || err != nil {
		t.Errorf("removed %d, %v; want %d", n, err, more)
	}
	for i := range recordsMost + more {
		_, err := os.Lstat(filepath.Join(b.dir(fmt.Sprintf("1-%d", i+1)), supervisor.RecordFile))
		if (err == nil) != (i >= more) {
			t.Fatalf("record %d: %v", i+1, err)
		}
	}
}
