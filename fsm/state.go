package fsm

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-memdb"
)

// State is one replica of the facts. Apply and Restore are called by one caller at a time, in log order; View and
// Changed by anybody at any time.
type State struct {
	db    atomic.Pointer[memdb.MemDB]
	index atomic.Uint64

	mu      sync.Mutex
	changed chan struct{}
}

// New gives the empty state that every log starts from.
func New() *State {
	s := &State{changed: make(chan struct{})}
	s.db.Store(newDB())
	return s
}

func newDB() *memdb.MemDB {
	db, err := memdb.NewMemDB(schema())
	if err != nil {
		// The schema is a constant of this program; a test opens it.
		panic(fmt.Sprintf("fsm: schema: %v", err))
	}
	txn := db.Txn(true)
	must(txn.Insert(tableMeta, &meta{}))
	txn.Commit()
	return db
}

// must stops on what only a wrong schema or a row of the wrong type can cause: a log that cannot be applied.
func must(err error) {
	if err != nil {
		panic(fmt.Sprintf("fsm: %v", err))
	}
}

// Apply changes the facts by one committed entry and answers. The error is not nil only when the entry is not
// understood; the caller must then stop applying for good.
func (s *State) Apply(index uint64, data []byte) (Result, error) {
	e, err := Decode(data)
	if err != nil {
		return Result{}, fmt.Errorf("apply entry %d: %w", index, err)
	}
	t := &tx{txn: s.db.Load().Txn(true), index: index}
	defer t.txn.Abort()
	t.begin(e)
	r := t.run(e)
	if !r.Refused() && !t.repeat {
		t.putMeta()
		t.txn.Commit()
	}
	s.index.Store(index)
	s.wake()
	return r, nil
}

func (s *State) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

// Changed gives a channel that is closed at the next Apply or Restore. Take it before the View it belongs to.
func (s *State) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Index is the log index of the newest applied entry.
func (s *State) Index() uint64 { return s.index.Load() }

// View gives the facts as they are now; it never changes afterwards.
func (s *State) View() View {
	i := s.index.Load()
	return View{txn: s.db.Load().Txn(false), index: i}
}

// tx is one entry being applied.
type tx struct {
	txn    *memdb.Txn
	index  uint64
	by     string
	now    time.Time
	meta   meta
	repeat bool
}

func (t *tx) begin(e Entry) {
	t.meta = *View{txn: t.txn}.meta()
	t.by = e.By
	t.meta.Time = max(t.meta.Time, toNano(e.At))
	t.now = t.meta.Time.Time()
}

func (t *tx) run(e Entry) Result {
	if t.meta.Cluster == "" && e.Command.Kind() != "found" {
		return t.stamp(refuse(Conflict, "the cluster is not founded yet"))
	}
	if e.Key == "" {
		return t.stamp(e.Command.apply(t))
	}
	id, digest := keyID(e.By, e.Key), commandDigest(e.Command)
	if old := first[key](t.txn, tableKeys, "id", textKey(id)); old != nil {
		t.repeat = true
		if string(old.Digest) != string(digest) {
			return t.stamp(refuse(Conflict, "this idempotency key was used for another request; use a new one"))
		}
		return old.Result
	}
	r := t.stamp(e.Command.apply(t))
	if !r.Refused() {
		t.remember(&key{ID: id, Digest: digest, At: t.meta.Time, Result: r})
	}
	return r
}

// keyID makes keys of different users different.
func keyID(user, idempotency string) string { return user + "\x00" + idempotency }

func (t *tx) stamp(r Result) Result {
	r.Index = t.index
	return r
}

func (t *tx) putMeta() {
	m := t.meta
	t.put(tableMeta, &m)
}

func (t *tx) put(table string, record any) { must(t.txn.Insert(table, record)) }

func (t *tx) drop(table string, record any) { must(t.txn.Delete(table, record)) }

func commandDigest(c Command) []byte {
	body, err := json.Marshal(c)
	must(err)
	sum := sha256.Sum256(append([]byte(c.Kind()+"\x00"), body...))
	return sum[:16]
}

// How long an idempotency key is remembered: long enough for a script that was suspended over a holiday, and few enough
// that the table stays a small part of a snapshot.
const (
	keyLife  = 7 * 24 * time.Hour
	keyCount = 200_000
)

// remember stores a key and forgets the oldest ones past their life, a few at a time so that no entry is slow.
func (t *tx) remember(k *key) {
	t.meta.KeySeq++
	k.Seq = t.meta.KeySeq
	t.put(tableKeys, k)
	t.meta.Keys++
	for range 4 {
		oldest := first[key](t.txn, tableKeys, "seq_prefix", nil)
		if oldest == nil || t.meta.Keys <= keyCount && t.meta.Time-oldest.At < nanotime(keyLife) {
			return
		}
		t.drop(tableKeys, oldest)
		t.meta.Keys--
	}
}

// nanotime is a time in nanoseconds since 1970 UTC: comparable, and exact in JSON.
type nanotime int64

func toNano(t time.Time) nanotime {
	if t.IsZero() {
		return 0
	}
	return nanotime(t.UnixNano())
}

// Time gives the time in UTC.
func (n nanotime) Time() time.Time { return time.Unix(0, int64(n)).UTC() }
