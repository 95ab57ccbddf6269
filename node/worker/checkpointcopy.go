package worker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/deveronica/cvlab/fsm"
)

// ErrWrite is wrapped by errors about the place a checkpoint is copied to. They say nothing about the checkpoint.
var ErrWrite = errors.New("the copy could not be written")

// Store reads the published checkpoints that were written on this machine.
type Store struct {
	// RunsDir holds the run directories, as Options.RunsDir.
	RunsDir string
	// Records gives the directory of an attempt's records, where its manifests are.
	Records func(token string) string
}

// Stored is one checkpoint of this machine, open to be read. Close it.
type Stored struct {
	Manifest Manifest
	// Encoded are the bytes whose digest was published.
	Encoded []byte
	run     runFiles
}

// Open finds a published checkpoint by token, number and digest. If it is not here any more, or its manifest is damaged, the error wraps
// ErrDamaged.
func (s Store) Open(k fsm.Checkpoint) (*Stored, error) {
	data, err := os.ReadFile(manifestPath(s.Records(k.Token.String()), k.Seq))
	if err != nil {
		return nil, fmt.Errorf("open checkpoint %d of %s: %w: %w", k.Seq, k.Token, ErrDamaged, err)
	}
	m, err := DecodeManifest(data, k)
	if err != nil {
		return nil, fmt.Errorf("open checkpoint %d of %s: %w", k.Seq, k.Token, err)
	}
	run, err := openRun(s.RunsDir, m.Experiment, m.Attempt)
	if err != nil {
		return nil, fmt.Errorf("open checkpoint %d of %s: %w: %w", k.Seq, k.Token, ErrDamaged, err)
	}
	return &Stored{Manifest: m, Encoded: data, run: run}, nil
}

// Close ends the reading.
func (s *Stored) Close() error { return s.run.close() }

// File opens one of the checkpoint's files. What is read may still be another thing than what was published: whoever reads checks.
func (s *Stored) File(f ManifestFile) (*os.File, error) {
	file, info, err := s.run.open(f.Path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if !info.Mode().IsRegular() || uint64(info.Size()) != f.Size {
		return nil, errors.Join(fmt.Errorf("open %s: %w: it has %d bytes, not %d", f.Path, ErrDamaged, info.Size(), f.Size), file.Close())
	}
	return file, nil
}

// Copy copies a checkpoint of this machine into a directory that it makes, and checks every byte of the copy. Where the
// filesystem can, the copy shares blocks with the original until one of the two is written to; it never shares a file.
// progress is told of every file's bytes; it may be nil. Errors wrap ErrDamaged, ErrWrite or the context's cause.
func (s Store) Copy(ctx context.Context, k fsm.Checkpoint, into string, progress func(bytes int64)) error {
	stored, err := s.Open(k)
	if err != nil {
		return err
	}
	defer stored.Close()
	return receive(ctx, stored.Manifest, into, func(f ManifestFile, to *os.File, sum hash.Hash) error {
		from, err := stored.File(f)
		if err != nil {
			return err
		}
		defer from.Close()
		if unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) == nil {
			return copyBytes(ctx, sum, to, int64(f.Size), progress) // what the copy holds, not what the original does
		}
		return copyBytes(ctx, io.MultiWriter(sum, writer{to}), from, int64(f.Size), progress)
	})
}

// Receive is Copy from another machine: body brings the manifest of size bytes, and then the files in its order.
func Receive(ctx context.Context, k fsm.Checkpoint, size int64, body io.Reader, into string, progress func(bytes int64)) error {
	if size < 0 || size > MaxManifest {
		return fmt.Errorf("receive checkpoint %d of %s: %w: a manifest of %d bytes", k.Seq, k.Token, ErrDamaged, size)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(body, data); err != nil {
		return fmt.Errorf("receive checkpoint %d of %s: read its manifest: %w", k.Seq, k.Token, err)
	}
	m, err := DecodeManifest(data, k)
	if err != nil {
		return fmt.Errorf("receive checkpoint %d of %s: %w", k.Seq, k.Token, err)
	}
	return receive(ctx, m, into, func(f ManifestFile, to *os.File, sum hash.Hash) error {
		return copyBytes(ctx, io.MultiWriter(sum, writer{to}), body, int64(f.Size), progress)
	})
}

// receive makes the files of a checkpoint in a new directory, each filled and summed by fill.
func receive(ctx context.Context, m Manifest, into string, fill func(f ManifestFile, to *os.File, sum hash.Hash) error) error {
	if err := os.Mkdir(into, 0o755); err != nil {
		return fmt.Errorf("copy a checkpoint: %w: %w", ErrWrite, err)
	}
	root, err := os.OpenRoot(into)
	if err != nil {
		return fmt.Errorf("copy a checkpoint: %w: %w", ErrWrite, err)
	}
	defer root.Close()
	for _, f := range m.Files {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("copy a checkpoint: %w", context.Cause(ctx))
		}
		if err := receiveFile(root, path.Base(m.Path)+strings.TrimPrefix(f.Path, m.Path), f, fill); err != nil {
			return fmt.Errorf("copy %s: %w", f.Path, err)
		}
	}
	return nil
}

func receiveFile(root *os.Root, name string, f ManifestFile, fill func(f ManifestFile, to *os.File, sum hash.Hash) error) error {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return fmt.Errorf("%w: %w", ErrWrite, err)
	}
	to, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, fs.FileMode(0o644))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrWrite, err)
	}
	sum := sha256.New()
	if err := fill(f, to, sum); err != nil {
		return errors.Join(err, to.Close())
	}
	info, err := to.Stat()
	if err = errors.Join(err, to.Close()); err != nil {
		return fmt.Errorf("%w: %w", ErrWrite, err)
	}
	if uint64(info.Size()) != f.Size {
		return fmt.Errorf("%w: it has %d bytes, not %d", ErrDamaged, info.Size(), f.Size) // it grew before it was cloned
	}
	if hex.EncodeToString(sum.Sum(nil)) != f.SHA256 {
		return fmt.Errorf("%w: its digest is another one", ErrDamaged)
	}
	return nil
}

// copyBytes copies exactly n bytes.
func copyBytes(ctx context.Context, to io.Writer, from io.Reader, n int64, progress func(int64)) error {
	const piece = 1 << 20
	for n > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		done, err := io.CopyN(to, from, min(n, piece))
		n -= done
		if progress != nil {
			progress(done)
		}
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: %d bytes are missing", io.ErrUnexpectedEOF, n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writer marks the errors of the place that is written to.
type writer struct{ f *os.File }

// Write implements io.Writer.
func (w writer) Write(p []byte) (int, error) {
	n, err := w.f.Write(p)
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrWrite, err)
	}
	return n, err
}
