package supervisor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func makeAttempt(t *testing.T) (string, Record) {
	t.Helper()
	rec := sampleRecord()
	rec.Dir, rec.Argv = t.TempDir(), []string{"true"}
	dir := filepath.Join(t.TempDir(), rec.Token)
	if err := Create(dir, rec); err != nil {
		t.Fatal(err)
	}
	return dir, rec
}

func TestCreate(t *testing.T) {
	dir, rec := makeAttempt(t)
	if got, err := ReadRecord(dir); err != nil || got.Nonce != rec.Nonce {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := ReadExit(dir); !errors.Is(err, ErrBlank) {
		t.Errorf("exit: %v", err)
	}
	if _, err := ReadLife(dir); !errors.Is(err, ErrBlank) {
		t.Errorf("life: %v", err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("others can look in: %v, %v", info.Mode(), err)
	}
	if err := os.Mkdir(filepath.Join(filepath.Dir(dir), ".prepare-"+rec.Token), 0o700); err != nil { // from a crash
		t.Fatal(err)
	}
	if err := Create(dir, rec); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over an old one: %v", err)
	}
	if left, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(left) != 1 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestExitIsPaidForInAdvance(t *testing.T) {
	dir, _ := makeAttempt(t)
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, ExitFile), &st); err != nil {
		t.Fatal(err)
	}
	if st.Size != BlockSize || st.Blocks*512 < BlockSize {
		t.Errorf("size %d, %d blocks: a hole", st.Size, st.Blocks)
	}
	before := st.Ino
	if err := WriteExit(dir, sampleExit()); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat(filepath.Join(dir, ExitFile), &st); err != nil || st.Ino != before || st.Size != BlockSize {
		t.Errorf("not in place: %+v, %v", st, err)
	}
}

func TestLockIsHandedOverWithoutAGap(t *testing.T) {
	dir, _ := makeAttempt(t)
	first, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("second lock: %v", err)
	}
	fd, err := unix.Dup(int(first.Fd())) // what a child inherits
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	if alive, err := Alive(dir); err != nil || !alive {
		t.Errorf("alive %v, %v", alive, err)
	}
	unix.Close(fd)
	if alive, err := Alive(dir); err != nil || alive {
		t.Errorf("alive %v, %v", alive, err)
	}
	a, errA := lock(dir, unix.LOCK_SH) // two who only ask
	b, errB := lock(dir, unix.LOCK_SH)
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	a.Close()
	b.Close()
}

func TestReadersRefuseWhatIsNoFile(t *testing.T) {
	for name, lay := range map[string]func(path string) error{
		"fifo":      func(p string) error { return unix.Mkfifo(p, 0o600) }, // would block for ever
		"link":      func(p string) error { return os.Symlink("/etc/passwd", p) },
		"directory": func(p string) error { return os.Mkdir(p, 0o700) },
		"huge":      func(p string) error { return errors.Join(os.WriteFile(p, nil, 0o600), os.Truncate(p, 1<<40)) },
		"missing":   func(string) error { return nil },
	} {
		dir := t.TempDir()
		for _, file := range []string{RecordFile, ExitFile, LifeFile} {
			if err := lay(filepath.Join(dir, file)); err != nil {
				t.Fatal(err)
			}
		}
		_, errRecord := ReadRecord(dir)
		_, errExit := ReadExit(dir)
		_, errLife := ReadLife(dir)
		for _, err := range []error{errRecord, errExit, errLife} {
			if err == nil || errors.Is(err, ErrBlank) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// What was launched, has ended or is settled must never run again, whoever starts the supervisor.
func TestRunRefusesASecondLife(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(dir string) error
		says  string
	}{
		"settled":   {Bury, "settled"},
		"ended":     {func(d string) error { return WriteExit(d, sampleExit()) }, "exit record already"},
		"no exit":   {func(d string) error { return os.Remove(filepath.Join(d, ExitFile)) }, "exit record"},
		"damaged":   {func(d string) error { return os.Truncate(filepath.Join(d, RecordFile), 20) }, "damaged"},
		"launched":  {putLife, "launched before"},
		"no record": {func(d string) error { return os.Remove(filepath.Join(d, RecordFile)) }, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _ := makeAttempt(t)
			if err := c.spoil(dir); err != nil {
				t.Fatal(err)
			}
			err := Run(t.Context(), dir, logger(t))
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v", err)
			}
			if _, err := os.Stat(filepath.Join(dir, LogFile)); err == nil {
				t.Error("something ran")
			}
		})
	}
}

func putLife(dir string) error {
	data, err := EncodeLife(sampleLife())
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, LifeFile), data, 0o600)
}

func TestCommandUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"a", "b"}} {
		var said strings.Builder
		if code := Command(args, &said); code != 2 || !strings.Contains(said.String(), "usage") {
			t.Errorf("%v: code %d, %q", args, code, said.String())
		}
	}
	if code := Command([]string{"/no/such/dir"}, t.Output()); code != 1 {
		t.Errorf("code %d", code)
	}
}
