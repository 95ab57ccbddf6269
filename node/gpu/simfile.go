package gpu

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// maxSimFile is the largest description that is read, in bytes.
const maxSimFile = 1 << 20

// simFile is the description of pretended GPUs; DESIGN.md explains it to people.
type simFile struct {
	Count *int     `json:"count"`
	Hang  bool     `json:"hang"`
	GPUs  []simGPU `json:"gpus"`
}

// simGPU changes one pretended GPU; what it leaves out stays as it would be.
type simGPU struct {
	Index       int       `json:"index"`
	UUID        string    `json:"uuid"`
	Name        string    `json:"name"`
	State       State     `json:"state"`
	Missing     bool      `json:"missing"`
	MemoryTotal *uint64   `json:"memory_total"`
	MemoryUsed  *uint64   `json:"memory_used"`
	Utilization *int      `json:"utilization"`
	Temperature *float64  `json:"temperature"`
	Power       *float64  `json:"power"`
	Processes   []Process `json:"processes"`
}

// readSimFile reads a description; one that is not there describes nothing.
func readSimFile(path string) (simFile, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return simFile{}, nil
	}
	if err != nil {
		return simFile{}, fmt.Errorf("read description of simulated GPUs: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSimFile+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return simFile{}, fmt.Errorf("read description of simulated GPUs: %w", err)
	}
	d, err := decodeSimFile(data)
	if err != nil {
		return simFile{}, fmt.Errorf("read description of simulated GPUs %s: %w", path, err)
	}
	return d, nil
}

// decodeSimFile is strict: a word it does not know is an error, since a misspelt one would silently break nothing.
func decodeSimFile(data []byte) (simFile, error) {
	if len(data) > maxSimFile {
		return simFile{}, fmt.Errorf("larger than %d bytes", maxSimFile)
	}
	var d simFile
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return simFile{}, fmt.Errorf("not the JSON that is wanted: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return simFile{}, errors.New("something follows the JSON object; keep one object in the file")
	}
	if err := d.check(); err != nil {
		return simFile{}, err
	}
	return d, nil
}

func (d simFile) check() error {
	if d.Count != nil && (*d.Count < 0 || *d.Count > MaxSimulated) {
		return fmt.Errorf("count is %d; write 0 to %d", *d.Count, MaxSimulated)
	}
	indexes, uuids := map[int]bool{}, map[string]bool{}
	for _, g := range d.GPUs {
		if g.Index < 0 || g.Index >= MaxSimulated {
			return fmt.Errorf("index is %d; write 0 to %d", g.Index, MaxSimulated-1)
		}
		if indexes[g.Index] {
			return fmt.Errorf("index %d is described twice; describe each GPU once", g.Index)
		}
		indexes[g.Index] = true
		if g.UUID != "" && uuids[g.UUID] {
			return fmt.Errorf("uuid %s is given twice; each GPU needs its own", g.UUID)
		}
		uuids[g.UUID] = true
		if err := g.check(); err != nil {
			return fmt.Errorf("gpu %d: %w", g.Index, err)
		}
	}
	return nil
}

func (g simGPU) check() error {
	switch g.State {
	case "", OK, Suspect, Bad, Lost:
	default:
		return fmt.Errorf("state is %q; write ok, suspect, bad or lost", string(g.State))
	}
	if g.UUID != "" && !strings.HasPrefix(g.UUID, "GPU-") {
		return fmt.Errorf("uuid is %q; it begins with GPU-", g.UUID)
	}
	if g.Utilization != nil && (*g.Utilization < 0 || *g.Utilization > 100) {
		return fmt.Errorf("utilization is %d; write 0 to 100", *g.Utilization)
	}
	return nil
}
