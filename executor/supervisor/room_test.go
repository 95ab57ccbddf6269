package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// smallDisk gives a file on a disk of 8 MiB, and fills what is left when asked to.
func smallDisk(t *testing.T) (out *os.File, fill func()) {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("cvlab", dir, "tmpfs", 0, "size=8m"); err != nil {
		if os.Getenv("CI") != "" && os.Geteuid() == 0 {
			t.Fatal(err)
		}
		t.Skipf("needs the right to mount a small tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	out, err := os.OpenFile(filepath.Join(dir, LogFile), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	return out, func() {
		f, err := os.OpenFile(filepath.Join(dir, "filler"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for err == nil {
			_, err = f.Write(make([]byte, block))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// A job goes on printing on a full disk: first into what was kept, then at the cost of its own middle. What is dropped is said
// in the output, and no offset moves.
func TestOutputOnAFullDisk(t *testing.T) {
	out, fill := smallDisk(t)
	r := newOutputRoom(out, out.Name(), quiet())
	if r.ahead != 128<<10 {
		t.Fatalf("%d bytes are kept on a disk of 8 MiB", r.ahead)
	}
	printed := 0
	print := func(lines int) {
		t.Helper()
		for range lines {
			printed++
			if _, err := fmt.Fprintf(out, "line %06d %084d\n", printed, 0); err != nil { // 97 bytes
				t.Fatalf("line %d could not be printed: %v", printed, err)
			}
			if err := r.look(); err != nil {
				t.Fatal(err)
			}
		}
	}
	print(20_000) // 2 MB
	fill()
	print(60_000) // 6 MB more than there is room for
	text, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	if len(text) != printed*97 {
		t.Fatalf("%d bytes of output, want %d", len(text), printed*97)
	}
	first, last := fmt.Appendf(nil, "line %06d", 1), fmt.Appendf(nil, "line %06d", printed)
	note := []byte("[cvlab: the disk was full; ")
	if !bytes.HasPrefix(text, first) || !bytes.Contains(text[len(text)-200:], last) || bytes.Count(text, note) != 1 {
		t.Errorf("begins %.20q, ends %q, %d notes", text, text[len(text)-97:], bytes.Count(text, note))
	}
	if r.hole.from != r.ahead || !bytes.Equal(text[r.hole.from+1:][:len(note)], note) {
		t.Errorf("the hole is %+v", r.hole)
	}
	// Everything else is as it was printed.
	for n := 1; n <= printed; n++ {
		at := int64(n-1) * 97
		if at+97 > r.hole.from && at < r.hole.to {
			continue
		}
		if want := fmt.Sprintf("line %06d %084d\n", n, 0); string(text[at:at+97]) != want {
			t.Fatalf("at %d stands %q", at, text[at:at+97])
		}
	}
}

// What was kept is given back at the end, and costs nothing where nothing is printed.
func TestRoomIsGivenBack(t *testing.T) {
	out, _ := smallDisk(t)
	r := newOutputRoom(out, out.Name(), quiet())
	blocks := func() int64 {
		var st unix.Stat_t
		if err := unix.Fstat(int(out.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks * 512
	}
	if err := r.look(); err != nil {
		t.Fatal(err)
	}
	if blocks() < r.ahead {
		t.Errorf("%d bytes are kept, want %d", blocks(), r.ahead)
	}
	if _, err := out.WriteString("one line\n"); err != nil {
		t.Fatal(err)
	}
	r.release()
	if info, err := out.Stat(); err != nil || info.Size() != 9 || blocks() != block {
		t.Errorf("%v, %v, %d bytes of blocks", info.Size(), err, blocks())
	}
}

// Where room cannot be kept, that is said once and the job goes on without.
func TestRoomWhereThereIsNone(t *testing.T) {
	f, err := os.OpenFile("/dev/null", os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var said bytes.Buffer
	r := newOutputRoom(f, f.Name(), slog.New(slog.NewTextHandler(&said, nil)))
	r.run(t.Context()) // comes back although the context goes on
	if n := bytes.Count(said.Bytes(), []byte("keep room")); n != 1 {
		t.Errorf("said %d times: %s", n, said.String())
	}
}
