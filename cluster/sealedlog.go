package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

// sealedStore puts a checksum on everything it hands to a store below it, and checks it on everything that comes back: the
// store itself would read a flipped bit as a value. What is damaged is never given to raft. Raft panics on an entry that
// it cannot read, without a word to anybody; so a call that met damage tells the seat and does not return.
type sealedStore struct {
	logStore
	path string
	from uint64     // the entries below were written before there were seals
	mark *watermark // how far the log reaches
	// damaged is told once, of the first damage.
	damaged func(error)
	once    sync.Once
	dead    chan struct{} // closed at the first damage
	live    atomic.Bool   // raft runs; before that, whoever opens it gets the error
}

const (
	entrySeal = 1 // version of the seal on an entry; the first byte of its Extensions
	sealWidth = 5 // of the seal on an entry, in bytes: version, CRC-32C
	valueSeal = 4 // of the seal on a value
	// sealedFrom is the key of the first index that carries a seal.
	sealedFrom = "cvlabSealedFrom"
)

func newSealedStore(below logStore, path string, mark *watermark, damaged func(error)) (*sealedStore, error) {
	s := &sealedStore{logStore: below, path: path, mark: mark, damaged: damaged, dead: make(chan struct{})}
	return s, s.adopt()
}

// adopt writes down once from which index on entries carry seals: 1 in a new log. Term and vote of an older one get theirs.
func (s *sealedStore) adopt() error {
	value, err := s.logStore.Get([]byte(sealedFrom))
	if err == nil {
		number, err := unsealValue([]byte(sealedFrom), value)
		if err != nil || len(number) != 8 {
			return damage(s.path, "the value "+sealedFrom, errSeal)
		}
		s.from = binary.BigEndian.Uint64(number)
		return nil
	}
	if !errors.Is(err, raftboltdb.ErrKeyNotFound) {
		return fmt.Errorf("open consensus log: %w", err)
	}
	last, err := s.logStore.LastIndex()
	if err != nil {
		return fmt.Errorf("open consensus log: %w", err)
	}
	for _, key := range stableKeys() {
		value, err := s.logStore.Get([]byte(key))
		if _, already := unsealValue([]byte(key), value); err != nil || already == nil {
			continue // not there, or this was cut short before
		}
		if err := s.logStore.Set([]byte(key), sealValue([]byte(key), value)); err != nil {
			return fmt.Errorf("open consensus log: %w", err)
		}
	}
	s.from = last + 1
	if err := s.logStore.Set([]byte(sealedFrom), sealValue([]byte(sealedFrom), binary.BigEndian.AppendUint64(nil, s.from))); err != nil {
		return fmt.Errorf("open consensus log: %w", err)
	}
	return nil
}

// stableKeys are what raft keeps beside its log.
func stableKeys() []string { return []string{"CurrentTerm", "LastVoteTerm", "LastVoteCand"} }

// guard makes a fault of the memory map, as after a truncation by somebody else, an error instead of the end of the process.
func (s *sealedStore) guard(op func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = damage(s.path, "what was read of it", fmt.Errorf("%v", r))
		}
		if errors.Is(err, ErrDamaged) && s.live.Load() {
			s.once.Do(func() { close(s.dead); s.damaged(err) })
			select {} // raft would panic; the seat ends with the sentence instead
		}
	}()
	return op()
}

func (s *sealedStore) isDead() bool {
	select {
	case <-s.dead:
		return true
	default:
		return false
	}
}

// FirstIndex implements raft.LogStore.
func (s *sealedStore) FirstIndex() (index uint64, err error) {
	err = s.guard(func() error { index, err = s.logStore.FirstIndex(); return err })
	return index, err
}

// LastIndex implements raft.LogStore.
func (s *sealedStore) LastIndex() (index uint64, err error) {
	err = s.guard(func() error { index, err = s.logStore.LastIndex(); return err })
	return index, err
}

// GetLog implements raft.LogStore.
func (s *sealedStore) GetLog(index uint64, l *raft.Log) error {
	return s.guard(func() error {
		err := s.logStore.GetLog(index, l)
		if errors.Is(err, raft.ErrLogNotFound) || errors.Is(err, bbolt.ErrDatabaseNotOpen) {
			return err
		}
		if err == nil {
			err = unsealEntry(l, index, s.from)
		}
		if err != nil {
			return damage(s.path, fmt.Sprintf("entry %d", index), err)
		}
		return nil
	})
}

// StoreLog implements raft.LogStore.
func (s *sealedStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore. The entries themselves stay as they are: raft goes on using them.
func (s *sealedStore) StoreLogs(logs []*raft.Log) error {
	sealed := make([]raft.Log, len(logs))
	list := make([]*raft.Log, len(logs))
	for i, l := range logs {
		sealed[i] = *l
		sealed[i].Extensions = sealEntry(l)
		list[i] = &sealed[i]
	}
	err := s.guard(func() error { return s.logStore.StoreLogs(list) })
	if err == nil && len(logs) > 0 {
		s.mark.reach(logs[len(logs)-1].Index)
	}
	return err
}

// DeleteRange implements raft.LogStore.
func (s *sealedStore) DeleteRange(low, high uint64) error {
	s.mark.shrink(low, high) // first: the log must never end before its mark
	return s.guard(func() error { return s.logStore.DeleteRange(low, high) })
}

// Set implements raft.StableStore.
func (s *sealedStore) Set(key, value []byte) error {
	return s.guard(func() error { return s.logStore.Set(key, sealValue(key, value)) })
}

// Get implements raft.StableStore. A key that is not there gives the error of the store below, whose text raft knows.
func (s *sealedStore) Get(key []byte) (value []byte, err error) {
	err = s.guard(func() error {
		sealed, err := s.logStore.Get(key)
		if err != nil {
			return err
		}
		if value, err = unsealValue(key, sealed); err != nil {
			return damage(s.path, "the value "+string(key), err)
		}
		return nil
	})
	return value, err
}

// SetUint64 implements raft.StableStore.
func (s *sealedStore) SetUint64(key []byte, n uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, n))
}

// GetUint64 implements raft.StableStore.
func (s *sealedStore) GetUint64(key []byte) (uint64, error) {
	value, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(value) != 8 {
		return 0, fmt.Errorf("value of %s has %d bytes", key, len(value))
	}
	return binary.BigEndian.Uint64(value), nil
}

var errSeal = errors.New("its checksum is wrong")

func entrySum(l *raft.Log, more []byte) uint32 {
	head := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, l.Index), l.Term)
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Checksum(append(head, byte(l.Type)), table)
	return crc32.Update(crc32.Update(sum, table, l.Data), table, more)
}

// sealEntry gives the Extensions of an entry with its seal in front.
func sealEntry(l *raft.Log) []byte {
	seal := binary.BigEndian.AppendUint32([]byte{entrySeal}, entrySum(l, l.Extensions))
	return append(seal, l.Extensions...)
}

// unsealEntry checks the seal and takes it off.
func unsealEntry(l *raft.Log, index, from uint64) error {
	if l.Index != index {
		return fmt.Errorf("it says that it is entry %d", l.Index)
	}
	if index < from && len(l.Extensions) == 0 {
		return nil
	}
	if len(l.Extensions) < sealWidth || l.Extensions[0] != entrySeal {
		return errors.New("it carries no checksum")
	}
	more := l.Extensions[sealWidth:]
	if binary.BigEndian.Uint32(l.Extensions[1:]) != entrySum(l, more) {
		return errSeal
	}
	if l.Extensions = more; len(more) == 0 {
		l.Extensions = nil
	}
	return nil
}

func valueSum(key, value []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(key, table), table, value)
}

func sealValue(key, value []byte) []byte {
	return binary.BigEndian.AppendUint32(append([]byte{}, value...), valueSum(key, value))
}

func unsealValue(key, sealed []byte) ([]byte, error) {
	cut := len(sealed) - valueSeal
	if cut < 0 || binary.BigEndian.Uint32(sealed[cut:]) != valueSum(key, sealed[:cut]) {
		return nil, errSeal
	}
	return sealed[:cut], nil
}
