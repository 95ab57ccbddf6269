package supervisor

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Names of the files in an attempt's directory.
const (
	RecordFile    = "attempt.json"
	ExitFile      = "exit.json"
	LifeFile      = "pid.json"
	LogFile       = "out.log"
	SocketFile    = "ctl.sock"
	OwnLogFile    = "supervisor.log"
	TombstoneFile = "tombstone"
)

// ErrLocked is returned when somebody stands over the attempt already.
var ErrLocked = errors.New("a supervisor already stands over this attempt")

// Create makes the directory of an attempt, complete and synced, or leaves nothing under its name. It is built under a
// name that starts with a dot and renamed at the end, so that a crash leaves rubbish that everybody can tell from a
// record.
func Create(dir string, rec Record) error {
	data, err := EncodeRecord(rec)
	if err != nil {
		return err
	}
	parent, name := filepath.Split(filepath.Clean(dir))
	tmp := filepath.Join(parent, ".prepare-"+name)
	if err := os.RemoveAll(tmp); err != nil {
		return fmt.Errorf("create attempt directory: %w", err)
	}
	if err := fill(tmp, data); err != nil {
		return errors.Join(fmt.Errorf("create attempt directory: %w", err), os.RemoveAll(tmp))
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("create attempt directory: %w", fs.ErrExist), os.RemoveAll(tmp))
	}
	if err := os.Rename(tmp, dir); err != nil {
		return errors.Join(fmt.Errorf("create attempt directory: %w", err), os.RemoveAll(tmp))
	}
	return SyncDir(parent)
}

func fill(dir string, record []byte) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		data []byte
		sync bool
	}{
		{RecordFile, record, true},
		{ExitFile, blankBlock(), true},
		{LifeFile, blankBlock(), false}, // counts only within this boot, so it need not survive its end
	} {
		if err := writeFile(filepath.Join(dir, f.name), f.data, f.sync); err != nil {
			return err
		}
	}
	return SyncDir(dir)
}

func writeFile(path string, data []byte, sync bool) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && sync {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// SyncDir makes the names in a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}

// ReadRecord reads attempt.json of the directory.
func ReadRecord(dir string) (Record, error) {
	data, err := readLimited(filepath.Join(dir, RecordFile), maxRecord)
	if err != nil {
		return Record{}, fmt.Errorf("read attempt record: %w", err)
	}
	return DecodeRecord(data)
}

// ReadExit reads exit.json of the directory: ErrBlank before the end.
func ReadExit(dir string) (Exit, error) {
	data, err := readLimited(filepath.Join(dir, ExitFile), BlockSize)
	if err != nil {
		return Exit{}, fmt.Errorf("read exit record: %w", err)
	}
	return DecodeExit(data)
}

// ReadLife reads pid.json of the directory: ErrBlank before the launch.
func ReadLife(dir string) (Life, error) {
	data, err := readLimited(filepath.Join(dir, LifeFile), BlockSize)
	if err != nil {
		return Life{}, fmt.Errorf("read process record: %w", err)
	}
	return DecodeLife(data)
}

// readLimited reads a regular file of at most limit bytes. It does not wait on a fifo somebody put there.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("%w: not a regular file of at most %d bytes", ErrDamaged, limit)
	}
	return io.ReadAll(io.LimitReader(f, limit+1))
}

// WriteExit writes exit.json in place and syncs it. Only the supervisor calls it while it lives; afterwards the daemon
// may, to put down that the supervisor was lost.
func WriteExit(dir string, e Exit) error {
	f, err := os.OpenFile(filepath.Join(dir, ExitFile), os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("write exit record: %w", err)
	}
	return errors.Join(writeExit(f, e), f.Close())
}

func writeExit(f *os.File, e Exit) error {
	data, err := EncodeExit(e)
	if err != nil {
		return err
	}
	if err := writeBlock(f, data); err != nil {
		return fmt.Errorf("write exit record: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write exit record: %w", err)
	}
	return nil
}

func writeBlock(f *os.File, data []byte) error {
	_, err := f.WriteAt(data, 0)
	return err
}

// Bury writes the tombstone: from now on, and after any crash, this attempt cannot be launched.
func Bury(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, TombstoneFile), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("write tombstone: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write tombstone: %w", err)
	}
	return SyncDir(dir)
}

// Buried says whether the attempt has a tombstone.
func Buried(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, TombstoneFile))
	return err == nil
}

// Lock locks the attempt's directory and returns it open. The lock lasts until the last copy of this descriptor is
// closed, in whatever process, so handing it to a child hands over the lock without a gap. ErrLocked if it is held.
func Lock(dir string) (*os.File, error) { return lock(dir, unix.LOCK_EX) }

// Alive says whether somebody holds the lock: a supervisor stands over this attempt.
func Alive(dir string) (bool, error) {
	f, err := lock(dir, unix.LOCK_SH) // shared, so that two who only ask do not see each other
	if errors.Is(err, ErrLocked) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, f.Close()
}

func lock(dir string, how int) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("lock attempt: %w", err)
	}
	err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrLocked
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock attempt: %w", err), f.Close())
	}
	return f, nil
}
