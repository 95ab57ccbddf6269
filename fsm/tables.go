package fsm

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/hashicorp/go-memdb"
)

// The tables. Every row is a pointer to a record that is never changed after it was inserted.
const (
	tableMeta        = "meta"
	tableExperiments = "experiments"
	tableBatches     = "batches"
	tableAttempts    = "attempts"
	tableHolds       = "holds"
	tableCheckpoints = "checkpoints"
	tableNodes       = "nodes"
	tableAccess      = "access"
	tableKeys        = "keys"
)

// meta is the single row of facts about the cluster itself.
type meta struct {
	Cluster string `json:"cluster"` // ID; empty until founded
	Name    string `json:"name"`
	Epoch   uint64 `json:"epoch"`
	// Time is the greatest At of any applied entry: the state machine's own clock.
	Time        nanotime `json:"time"`
	Experiments uint64   `json:"experiments"` // numbers given out so far
	KeySeq      uint64   `json:"key_seq"`     // keys remembered so far
	Keys        uint64   `json:"keys"`        // keys held now
	// Reign is the log index of the newest Reign.
	Reign uint64 `json:"reign,omitempty"`
	// EpochExperiments is how many experiments there were when the epoch began; a number above it may have been another one before.
	EpochExperiments uint64 `json:"epoch_experiments,omitempty"`
}

// hold says that a GPU belongs to an open attempt.
type hold struct {
	GPU   string `json:"gpu"`
	Token Token  `json:"token"`
}

// key remembers the answer to an entry that carried an idempotency key.
type key struct {
	ID     string   `json:"id"` // user and key
	Seq    uint64   `json:"seq"`
	Digest []byte   `json:"digest"` // of kind and body: the same key for another request is refused
	At     nanotime `json:"at"`
	Result Result   `json:"result"`
}

func schema() *memdb.DBSchema {
	tables := map[string]*memdb.TableSchema{}
	add := func(name string, id memdb.Indexer, more ...*memdb.IndexSchema) {
		indexes := map[string]*memdb.IndexSchema{"id": {Name: "id", Unique: true, Indexer: id}}
		for _, m := range more {
			indexes[m.Name] = m
		}
		tables[name] = &memdb.TableSchema{Name: name, Indexes: indexes}
	}
	add(tableMeta, by(func(*meta) []byte { return []byte{1} }))
	add(tableBatches, by(func(b *Batch) []byte { return be(b.ID) }))
	add(tableExperiments, by(func(e *Experiment) []byte { return be(e.ID) }),
		// Ordered as the planner wants it: greater priority first, then the order of submission.
		&memdb.IndexSchema{Name: "status", Unique: true, Indexer: by(func(e *Experiment) []byte {
			return append(statusPrefix(e.Status), append([]byte{byte(127 - e.Priority)}, be(e.ID)...)...)
		})},
		&memdb.IndexSchema{Name: "modified", Unique: true, Indexer: by(func(e *Experiment) []byte {
			return append(be(e.ModifyIndex), be(e.ID)...)
		})})
	add(tableAttempts, by(func(a *Attempt) []byte { return tokenKey(a.Token) }),
		&memdb.IndexSchema{Name: "experiment", Unique: true, Indexer: by(func(a *Attempt) []byte {
			return append(be(a.Experiment), tokenKey(a.Token)...)
		})},
		&memdb.IndexSchema{Name: "open", Unique: true, AllowMissing: true, Indexer: byMany(func(a *Attempt) [][]byte {
			var keys [][]byte // one per node with an open part
			for _, p := range a.Parts() {
				if a.Open() && p.Open() {
					keys = append(keys, append(textKey(p.Node), tokenKey(a.Token)...))
				}
			}
			return keys
		})})
	add(tableHolds, by(func(h *hold) []byte { return textKey(h.GPU) }))
	add(tableCheckpoints, by(func(c *Checkpoint) []byte { return slices.Concat(be(c.Experiment), tokenKey(c.Token), be(c.Seq)) }))
	add(tableNodes, by(func(n *Node) []byte { return textKey(n.ID) }))
	add(tableAccess, by(func(a *Access) []byte { return textKey(a.ID) }),
		&memdb.IndexSchema{Name: "secret", Unique: true, Indexer: by(func(a *Access) []byte { return textKey(string(a.Secret)) })})
	add(tableKeys, by(func(k *key) []byte { return textKey(k.ID) }),
		&memdb.IndexSchema{Name: "seq", Unique: true, Indexer: by(func(k *key) []byte { return be(k.Seq) })})
	return &memdb.DBSchema{Tables: tables}
}

func be(n uint64) []byte           { return binary.BigEndian.AppendUint64(nil, n) }
func textKey(s string) []byte      { return append([]byte(s), 0) }
func tokenKey(t Token) []byte      { return append(be(t.Epoch), be(t.Index)...) }
func statusPrefix(s Status) []byte { return textKey(string(s)) }

// indexer makes a key from a record; a lookup hands in the finished key.
type indexer[T any] struct{ key func(*T) []byte }

func by[T any](key func(*T) []byte) memdb.Indexer { return indexer[T]{key: key} }

// FromObject implements memdb.SingleIndexer.
func (x indexer[T]) FromObject(record any) (bool, []byte, error) {
	r, isT := record.(*T)
	if !isT {
		return false, nil, fmt.Errorf("index a record of type %T", record)
	}
	k := x.key(r)
	return k != nil, k, nil
}

// FromArgs implements memdb.Indexer: the one argument is the key as bytes.
func (x indexer[T]) FromArgs(args ...any) ([]byte, error) { return oneKey(args) }

// PrefixFromArgs implements memdb.PrefixIndexer.
func (x indexer[T]) PrefixFromArgs(args ...any) ([]byte, error) { return oneKey(args) }

// manyIndexer makes several keys from a record, so that it is found by each.
type manyIndexer[T any] struct{ keys func(*T) [][]byte }

func byMany[T any](keys func(*T) [][]byte) memdb.Indexer { return manyIndexer[T]{keys: keys} }

// FromObject implements memdb.MultiIndexer.
func (x manyIndexer[T]) FromObject(record any) (bool, [][]byte, error) {
	r, isT := record.(*T)
	if !isT {
		return false, nil, fmt.Errorf("index a record of type %T", record)
	}
	k := x.keys(r)
	return len(k) > 0, k, nil
}

// FromArgs implements memdb.Indexer: the one argument is the key as bytes.
func (x manyIndexer[T]) FromArgs(args ...any) ([]byte, error) { return oneKey(args) }

// PrefixFromArgs implements memdb.PrefixIndexer.
func (x manyIndexer[T]) PrefixFromArgs(args ...any) ([]byte, error) { return oneKey(args) }

func oneKey(args []any) ([]byte, error) {
	if len(args) != 1 {
		return nil, fmt.Errorf("look up with %d keys, want 1", len(args))
	}
	k, isBytes := args[0].([]byte)
	if !isBytes {
		return nil, fmt.Errorf("look up with a %T, want bytes", args[0])
	}
	return k, nil
}
