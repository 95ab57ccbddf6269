package fsm

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// snapshotFormat is the version of the snapshot's lines; it grows only when an older program could misread them.
const snapshotFormat = 1

type snapshotHeader struct {
	Format int    `json:"format"`
	Index  uint64 `json:"index"`
}

type snapshotLine struct {
	Table  string          `json:"table"`
	Record json.RawMessage `json:"record"`
}

// snapshotEnd closes a snapshot, so that one that was cut off is not taken for a whole one.
type snapshotEnd struct {
	Lines  int    `json:"lines"`
	SHA256 string `json:"sha256"` // of all lines before
}

// tableOrder is the order of a snapshot's tables; records stand in the order of their IDs, so equal states give equal bytes.
func tableOrder() []string {
	return []string{tableMeta, tableNodes, tableAccess, tableBatches, tableExperiments, tableAttempts, tableHolds, tableCheckpoints, tableKeys}
}

func newRecord(table string) any {
	switch table {
	case tableMeta:
		return new(meta)
	case tableNodes:
		return new(Node)
	case tableAccess:
		return new(Access)
	case tableBatches:
		return new(Batch)
	case tableExperiments:
		return new(Experiment)
	case tableAttempts:
		return new(Attempt)
	case tableHolds:
		return new(hold)
	case tableCheckpoints:
		return new(Checkpoint)
	case tableKeys:
		return new(key)
	}
	return nil
}

// Write writes the whole view as lines of JSON: a header, the records, and an end with count and checksum.
func (v View) Write(w io.Writer) error {
	out := bufio.NewWriter(w)
	sum := sha256.New()
	lines := 0
	put := func(value any) error {
		line, err := json.Marshal(value)
		if err != nil {
			return fmt.Errorf("write snapshot: %w", err)
		}
		line = append(line, '\n')
		sum.Write(line)
		lines++
		if _, err := out.Write(line); err != nil {
			return fmt.Errorf("write snapshot: %w", err)
		}
		return nil
	}
	if err := put(snapshotHeader{Format: snapshotFormat, Index: v.index}); err != nil {
		return err
	}
	if err := v.writeRecords(put); err != nil {
		return err
	}
	if _, err := out.Write(endLine(lines, sum.Sum(nil))); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

// endLine is the last line of a snapshot of so many lines.
func endLine(lines int, sum []byte) []byte {
	line, err := json.Marshal(snapshotEnd{Lines: lines, SHA256: hex.EncodeToString(sum)})
	must(err)
	return append(line, '\n')
}

func (v View) writeRecords(put func(any) error) error {
	for _, table := range tableOrder() {
		it, err := v.txn.Get(table, "id_prefix", []byte(nil))
		must(err)
		for r := it.Next(); r != nil; r = it.Next() {
			record, err := json.Marshal(r)
			if err != nil {
				return fmt.Errorf("write snapshot: %s: %w", table, err)
			}
			if err := put(snapshotLine{Table: table, Record: record}); err != nil {
				return err
			}
		}
	}
	return nil
}

// Digest is the SHA-256 of all records; two replicas at the same log index have the same.
func (v View) Digest() [32]byte {
	sum := sha256.New()
	must(v.writeRecords(func(value any) error { return json.NewEncoder(sum).Encode(value) }))
	return [32]byte(sum.Sum(nil))
}

// ErrDamagedSnapshot marks a snapshot that is cut off, changed, or from a program that this one cannot read.
var ErrDamagedSnapshot = errors.New("snapshot is damaged or from a newer version of cvlab")

// Restore replaces the whole state by a snapshot. Everything that can fail happens before anything is replaced.
func (s *State) Restore(r io.Reader) error {
	db := newDB()
	txn := db.Txn(true)
	defer txn.Abort()
	in := bufio.NewReader(r)
	sum := sha256.New()
	var index uint64
	for lines := 0; ; lines++ {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return fmt.Errorf("%w: line %d: %w", ErrDamagedSnapshot, lines+1, err)
		}
		if end := (snapshotEnd{}); decodeStrict(line, &end) == nil && end.SHA256 != "" {
			// Compared as bytes: JSON would also read "Lines", which is one flipped bit away.
			if !bytes.Equal(line, endLine(lines, sum.Sum(nil))) {
				return fmt.Errorf("%w: checksum differs after %d lines", ErrDamagedSnapshot, lines)
			}
			break
		}
		sum.Write(line)
		if lines == 0 {
			if index, err = readHeader(line); err != nil {
				return err
			}
			continue
		}
		table, record, err := readRecord(line)
		if err != nil {
			return fmt.Errorf("%w: line %d: %w", ErrDamagedSnapshot, lines+1, err)
		}
		if err := txn.Insert(table, record); err != nil {
			return fmt.Errorf("%w: line %d: %w", ErrDamagedSnapshot, lines+1, err)
		}
	}
	txn.Commit()
	s.db.Store(db)
	s.index.Store(index)
	s.wake()
	return nil
}

func readHeader(line []byte) (uint64, error) {
	var h snapshotHeader
	if err := decodeStrict(line, &h); err != nil {
		return 0, fmt.Errorf("%w: header: %w", ErrDamagedSnapshot, err)
	}
	if h.Format != snapshotFormat {
		return 0, fmt.Errorf("%w: format %d, this program reads %d", ErrDamagedSnapshot, h.Format, snapshotFormat)
	}
	return h.Index, nil
}

func readRecord(line []byte) (string, any, error) {
	var l snapshotLine
	if err := decodeStrict(bytes.TrimRight(line, "\n"), &l); err != nil {
		return "", nil, err
	}
	record := newRecord(l.Table)
	if record == nil {
		return "", nil, fmt.Errorf("table %q is not known", l.Table)
	}
	if err := decodeStrict(l.Record, record); err != nil {
		return "", nil, fmt.Errorf("record of %s: %w", l.Table, err)
	}
	return l.Table, record, nil
}
