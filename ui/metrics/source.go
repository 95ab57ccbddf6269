package metrics

import (
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// source is one metrics file and how far it has been read. It is kept on disk beside the columns.
type source struct {
	File   string `json:"file"` // below the run directory
	Inode  uint64 `json:"inode"`
	Offset int64  `json:"offset"` // bytes read
	// Size and Mtime are those of the last look; when both are the same, nothing has changed.
	Size  int64 `json:"size"`
	Mtime int64 `json:"mtime"` // ns since 1970
	// Head and Tail are checksums of the first bytes and of the last ones before Offset. Where they differ, the file was
	// written anew and is read from its beginning.
	Head uint32 `json:"head"`
	Tail uint32 `json:"tail"`
	// Keys are its series, with the numbers of their columns.
	Keys    []key `json:"keys,omitempty"`
	Dropped int   `json:"dropped,omitempty"`
	// Complete says that its last line was read although it had no end.
	Complete bool `json:"complete,omitempty"`

	reader  reader
	rest    time.Time // until then it is not read whole again
	pending map[string][]Point
	waiting int // points in pending
}

// key is one series of a file.
type key struct {
	Name   string `json:"name"`
	Column int    `json:"column"`
	N      int64  `json:"n"`
	// All is the whole series in one bucket, for lists of runs.
	All savedBucket `json:"all"`
}

// savedBucket is a bucket in the form of a column's record: JSON has no words for NaN and the infinities.
type savedBucket struct{ Bucket }

// MarshalText gives the record in base64.
func (b savedBucket) MarshalText() ([]byte, error) {
	return base64.StdEncoding.AppendEncode(nil, putBucket(nil, &b.Bucket)), nil
}

// UnmarshalText reads what MarshalText gives.
func (b *savedBucket) UnmarshalText(text []byte) error {
	record, err := base64.StdEncoding.DecodeString(string(text))
	if err != nil || len(record) != bucketSize {
		return fmt.Errorf("%w: a series' summary of %d bytes", errDamaged, len(record))
	}
	b.Bucket = getBucket(record)
	return nil
}

const (
	// probeSize is how many bytes the checksums cover.
	probeSize = 4 << 10
	// alwaysWhole is the size up to which a changed file is read from its beginning: cvlab-kit writes its table anew for each
	// row and fills in cells of before, which no checksum of two places can see.
	alwaysWhole = 1 << 20
	// piece is how much is read at once, and maxWaiting how many points are held before they are stored.
	piece      = 256 << 10
	maxWaiting = 1 << 16
)

// openSource opens a file for reading, without waiting for a FIFO and without following a link.
func openSource(root *os.Root, name string) (*os.File, os.FileInfo, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("read metrics: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("read metrics: %s: %w", name, err), f.Close())
	}
	return f, info, nil
}

func inode(info os.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}

// continues says whether the file still begins with what was read of it.
func (s *source) continues(f *os.File, info os.FileInfo) bool {
	if s.Offset == 0 || s.reader == nil || s.Inode != inode(info) || info.Size() < s.Offset || info.Size() <= alwaysWhole {
		return false
	}
	head, tail, err := probe(f, s.Offset)
	return err == nil && head == s.Head && tail == s.Tail
}

// probe gives the checksums of the first bytes and of those before offset.
func probe(f *os.File, offset int64) (head, tail uint32, err error) {
	n := min(offset, probeSize)
	b := make([]byte, n)
	if _, err := f.ReadAt(b, 0); err != nil {
		return 0, 0, fmt.Errorf("read metrics: %w", err)
	}
	head = crc32.ChecksumIEEE(b)
	if _, err := f.ReadAt(b, offset-n); err != nil {
		return 0, 0, fmt.Errorf("read metrics: %w", err)
	}
	return head, crc32.ChecksumIEEE(b), nil
}

// read takes what is new in the file up to size and gives it to store in pieces. A file that is complete gives its last line
// too, whose end may be missing.
func (s *source) read(f *os.File, size int64, complete bool, store func(*source) error) error {
	buf := make([]byte, piece)
	sink := func(name string, p Point) {
		s.pending[name] = append(s.pending[name], p)
		s.waiting++
	}
	for s.Offset < size {
		n, err := f.ReadAt(buf[:min(piece, size-s.Offset)], s.Offset)
		if n == 0 {
			if errors.Is(err, io.EOF) {
				break // it was cut short under us; the next look finds out
			}
			return fmt.Errorf("read metrics: %w", err)
		}
		s.reader.Feed(buf[:n], sink)
		s.Offset += int64(n)
		if s.waiting >= maxWaiting {
			if err := store(s); err != nil {
				return err
			}
		}
	}
	if complete {
		s.reader.Flush(sink)
	}
	s.Dropped = s.reader.Dropped()
	return store(s)
}
