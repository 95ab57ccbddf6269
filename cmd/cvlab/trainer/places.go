package trainer

import (
	"path/filepath"
)

// places is where a run reads and writes.
type places struct {
	logs        string // directory of the CSV and the resolved config
	checkpoints string
	resume      string // file or directory to go on from; empty for a fresh start
}

// newPlaces reads the cluster's variables. What the cluster says to resume from goes before the config, since it is newer.
func newPlaces(cfg Config, getenv func(string) string) places {
	base := getenv("CVLAB_RUN_DIR")
	in := func(path string) string {
		if filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(base, path)
	}
	p := places{logs: in(cfg.LogDir), checkpoints: getenv("CVLAB_CKPT_DIR"), resume: getenv("CVLAB_RESUME_FROM")}
	if p.checkpoints == "" {
		p.checkpoints = filepath.Join(p.logs, cfg.RunName, "checkpoints")
	}
	if p.resume == "" && cfg.Resume != "" {
		p.resume = in(cfg.Resume)
	}
	return p
}
