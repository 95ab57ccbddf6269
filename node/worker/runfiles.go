package worker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// runFiles reads below the run directory of one attempt, whose job may put anything there, and may change it meanwhile. It
// never leaves the directory and opens nothing but directories and regular files: no link is followed, no pipe is waited for.
type runFiles struct{ root *os.Root }

var (
	errChanged = errors.New("it was changed while it was read")
	errForeign = errors.New("it is neither a file nor a directory; links, pipes and devices are not followed")
	errTooMany = errors.New("it has too many files")
)

// openRun opens the run directory of an attempt. It is found from the directory of all runs, so that a link in its place is not followed.
func openRun(runsDir string, experiment uint64, attempt int) (runFiles, error) {
	runs, err := os.OpenRoot(runsDir)
	if err != nil {
		return runFiles{}, fmt.Errorf("open the runs: %w", err)
	}
	defer runs.Close()
	dir := path.Join(strconv.FormatUint(experiment, 10), strconv.Itoa(attempt))
	before, err := runFiles{runs}.stat(dir)
	if err != nil {
		return runFiles{}, err
	}
	root, err := runs.OpenRoot(dir)
	if err != nil {
		return runFiles{}, fmt.Errorf("open the run directory: %w", err)
	}
	r := runFiles{root}
	if after, err := root.Stat("."); err != nil || !before.IsDir() || !os.SameFile(before, after) {
		return runFiles{}, errors.Join(fmt.Errorf("open the run directory: %w", errChanged), err, r.close())
	}
	return r, nil
}

func (r runFiles) close() error { return r.root.Close() }

// stat looks at what has the name, through directories only.
func (r runFiles) stat(name string) (fs.FileInfo, error) {
	for i, c := range name {
		if c != '/' {
			continue
		}
		info, err := r.root.Lstat(name[:i])
		if err != nil {
			return nil, fmt.Errorf("look at %s: %w", name, err)
		}
		if !info.IsDir() {
			return nil, fmt.Errorf("look at %s: %w", name[:i], errForeign)
		}
	}
	info, err := r.root.Lstat(name)
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", name, err)
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("look at %s: %w", name, errForeign)
	}
	return info, nil
}

// open opens a file or directory. What is opened is what stat has looked at, whatever was put in its place in between.
func (r runFiles) open(name string) (*os.File, fs.FileInfo, error) {
	before, err := r.stat(name)
	if err != nil {
		return nil, nil, err
	}
	f, err := r.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0) // not blocking: it may be a pipe by now
	if err != nil {
		return nil, nil, fmt.Errorf("open %s: %w", name, err)
	}
	info, err := f.Stat()
	if err != nil || !os.SameFile(before, info) {
		return nil, nil, errors.Join(fmt.Errorf("open %s: %w", name, errChanged), err, f.Close())
	}
	return f, info, nil
}

// found is one file as it was seen.
type found struct {
	path string
	id   stamp
}

// stamp changes when a file is written to or replaced.
type stamp struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

func stampOf(info fs.FileInfo) stamp {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{size: info.Size()}
	}
	return stamp{dev: s.Dev, ino: s.Ino, size: s.Size, mtime: s.Mtim, ctime: s.Ctim}
}

// list gives the files at and below a name, sorted.
func (r runFiles) list(ctx context.Context, name string) ([]found, error) {
	info, err := r.stat(name)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []found{{name, stampOf(info)}}, nil
	}
	var files []found
	if err := r.walk(ctx, name, maxDepth, &files); err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("list %s: %w", name, errEmpty)
	}
	slices.SortFunc(files, func(a, b found) int { return strings.Compare(a.path, b.path) })
	return files, nil
}

var errEmpty = errors.New("it has no files")

// maxDepth is how deep the directories of a checkpoint go.
const maxDepth = 32

func (r runFiles) walk(ctx context.Context, dir string, depth int, files *[]found) error {
	d, _, err := r.open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	for seen := 0; ; {
		entries, err := d.ReadDir(256) // a directory of a million names is not read to its end
		for _, e := range entries {
			if seen++; seen > 2*MaxCheckpointFiles || len(*files) >= MaxCheckpointFiles || depth == 0 || ctx.Err() != nil {
				return errors.Join(fmt.Errorf("list %s: %w", dir, errTooMany), ctx.Err())
			}
			if strings.HasPrefix(e.Name(), announcementPrefix) {
				continue
			}
			name := path.Join(dir, e.Name())
			info, err := r.stat(name)
			switch {
			case err != nil:
				return err
			case !validPath(name):
				return fmt.Errorf("list %s: the name %q is no text", dir, e.Name())
			case info.IsDir():
				if err := r.walk(ctx, name, depth-1, files); err != nil {
					return err
				}
			default:
				*files = append(*files, found{name, stampOf(info)})
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list %s: %w", dir, err)
		}
	}
}

// sum reads everything at and below a name and lists it with digests. Nothing may change from the first look to the last.
func (r runFiles) sum(ctx context.Context, name string, turn func(context.Context) (done func(), err error)) ([]ManifestFile, error) {
	before, err := r.list(ctx, name)
	if err != nil {
		return nil, err
	}
	files := make([]ManifestFile, 0, len(before))
	for _, f := range before {
		done, err := turn(ctx)
		if err != nil {
			return nil, err
		}
		file, err := r.sumFile(ctx, f)
		done()
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	after, err := r.list(ctx, name)
	if err != nil {
		return nil, err
	}
	if !slices.Equal(before, after) {
		return nil, fmt.Errorf("read %s: %w", name, errChanged)
	}
	return files, nil
}

func (r runFiles) sumFile(ctx context.Context, f found) (ManifestFile, error) {
	file, info, err := r.open(f.path)
	if err != nil {
		return ManifestFile{}, err
	}
	defer file.Close()
	if stampOf(info) != f.id {
		return ManifestFile{}, fmt.Errorf("read %s: %w", f.path, errChanged)
	}
	hash := sha256.New()
	n, err := io.Copy(hash, &contextReader{ctx, io.LimitReader(file, f.id.size+1)})
	if err != nil {
		return ManifestFile{}, fmt.Errorf("read %s: %w", f.path, err)
	}
	if n != f.id.size {
		return ManifestFile{}, fmt.Errorf("read %s: %w", f.path, errChanged)
	}
	return ManifestFile{Path: f.path, Size: uint64(n), SHA256: hex.EncodeToString(hash.Sum(nil))}, nil
}

// contextReader ends when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}
