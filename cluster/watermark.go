package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/deveronica/cvlab/cluster/mesh"
)

// watermarkSize is the size of the file, in bytes: always the same, so that it is written in place by one call.
const watermarkSize = 256

// watermark remembers outside of the log how far the log reaches, in DATA/raft/watermark. A log whose newest entries have
// vanished without a trace would else look whole. It is written without waiting for the disk, so after a power cut it is
// believed only if the stop before was clean; after kill -9 it is exact.
type watermark struct {
	file *os.File
	// trouble is told once if it cannot be written: it is a second proof, not the first.
	trouble func(error)
	mu      sync.Mutex
	now     waterline
	failed  bool
}

// waterline is what a watermark says.
type waterline struct {
	Boot  string `json:"boot"`
	Clean bool   `json:"clean"` // nobody has the log open
	Last  uint64 `json:"last"`  // index of the newest entry the log must have, 0 for none
}

// holds says whether the log cannot have less than the mark says.
func (m waterline) holds(boot string) bool { return m.Clean || m.Boot == boot && boot != "" }

func decodeMark(text []byte) (waterline, error) {
	var m waterline
	body, sealed, err := mesh.Unseal(text)
	if err != nil {
		return m, err
	}
	if !sealed {
		return m, errors.New("it has no checksum")
	}
	return m, json.Unmarshal(body, &m)
}

// readMark gives the mark of a raft directory; found is false if there is none.
func readMark(dir string) (m waterline, found bool, err error) {
	text, err := os.ReadFile(filepath.Join(dir, "watermark"))
	if errors.Is(err, fs.ErrNotExist) {
		return m, false, nil
	}
	if err == nil {
		m, err = decodeMark(text)
	}
	if err != nil {
		return m, false, fmt.Errorf("read watermark: %w", err)
	}
	return m, true, nil
}

// openWatermark marks the log as open, durably: from here on an end without close is not clean.
func openWatermark(dir, boot string, last uint64, trouble func(error)) (*watermark, error) {
	file, err := os.OpenFile(filepath.Join(dir, "watermark"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open watermark: %w", err)
	}
	w := &watermark{file: file, trouble: trouble, now: waterline{Boot: boot, Last: last}}
	if err := errors.Join(w.write(), file.Truncate(watermarkSize), file.Sync()); err != nil {
		return nil, errors.Join(fmt.Errorf("open watermark: %w", err), file.Close())
	}
	return w, nil
}

// reach raises or lowers the mark to the newest entry, after it was stored.
func (w *watermark) reach(last uint64) { w.change(func(m *waterline) { m.Last = last }) }

// shrink lowers the mark before entries are deleted.
func (w *watermark) shrink(low, high uint64) {
	w.change(func(m *waterline) {
		if low <= m.Last && m.Last <= high {
			m.Last = max(low, 1) - 1
		}
	})
}

func (w *watermark) change(f func(*waterline)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.now)
	if err := w.write(); err != nil && !w.failed {
		w.failed = true
		w.trouble(errors.Join(err, os.Remove(w.file.Name()))) // better none than a wrong one
	}
}

func (w *watermark) write() error {
	body, err := json.Marshal(w.now)
	if err != nil {
		return err
	}
	pad := watermarkSize - len(mesh.Seal(body)) - 1
	if pad < 0 {
		return fmt.Errorf("write watermark: %d bytes too long", -pad)
	}
	body = append(body, strings.Repeat(" ", pad)+"\n"...)
	_, err = w.file.WriteAt(mesh.Seal(body), 0)
	return err
}

// close notes a clean stop, durably. Call it when nothing writes to the log any more.
func (w *watermark) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now.Clean = true
	if err := errors.Join(w.write(), w.file.Sync(), w.file.Close()); err != nil {
		return fmt.Errorf("close watermark: %w", err)
	}
	return nil
}

// bootOf names this boot of the machine, "" if that is not known.
func bootOf() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
