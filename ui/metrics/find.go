package metrics

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// Limits of the search for metrics files in one run directory.
const (
	// MaxFiles is how many files are read; those that come first by name.
	MaxFiles = 64
	// maxEntries is how many entries of the directory are looked at.
	maxEntries = 20_000
	maxDirs    = 8 // how deep
)

// reader takes a file's bytes in order.
type reader interface {
	Feed(data []byte, sink Sink)
	// Flush reads what stands behind the last line's end.
	Flush(sink Sink)
	Dropped() int
}

// newReader gives the reader for a file by its name, nil if it holds no metrics.
func newReader(name string) reader {
	base := path.Base(name)
	switch {
	case strings.HasSuffix(base, ".csv"):
		return newCSVReader()
	case strings.HasSuffix(base, ".jsonl"):
		return new(jsonReader)
	case strings.Contains(base, ".tfevents."):
		return new(eventReader)
	}
	return nil
}

// skipped are directories that hold no metrics: what the run reads, and what it resumes from.
func skipped(name string) bool {
	return strings.HasPrefix(name, ".") || slices.Contains([]string{"data", "checkpoints", "resume", "node_modules", "__pycache__"}, name)
}

// find lists the metrics files below the root, by name. Links are not followed.
func find(root *os.Root) ([]string, error) {
	var found []string
	seen := 0
	err := fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			if name == "." {
				return err
			}
			return fs.SkipDir // gone, or not for us to read
		}
		if seen++; seen > maxEntries {
			return fs.SkipAll
		}
		if d.IsDir() {
			if name != "." && (skipped(d.Name()) || strings.Count(name, "/") >= maxDirs) {
				return fs.SkipDir
			}
			return nil
		}
		if d.Type().IsRegular() && newReader(name) != nil {
			found = append(found, name)
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return found[:min(len(found), MaxFiles)], err
}
