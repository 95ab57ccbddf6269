package supervisor

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// RenamesFile is where a supervisor notes what its job has renamed into its checkpoint directory.
const RenamesFile = "renames.json"

// KeptRenames is how many names the notes hold: more than a job finishes between two looks of the daemon, and few enough
// to write anew each time.
const KeptRenames = 64

// checkpointVar names the directory in the job's environment.
const checkpointVar = "CVLAB_CKPT_DIR"

// Renames are the newest names that a job has renamed into its checkpoint directory, the oldest first. Only a rename is
// noted, since only it says that what has the name is whole. The supervisor notes them because it is there when the daemon is not.
type Renames struct {
	Version int      `json:"version"`
	Count   uint64   `json:"count"` // all that were seen
	Newest  []Rename `json:"newest"`
}

// Rename is one name, with the number of its newest rename, counted from 1.
type Rename struct {
	N    uint64 `json:"n"`
	Name string `json:"name"`
}

// Note adds a name. A name that is no text is left out.
func (r *Renames) Note(name string) {
	if name == "" || !utf8.ValidString(name) {
		return
	}
	r.Count++
	r.Newest = slices.DeleteFunc(r.Newest, func(o Rename) bool { return o.Name == name })
	r.Newest = append(r.Newest, Rename{N: r.Count, Name: name})
	if n := len(r.Newest) - KeptRenames; n > 0 {
		r.Newest = slices.Delete(r.Newest, 0, n)
	}
}

// WriteRenames replaces the notes of an attempt as a whole. They are not synced: no attempt outlives this boot.
func WriteRenames(dir string, r Renames) error {
	r.Version = Version
	data, err := seal(r, 0)
	if err != nil {
		return fmt.Errorf("write renames: %w", err)
	}
	tmp := filepath.Join(dir, "."+RenamesFile)
	err = os.WriteFile(tmp, data, 0o600)
	if err == nil {
		err = os.Rename(tmp, filepath.Join(dir, RenamesFile))
	}
	if err != nil {
		return fmt.Errorf("write renames: %w", err)
	}
	return nil
}

// ReadRenames reads the notes of an attempt. An error wraps fs.ErrNotExist before the first rename, else ErrDamaged.
func ReadRenames(dir string) (Renames, error) {
	data, err := os.ReadFile(filepath.Join(dir, RenamesFile))
	if err != nil {
		return Renames{}, fmt.Errorf("read renames: %w", err)
	}
	return DecodeRenames(data)
}

// DecodeRenames reads the bytes of renames.json. Errors wrap ErrDamaged.
func DecodeRenames(data []byte) (Renames, error) {
	var r Renames
	if err := unseal(data, &r); err != nil {
		return Renames{}, fmt.Errorf("decode renames: %w", err)
	}
	if r.Version != Version || len(r.Newest) > KeptRenames {
		return Renames{}, fmt.Errorf("decode renames: %w: version or length", ErrDamaged)
	}
	last := uint64(0)
	for _, one := range r.Newest {
		if one.N <= last || one.N > r.Count || one.Name == "" || strings.ContainsAny(one.Name, "/\x00") || one.Name == "." || one.Name == ".." {
			return Renames{}, fmt.Errorf("decode renames: %w: %q at %d", ErrDamaged, one.Name, one.N)
		}
		last = one.N
	}
	return r, nil
}

// renames watches one directory. fsnotify would not do: it reports a rename into place and the creation of a file that is
// yet to be written as the same event.
type renames struct {
	f     *os.File // the inotify instance
	watch string   // the directory
	path  string   // of the attempt
	log   *slog.Logger
	known Renames
}

// noteRenames begins to note renames, before the job's first instruction, and gives a function that ends it when all that
// have happened are noted. Without inotify nothing is noted, and the job runs all the same.
func (s *standing) noteRenames() func() {
	r, err := s.watchRenames()
	if err != nil {
		s.log.Info("renames of checkpoints are not seen; only those announced by cvlab ckpt done count", "error", err)
	}
	if r == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.run(ctx) })
	return func() {
		cancel()
		running.Wait()
	}
}

func (s *standing) watchRenames() (*renames, error) {
	i := slices.IndexFunc(s.rec.Env, func(kv string) bool { return strings.HasPrefix(kv, checkpointVar+"=") })
	if i < 0 {
		return nil, nil
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch checkpoints: %w", err)
	}
	r := &renames{f: os.NewFile(uintptr(fd), "inotify"), watch: s.rec.Env[i][len(checkpointVar)+1:], path: s.path, log: s.log}
	if err := r.add(); err != nil {
		return nil, errors.Join(err, r.f.Close())
	}
	return r, nil
}

// add watches the directory that has the name now. A job may have replaced it.
func (r *renames) add() error {
	conn, err := r.f.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch checkpoints: %w", err)
	}
	var added error
	err = conn.Control(func(fd uintptr) {
		_, added = unix.InotifyAddWatch(int(fd), r.watch, unix.IN_MOVED_TO|unix.IN_MOVE_SELF|unix.IN_ONLYDIR|unix.IN_DONT_FOLLOW)
	})
	if err := errors.Join(err, added); err != nil {
		return fmt.Errorf("watch checkpoints: %w", err)
	}
	return nil
}

// calm is the least time between two writes of the notes: a job that renames a thousand files a second costs ten writes.
const calm = 100 * time.Millisecond

// run notes until ctx ends, and then what has happened up to then.
func (r *renames) run(ctx context.Context) {
	defer r.f.Close()
	stop := context.AfterFunc(ctx, func() { _ = r.f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 64<<10)
	for {
		n, err := r.f.Read(buf)
		if err != nil {
			if ctx.Err() == nil {
				r.log.Error("watch checkpoints", "error", err)
			}
			break
		}
		lost := r.take(buf[:n])
		sleep(ctx, calm)
		lost = r.drain(buf) || lost
		r.store()
		for lost && ctx.Err() == nil && r.add() != nil {
			sleep(ctx, time.Second) // until the job has made the directory again
		}
	}
	r.drain(buf)
	r.store()
}

// drain takes what has happened already, without waiting.
func (r *renames) drain(buf []byte) (lost bool) {
	conn, err := r.f.SyscallConn()
	if err != nil {
		return false
	}
	_ = conn.Control(func(fd uintptr) {
		for {
			n, err := unix.Read(int(fd), buf)
			if err != nil || n <= 0 {
				return
			}
			lost = r.take(buf[:n]) || lost
		}
	})
	return lost
}

// take reads events and says whether the directory is not watched any more.
func (r *renames) take(events []byte) (lost bool) {
	for len(events) >= unix.SizeofInotifyEvent {
		mask := binary.NativeEndian.Uint32(events[4:])
		size := int(binary.NativeEndian.Uint32(events[12:]))
		events = events[unix.SizeofInotifyEvent:]
		if size > len(events) {
			return lost
		}
		if mask&unix.IN_MOVED_TO != 0 {
			name, _, _ := bytes.Cut(events[:size], []byte{0})
			r.known.Note(string(name))
		}
		lost = lost || mask&(unix.IN_IGNORED|unix.IN_MOVE_SELF) != 0
		events = events[size:]
	}
	return lost
}

func (r *renames) store() {
	if r.known.Count == 0 {
		return
	}
	if err := WriteRenames(r.path, r.known); err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.log.Error("note renamed checkpoints", "error", err) // the next rename writes these too
	}
}
