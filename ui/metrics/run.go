package metrics

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Run is the metrics of one attempt. Update reads what is new in its files; everything else answers from what was read. It is
// safe for use by several goroutines.
type Run struct {
	dir   string // of the attempt's files
	cache string // of the columns

	updating sync.Mutex // one Update at a time

	mu      sync.RWMutex // of what follows, and of the columns' files
	sources map[string]*source
	columns map[int]*column
	next    int // number of the next column
}

// Open takes up the metrics of the attempt whose files are in dir, with its columns in cache. Columns that are damaged are
// made anew by the next Update.
func Open(dir, cache string) (*Run, error) {
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return nil, fmt.Errorf("open metrics: %w", err)
	}
	r := &Run{dir: dir, cache: cache, sources: map[string]*source{}, columns: map[int]*column{}}
	if err := r.load(); err != nil {
		return r, r.forget()
	}
	return r, nil
}

// forget drops all columns, so that everything is read again.
func (r *Run) forget() error {
	r.sources, r.columns, r.next = map[string]*source{}, map[int]*column{}, 0
	if err := errors.Join(os.RemoveAll(r.cache), os.MkdirAll(r.cache, 0o700)); err != nil {
		return fmt.Errorf("drop damaged metrics: %w", err)
	}
	return nil
}

// saved is the index of the columns.
type saved struct {
	Next    int       `json:"next"`
	Sources []*source `json:"sources"`
}

func (r *Run) indexPath() string { return filepath.Join(r.cache, "index") }

// load reads the index: a line with its checksum, then JSON.
func (r *Run) load() error {
	data, err := os.ReadFile(r.indexPath())
	if errors.Is(err, fs.ErrNotExist) {
		return errDamaged // columns without an index are of no use
	}
	if err != nil {
		return err
	}
	var sum uint32
	if len(data) < 9 {
		return errDamaged
	}
	if _, err := fmt.Sscanf(string(data[:8]), "%08x", &sum); err != nil || sum != crc32.ChecksumIEEE(data[9:]) {
		return errDamaged
	}
	var s saved
	if err := json.Unmarshal(data[9:], &s); err != nil {
		return errDamaged
	}
	r.next = s.Next
	for _, src := range s.Sources {
		r.sources[src.File] = src
		for _, k := range src.Keys {
			c := &column{dir: r.cache, id: k.Column, n: k.N}
			if err := c.trim(); err != nil {
				return err
			}
			r.columns[k.Column] = c
		}
	}
	return nil
}

func (r *Run) save() error {
	s := saved{Next: r.next}
	for _, name := range slices.Sorted(maps.Keys(r.sources)) {
		s.Sources = append(s.Sources, r.sources[name])
	}
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("save metrics: %w", err)
	}
	data = append(fmt.Appendf(nil, "%08x\n", crc32.ChecksumIEEE(data)), data...)
	// Not synced: what a power cut takes is read again from the run's files.
	if err := os.WriteFile(r.indexPath()+".new", data, 0o600); err != nil {
		return fmt.Errorf("save metrics: %w", err)
	}
	if err := os.Rename(r.indexPath()+".new", r.indexPath()); err != nil {
		return fmt.Errorf("save metrics: %w", err)
	}
	return nil
}

// Update reads what is new in the attempt's files, and says whether anything was. complete says that the attempt has ended,
// so that a last line without an end is a line. A file that is written anew each time is read whole, but for at most a tenth
// of the time.
func (r *Run) Update(ctx context.Context, now time.Time, complete bool) (changed bool, err error) {
	r.updating.Lock()
	defer r.updating.Unlock()
	root, err := os.OpenRoot(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read metrics: %w", err)
	}
	defer root.Close()
	names, err := find(root)
	if err != nil {
		return false, fmt.Errorf("look for metrics: %w", err)
	}
	var all []error
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return changed, fmt.Errorf("read metrics: %w", err)
		}
		news, err := r.look(root, name, now, complete)
		changed = changed || news
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			all = append(all, err)
		}
	}
	if changed {
		all = append(all, r.save())
	}
	return changed, errors.Join(all...)
}

// look reads one file if it has changed.
func (r *Run) look(root *os.Root, name string, now time.Time, complete bool) (bool, error) {
	f, info, err := openSource(root, name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	old := r.sources[name]
	same := old != nil && old.Size == info.Size() && old.Mtime == info.ModTime().UnixNano() && old.Inode == inode(info)
	if same && (!complete || old.Complete) {
		return false, nil
	}
	s, anew := old, false
	if old == nil || !old.continues(f, info) {
		if old != nil && now.Before(old.rest) && !complete {
			return false, nil
		}
		s, anew = &source{File: name, reader: newReader(name), pending: map[string][]Point{}}, true
	}
	began := time.Now()
	if err := s.read(f, info.Size(), complete, r.store); err != nil {
		return false, errors.Join(err, r.drop(s, anew))
	}
	s.Size, s.Mtime, s.Inode, s.Complete = info.Size(), info.ModTime().UnixNano(), inode(info), complete
	if s.Head, s.Tail, err = probe(f, s.Offset); err != nil {
		return false, errors.Join(err, r.drop(s, anew))
	}
	if anew {
		s.rest = now.Add(10 * time.Since(began))
		return true, r.replace(old, s)
	}
	return true, nil
}

// store writes what a source has waiting into its columns.
func (r *Run) store(s *source) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(s.pending)) {
		points := s.pending[name]
		delete(s.pending, name)
		i := slices.IndexFunc(s.Keys, func(k key) bool { return k.Name == name })
		if i < 0 {
			r.next++
			s.Keys = append(s.Keys, key{Name: name, Column: r.next})
			r.columns[r.next] = &column{dir: r.cache, id: r.next}
			i = len(s.Keys) - 1
		}
		k := &s.Keys[i]
		c := r.columns[k.Column]
		if err := c.append(points); err != nil {
			return err
		}
		for _, p := range points {
			if b := bucketOf(p); k.N == 0 {
				k.All.Bucket = b
			} else {
				k.All.add(&b)
			}
			k.N++
		}
	}
	s.waiting = 0
	return nil
}

// replace lets a source that was read anew take the place of the one before.
func (r *Run) replace(old, s *source) error {
	r.mu.Lock()
	r.sources[s.File] = s
	r.mu.Unlock()
	if old == nil {
		return nil
	}
	return r.dropColumns(old)
}

// drop forgets a source whose reading has failed; one that was read anew leaves the one before in place.
func (r *Run) drop(s *source, anew bool) error {
	if !anew {
		r.mu.Lock()
		delete(r.sources, s.File)
		r.mu.Unlock()
	}
	return r.dropColumns(s)
}

func (r *Run) dropColumns(s *source) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []error
	for _, k := range s.Keys {
		if c := r.columns[k.Column]; c != nil {
			delete(r.columns, k.Column)
			all = append(all, c.remove())
		}
	}
	return errors.Join(all...)
}

// Series is one series of a run as a list shows it.
type Series struct {
	// Key is its name, with the file in front where another file has the same: "logs/a.csv:loss".
	Key  string
	File string
	// All is the whole series: All.Last, All.To (its step), All.Min, All.Max and where they are.
	All    Bucket
	column int
}

// Series lists all series in the order of their keys.
func (r *Run) Series() []Series {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.seriesLocked()
}

func (r *Run) seriesLocked() []Series {
	times := map[string]int{}
	for _, s := range r.sources {
		for _, k := range s.Keys {
			times[k.Name]++
		}
	}
	var list []Series
	for _, s := range r.sources {
		for _, k := range s.Keys {
			name := k.Name
			if times[name] > 1 {
				name = s.File + ":" + name
			}
			list = append(list, Series{Key: name, File: s.File, All: k.All.Bucket, column: k.Column})
		}
	}
	slices.SortFunc(list, func(a, b Series) int { return cmp.Compare(a.Key, b.Key) })
	return list
}

// Dropped says how many values were left out because a file has more than MaxKeys series.
func (r *Run) Dropped() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	n := 0
	for _, s := range r.sources {
		n += s.Dropped
	}
	return n
}

// ErrNoSeries is returned by Chart for a key that the run does not have.
var ErrNoSeries = errors.New("the run has no such metric")

// MaxBuckets is the most that one chart may ask for.
const MaxBuckets = 20_000

// Chart gives the series between two steps in at most want buckets, in the order in which the run wrote them.
func (r *Run) Chart(key string, from, to float64, want int) ([]Bucket, error) {
	if want < 1 || want > MaxBuckets {
		return nil, fmt.Errorf("chart of %q: %d points; ask for 1 to %d", key, want, MaxBuckets)
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	list := r.seriesLocked()
	i := slices.IndexFunc(list, func(s Series) bool { return s.Key == key })
	if i < 0 {
		return nil, fmt.Errorf("chart of %q: %w", key, ErrNoSeries)
	}
	buckets, err := r.columns[list[i].column].chart(new(scratch), from, to, want)
	if err != nil {
		return nil, fmt.Errorf("chart of %q: %w", key, err)
	}
	return buckets, nil
}
