package worker

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// announcement is what `cvlab ckpt done` leaves in the checkpoint directory: a job's word that something is whole. It works
// through the file system alone, so a job needs no token and no daemon.
type announcement struct {
	Version int    `json:"version"`
	Path    string `json:"path"` // below the run directory, with slashes
}

const (
	announcementVersion = 1
	announcementPrefix  = ".done-"
	maxAnnouncement     = 4 << 10
)

// Announce tells the daemon of this machine that path, below runDir, is a whole checkpoint. checkpoints is the job's CVLAB_CKPT_DIR.
// It returns when that is written down; it is published when the daemon has read all of it.
func Announce(runDir, checkpoints, path string) error {
	below, err := belowRun(runDir, path)
	if err != nil {
		return err
	}
	data, err := json.Marshal(announcement{Version: announcementVersion, Path: below})
	if err != nil {
		return fmt.Errorf("announce %s: %w", path, err)
	}
	name := announcementPrefix + rand.Text()
	tmp := filepath.Join(checkpoints, ".new"+name)
	err = os.WriteFile(tmp, data, 0o644)
	if err == nil {
		// By rename, so that nobody reads half of it, and so that the supervisor sees it.
		err = os.Rename(tmp, filepath.Join(checkpoints, name))
	}
	if err != nil {
		return fmt.Errorf("announce %s: %w", path, errors.Join(err, remove(tmp)))
	}
	return nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// belowRun gives the path below the run directory. Links are resolved here, by the job itself, since the daemon follows none.
func belowRun(runDir, path string) (string, error) {
	run, err := filepath.EvalSymlinks(runDir)
	if err != nil {
		return "", fmt.Errorf("find the run directory: %w", err)
	}
	abs, err := filepath.Abs(path)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return "", fmt.Errorf("find the checkpoint: %w", err)
	}
	below, err := filepath.Rel(run, abs)
	if err != nil || !validCheckpointPath(filepath.ToSlash(below)) {
		return "", fmt.Errorf("%s is not below the run directory %s; only what is written there is looked after", path, run)
	}
	return filepath.ToSlash(below), nil
}

// decodeAnnouncement reads what anybody may have written.
func decodeAnnouncement(data []byte) (path string, err error) {
	var a announcement
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&a); err != nil {
		return "", fmt.Errorf("read an announcement: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return "", errors.New("read an announcement: something follows it")
	}
	if a.Version != announcementVersion || !validCheckpointPath(a.Path) {
		return "", fmt.Errorf("read an announcement: version %d, path %q", a.Version, a.Path)
	}
	return a.Path, nil
}

// unfinished says of a name that what has it is not meant to be looked at.
func unfinished(name string) bool {
	return strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".tmp") || strings.HasSuffix(name, ".part")
}
