package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// settings are what a machine's administrator or a user wrote down, in /etc/cvlab/cvlab.yaml or ~/.config/cvlab/cvlab.yaml;
// the user's file wins. Flags and the environment are stronger.
type settings struct {
	ServerURL string            `yaml:"server_url"`
	Token     string            `yaml:"token"`
	DeviceID  string            `yaml:"device_id"`
	DataDir   string            `yaml:"data_dir"`
	HTTP      string            `yaml:"http"`
	Mesh      string            `yaml:"mesh"`
	Gossip    string            `yaml:"gossip"`
	Advertise string            `yaml:"advertise"`
	CPUSlots  int               `yaml:"cpu_slots"`
	Labels    map[string]string `yaml:"labels"`
	Kit       struct {
		Dir     string `yaml:"dir"`
		Command string `yaml:"command"`
	} `yaml:"kit"`
}

func loadSettings() (settings, error) {
	var s settings
	files := []string{"/etc/cvlab/cvlab.yaml"}
	if dir, err := os.UserConfigDir(); err == nil {
		files = append(files, filepath.Join(dir, "cvlab", "cvlab.yaml"))
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return s, fmt.Errorf("read settings: %w", err)
		}
		d := yaml.NewDecoder(bytes.NewReader(text))
		d.KnownFields(true)
		if err := d.Decode(&s); err != nil && !errors.Is(err, io.EOF) {
			return s, fmt.Errorf("read settings in %s: %w", file, err)
		}
	}
	return s, nil
}

// dataDir gives the node's directory and whether somebody named it.
func (p *program) dataDir(s settings) (dir string, named bool) {
	for _, d := range []string{p.data, os.Getenv("CVLAB_DATA_DIR"), s.DataDir} {
		if d != "" {
			return d, true
		}
	}
	if os.Geteuid() == 0 {
		return "/var/lib/cvlab", false
	}
	if d := os.Getenv("XDG_DATA_HOME"); d != "" {
		return filepath.Join(d, "cvlab"), false
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "."
	}
	return filepath.Join(home, ".local", "share", "cvlab"), false
}

// first gives the first word that is not empty.
func first(words ...string) string {
	for _, w := range words {
		if w != "" {
			return w
		}
	}
	return ""
}

// pairs reads key=value flags.
func pairs(flag string, list []string) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	m := map[string]string{}
	for _, kv := range list {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return nil, usage("--%s %q: want KEY=VALUE", flag, kv)
		}
		m[k] = v
	}
	return m, nil
}
