package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// mark is what a job writes about itself. Times are of the wall clock, in nanoseconds since 1970: all processes of a
// measurement share one computer and so one clock.
type mark struct {
	Node  string `json:"node"`
	Slot  string `json:"slot"` // CUDA_VISIBLE_DEVICES
	Start int64  `json:"start"`
	End   int64  `json:"end"`
}

// stamp is the program "stamp FILE [DURATION]" that jobs run: it notes when it started, lasts as long as told, notes when
// it ends, and writes both. The file appears only when it is complete.
func stamp(args []string, stderr io.Writer) int {
	m := mark{Start: time.Now().UnixNano(), Node: os.Getenv("CVLAB_NODE"), Slot: os.Getenv("CUDA_VISIBLE_DEVICES")}
	if len(args) < 1 || len(args) > 2 {
		fmt.Fprintln(stderr, "usage: stamp FILE [DURATION]")
		return 2
	}
	if len(args) == 2 {
		d, err := time.ParseDuration(args[1])
		if err != nil {
			fmt.Fprintln(stderr, "stamp:", err)
			return 2
		}
		<-time.After(d)
	}
	m.End = time.Now().UnixNano()
	if err := writeMark(args[0], m); err != nil {
		fmt.Fprintln(stderr, "stamp:", err)
		return 1
	}
	return 0
}

func writeMark(path string, m mark) error {
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode mark: %w", err)
	}
	if err := os.WriteFile(path+".new", data, 0o644); err != nil {
		return fmt.Errorf("write mark: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write mark: %w", err)
	}
	return nil
}

// readMark reads a mark; there is none yet when ok is false.
func readMark(path string) (m mark, ok bool, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, false, nil
	}
	if err != nil {
		return m, false, fmt.Errorf("read mark: %w", err)
	}
	if err := json.Unmarshal(bytes.TrimSpace(data), &m); err != nil {
		return m, false, fmt.Errorf("read mark %s: %w", path, err)
	}
	return m, true, nil
}
