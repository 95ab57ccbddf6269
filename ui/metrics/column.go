package metrics

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// column is one series on disk: a file of points, and above it files in which each record stands for fan records of the file
// below. A chart of a thousand spots reads a few thousand records of one file, however long the series is.
type column struct {
	dir string
	id  int
	n   int64 // points
}

const (
	// fan is how many records one record of the next level stands for.
	fan = 16
	// maxLevel reaches 16^9 points.
	maxLevel = 9
)

func (c *column) path(level int) string {
	return filepath.Join(c.dir, strconv.Itoa(c.id)+"."+strconv.Itoa(level))
}

// records gives how many whole records a level has for n points.
func records(n int64, level int) int64 {
	for range level {
		n /= fan
	}
	return n
}

// append writes points and the levels above them. After an error the files may be longer than n says; trim mends that.
func (c *column) append(points []Point) error {
	data := make([]byte, 0, len(points)*pointSize)
	for _, p := range points {
		data = putPoint(data, p)
	}
	if err := appendFile(c.path(0), data); err != nil {
		return fmt.Errorf("store series: %w", err)
	}
	before := c.n
	c.n += int64(len(points))
	for level := 1; level <= maxLevel && records(c.n, level) > 0; level++ {
		if err := c.summarize(level, records(before, level), records(c.n, level)); err != nil {
			return fmt.Errorf("store series: %w", err)
		}
	}
	return nil
}

// summarize writes the records from (included) to (not included) of a level from the level below.
func (c *column) summarize(level int, from, to int64) error {
	if from == to {
		return nil
	}
	var s scratch
	if err := c.read(&s, level-1, from*fan, to*fan); err != nil {
		return err
	}
	data := make([]byte, 0, (to-from)*bucketSize)
	for i := 0; i < len(s.list); i += fan {
		b := s.list[i]
		for j := i + 1; j < i+fan; j++ {
			b.add(&s.list[j])
		}
		data = putBucket(data, &b)
	}
	return appendFile(c.path(level), data)
}

// scratch is memory that is used again for the next read.
type scratch struct {
	data []byte
	list []Bucket
}

// read fills the scratch's list with the records from (included) to (not included) of a level; points become buckets of one.
func (c *column) read(s *scratch, level int, from, to int64) error {
	s.list = s.list[:0]
	if from >= to {
		return nil
	}
	size := int64(bucketSize)
	if level == 0 {
		size = pointSize
	}
	f, err := os.Open(c.path(level))
	if err != nil {
		return fmt.Errorf("read series: %w", err)
	}
	defer f.Close()
	s.data = slices.Grow(s.data[:0], int((to-from)*size))[:(to-from)*size]
	if _, err := f.ReadAt(s.data, from*size); err != nil {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%s is shorter than it should be: %w", f.Name(), errDamaged)
		}
		return fmt.Errorf("read series: %w", err)
	}
	s.list = slices.Grow(s.list, int(to-from))[:to-from]
	for i := range s.list {
		if level == 0 {
			s.list[i] = bucketOf(getPoint(s.data[i*pointSize:]))
		} else {
			s.list[i] = getBucket(s.data[i*bucketSize:])
		}
	}
	return nil
}

// trim cuts what was written after the last save.
func (c *column) trim() error {
	for level := 0; level <= maxLevel; level++ {
		size := records(c.n, level) * bucketSize
		if level == 0 {
			size = c.n * pointSize
		}
		info, err := os.Stat(c.path(level))
		switch {
		case errors.Is(err, fs.ErrNotExist) && size == 0:
			continue
		case err != nil:
			return fmt.Errorf("open series: %w", err)
		case info.Size() < size:
			return fmt.Errorf("open series: %s has %d of %d bytes: %w", c.path(level), info.Size(), size, errDamaged)
		case info.Size() > size:
			if err := os.Truncate(c.path(level), size); err != nil {
				return fmt.Errorf("open series: %w", err)
			}
		}
	}
	return nil
}

// remove deletes the files.
func (c *column) remove() error {
	for level := 0; level <= maxLevel; level++ {
		if err := os.Remove(c.path(level)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("drop series: %w", err)
		}
	}
	c.n = 0
	return nil
}

func appendFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// errDamaged marks columns that do not hold what they should. They are made anew from the run's files.
var errDamaged = errors.New("damaged")

// chart gives the points from step low to step high in at most want buckets, in the order in which they were written.
func (c *column) chart(s *scratch, low, high float64, want int) ([]Bucket, error) {
	level := 0
	for level < maxLevel && records(c.n, level+1) >= int64(want) {
		level++
	}
	// A narrow window needs finer records. They are looked for only where the coarser ones were.
	part := stretch{0, c.n}
	for {
		list, found, err := c.window(s, level, part, low, high, want)
		if err != nil {
			return nil, err
		}
		if level == 0 || list.seen >= want {
			return list.done(), nil
		}
		level--
		part = found
	}
}

// stretch is a part of a column, in points.
type stretch struct{ from, to int64 }

// window gives the records of a level in the stretch that touch low to high, then the finer ones of what no record of the
// level stands for yet; and the stretch they are in.
func (c *column) window(s *scratch, level int, in stretch, low, high float64, want int) (list merged, found stretch, err error) {
	list.want = want
	found.from = -1
	at := in.from
	for l := level; l >= 0; l-- {
		width := int64(1)
		for range l {
			width *= fan
		}
		from, to := at/width, min(in.to/width, records(c.n, l))
		for from < to {
			end := min(from+scanPiece, to)
			if err := c.read(s, l, from, end); err != nil {
				return list, found, err
			}
			for i := range s.list {
				if s.list[i].To < low || s.list[i].From > high {
					continue
				}
				list.add(&s.list[i])
				if found.from < 0 {
					found.from = (from + int64(i)) * width
				}
				found.to = (from + int64(i) + 1) * width
			}
			from = end
		}
		at = max(at, to*width)
	}
	found.from = max(found.from, 0)
	return list, found, nil
}

// scanPiece is how many records are read at once.
const scanPiece = 8192

// merged takes any number of buckets and holds less than four times as many as are wanted, by joining neighbours.
type merged struct {
	want, seen int
	width      int // how many of what it took make one of its buckets; a power of two
	in         int // how many are in the last one
	list       []Bucket
}

func (m *merged) add(b *Bucket) {
	m.seen++
	if m.width == 0 {
		m.width = 1
		m.list = make([]Bucket, 0, 4*m.want)
	}
	if m.in > 0 && m.in < m.width {
		m.list[len(m.list)-1].add(b)
		m.in++
		return
	}
	if len(m.list) == 4*m.want {
		m.list = shrink(m.list, len(m.list)/2)
		m.width *= 2
	}
	m.list = append(m.list, *b)
	m.in = 1
}

// done gives at most want buckets.
func (m *merged) done() []Bucket {
	if len(m.list) <= m.want {
		return m.list
	}
	return shrink(m.list, m.want)
}

// shrink joins neighbours in place until so many are left.
func shrink(list []Bucket, want int) []Bucket {
	for i := range want {
		lo, hi := i*len(list)/want, (i+1)*len(list)/want
		b := list[lo]
		for j := lo + 1; j < hi; j++ {
			b.add(&list[j])
		}
		list[i] = b
	}
	return list[:want]
}
