package trainer

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
)

// keepNewest is how many checkpoints stay besides the best one. More than one, since the newest may turn out damaged.
const keepNewest = 3

// maxCheckpointBytes bounds what is read into memory; the largest model here makes some 70 MB.
const maxCheckpointBytes = 256 << 20

var storedName = regexp.MustCompile(`^epoch_(\d{4,9})(?:_batch_(\d{4,9}))?\.ckpt$`)

// stored is a checkpoint file of a directory, by its name.
type stored struct {
	name         string
	epoch, batch int
}

func (s stored) compare(o stored) int {
	return cmp.Or(cmp.Compare(s.epoch, o.epoch), cmp.Compare(s.batch, o.batch))
}

func storedAt(p position) stored {
	s := stored{epoch: p.Epoch, batch: p.Batch, name: fmt.Sprintf("epoch_%04d.ckpt", p.Epoch)}
	if p.Batch > 0 {
		s.name = fmt.Sprintf("epoch_%04d_batch_%04d.ckpt", p.Epoch, p.Batch)
	}
	return s
}

// listStored returns the checkpoints of a directory, the oldest first. A directory that is not there has none.
func listStored(dir string) ([]stored, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the checkpoints: %w", err)
	}
	var out []stored
	for _, e := range entries {
		m := storedName.FindStringSubmatch(e.Name())
		if m == nil || !e.Type().IsRegular() {
			continue
		}
		epoch, _ := strconv.Atoi(m[1]) // the pattern has at most nine digits
		batch, _ := strconv.Atoi(m[2])
		out = append(out, stored{name: e.Name(), epoch: epoch, batch: batch})
	}
	slices.SortFunc(out, stored.compare)
	return out, nil
}

// saveCheckpoint writes c into dir and then prunes it. Nothing is removed before the new one is on the disk.
func saveCheckpoint(dir string, c checkpoint) (path string, err error) {
	data, err := c.encode()
	if err != nil {
		return "", err
	}
	now := storedAt(c.At)
	path = filepath.Join(dir, now.name)
	if err := writeFile(path, data); err != nil {
		return "", err
	}
	if err := prune(dir, c.At, now); err != nil {
		return "", err
	}
	return path, nil
}

// prune removes what nobody needs any more: all but the newest and the best, and those of a later position, which belong to a
// run that this one has replaced.
func prune(dir string, at position, now stored) error {
	list, err := listStored(dir)
	if err != nil {
		return err
	}
	best := storedAt(position{Epoch: bestStep(at.History)}).name
	older := slices.DeleteFunc(slices.Clone(list), func(s stored) bool { return s.compare(now) > 0 })
	keep := older[max(0, len(older)-keepNewest):]
	// What a killed process has left half written has no other owner.
	gone, err := filepath.Glob(filepath.Join(dir, ".epoch_*.ckpt.part"))
	if err != nil {
		return fmt.Errorf("list unfinished checkpoints: %w", err)
	}
	for _, s := range list {
		if s.name != best && !slices.Contains(keep, s) {
			gone = append(gone, filepath.Join(dir, s.name))
		}
	}
	for _, path := range gone {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove an old checkpoint: %w", err)
		}
	}
	return nil
}

// loadCheckpoint reads a checkpoint file, or the newest undamaged one of a directory. Each damaged one that is passed over
// is given to damaged. If none is left, or the path is that of a damaged file, the error wraps ErrDamaged and names it.
func loadCheckpoint(path string, damaged func(error)) (c checkpoint, from string, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return checkpoint{}, "", fmt.Errorf("resume: %w", err)
	}
	if !info.IsDir() {
		c, err := readCheckpoint(path)
		return c, path, err
	}
	list, err := listStored(path)
	if err != nil {
		return checkpoint{}, "", err
	}
	if len(list) == 0 {
		return checkpoint{}, "", fmt.Errorf("resume: no checkpoint (epoch_0001.ckpt or so) in %s", path)
	}
	for i, s := range slices.Backward(list) {
		from = filepath.Join(path, s.name)
		c, err = readCheckpoint(from)
		if err == nil || i == 0 || !errors.Is(err, ErrDamaged) {
			return c, from, err
		}
		damaged(err)
	}
	return c, from, err
}

func readCheckpoint(path string) (checkpoint, error) {
	f, err := os.Open(path)
	if err != nil {
		return checkpoint{}, fmt.Errorf("resume: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxCheckpointBytes+1))
	if err != nil {
		return checkpoint{}, fmt.Errorf("resume from %s: %w", path, err)
	}
	if len(data) > maxCheckpointBytes {
		return checkpoint{}, fmt.Errorf("resume from %s: %w: it is larger than any that this program writes", path, ErrDamaged)
	}
	c, err := decodeCheckpoint(data)
	if err != nil {
		return checkpoint{}, fmt.Errorf("resume from %s: %w", path, err)
	}
	return c, nil
}
