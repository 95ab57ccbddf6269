package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Running is what a node tells the programs of its own machine: where it is, in DATA/node.json.
type Running struct {
	PID  int    `json:"pid"`
	Node string `json:"node"` // ID
	Name string `json:"name"`
	HTTP string `json:"http"` // URL, on loopback
	Mesh string `json:"mesh"` // host:port that others join
}

// ReadRunning reads DATA/node.json; it is left behind when a node was killed.
func ReadRunning(dataDir string) (Running, error) {
	var r Running
	data, err := os.ReadFile(filepath.Join(dataDir, "node.json"))
	if err != nil {
		return r, fmt.Errorf("read where the node is: %w", err)
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("read where the node is: %w", err)
	}
	return r, nil
}

// ReadToken reads the token that the node of this data directory accepts from programs on its own machine.
func ReadToken(dataDir string) (string, error) {
	data, err := os.ReadFile(filepath.Join(dataDir, "token"))
	if err != nil {
		return "", fmt.Errorf("read the node's token: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// writeFile replaces a file as a whole: readers see the old one or the new one, also after a crash.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// lock takes the data directory for this process, so that two nodes never share one.
func lock(dataDir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dataDir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if r, rerr := ReadRunning(dataDir); rerr == nil {
			return nil, fmt.Errorf("lock %s: another node (process %d, %s) uses it; stop it first, or choose another directory with --data", dataDir, r.PID, r.HTTP)
		}
		return nil, fmt.Errorf("lock %s: another node uses it: %w", dataDir, err)
	}
	return f, nil
}

func marshalRunning(r Running) ([]byte, error) {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write where the node is: %w", err)
	}
	return append(data, '\n'), nil
}

// Locked says whether a node runs on the data directory.
func Locked(dataDir string) bool {
	if _, err := os.Stat(filepath.Join(dataDir, "lock")); err != nil {
		return false
	}
	f, err := lock(dataDir)
	if err != nil {
		return true
	}
	f.Close()
	return false
}
