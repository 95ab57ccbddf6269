package fsm

import (
	"iter"
	"strings"
	"time"

	"github.com/hashicorp/go-memdb"
)

// View is the facts at one moment. It is cheap, immutable, and may be read by many goroutines. Records it hands out are
// shared: never change them.
type View struct {
	txn   *memdb.Txn
	index uint64
}

// Index is at most the log index of the newest entry the view contains; a reader that follows changes starts from it.
func (v View) Index() uint64 { return v.index }

func (v View) meta() *meta { return first[meta](v.txn, tableMeta, "id", []byte{1}) }

// Cluster gives the cluster's ID, name and epoch; the ID is empty before it was founded.
func (v View) Cluster() (id, name string, epoch uint64) {
	m := v.meta()
	return m.Cluster, m.Name, m.Epoch
}

// EpochExperiments is how many experiments there were when the newest epoch began, 0 in the first. Attempts of these may run
// of which the facts know nothing.
func (v View) EpochExperiments() uint64 { return v.meta().EpochExperiments }

// Time is the state machine's clock: the greatest time of any applied entry.
func (v View) Time() time.Time { return v.meta().Time.Time() }

// Reign is the log index of the newest Reign, 0 before the first.
func (v View) Reign() uint64 { return v.meta().Reign }

// Experiment gives one experiment, nil if there is none.
func (v View) Experiment(id uint64) *Experiment {
	return first[Experiment](v.txn, tableExperiments, "id", be(id))
}

// Batch gives the submission an experiment belongs to, nil if there is none.
func (v View) Batch(id uint64) *Batch { return first[Batch](v.txn, tableBatches, "id", be(id)) }

// Spec gives what an experiment asks for.
func (v View) Spec(e *Experiment) *Spec {
	b := v.Batch(e.Batch)
	if b == nil {
		return &Spec{}
	}
	return &b.Spec
}

// Experiments walks all experiments in the order of their numbers.
func (v View) Experiments() iter.Seq[*Experiment] {
	return all[Experiment](v.txn, tableExperiments, "id_prefix", nil)
}

// Newest walks all experiments from the newest number down.
func (v View) Newest() iter.Seq[*Experiment] {
	return func(yield func(*Experiment) bool) {
		it, err := v.txn.ReverseLowerBound(tableExperiments, "id", be(^uint64(0)))
		must(err)
		for r := it.Next(); r != nil; r = it.Next() {
			if !yield(r.(*Experiment)) {
				return
			}
		}
	}
}

// ByStatus walks the experiments of one status, greater priority first, then in the order of submission.
func (v View) ByStatus(s Status) iter.Seq[*Experiment] {
	return all[Experiment](v.txn, tableExperiments, "status_prefix", statusPrefix(s))
}

// Modified walks the experiments changed by an entry after the given log index, oldest change first.
func (v View) Modified(after uint64) iter.Seq[*Experiment] {
	return func(yield func(*Experiment) bool) {
		it, err := v.txn.LowerBound(tableExperiments, "modified", be(after+1))
		must(err)
		for r := it.Next(); r != nil; r = it.Next() {
			if !yield(r.(*Experiment)) {
				return
			}
		}
	}
}

// Attempt gives one attempt, nil if there is none.
func (v View) Attempt(t Token) *Attempt {
	return first[Attempt](v.txn, tableAttempts, "id", tokenKey(t))
}

// Attempts walks the attempts of one experiment, first to newest.
func (v View) Attempts(experiment uint64) iter.Seq[*Attempt] {
	return all[Attempt](v.txn, tableAttempts, "experiment_prefix", be(experiment))
}

// Open walks the attempts of which a node has an open part, or for "" all open attempts, each once.
func (v View) Open(node string) iter.Seq[*Attempt] {
	if node != "" {
		return all[Attempt](v.txn, tableAttempts, "open_prefix", textKey(node))
	}
	return func(yield func(*Attempt) bool) {
		gangs := map[Token]bool{}
		for a := range all[Attempt](v.txn, tableAttempts, "open_prefix", nil) {
			if gangs[a.Token] {
				continue
			}
			if len(a.Gang) > 0 {
				gangs[a.Token] = true
			}
			if !yield(a) {
				return
			}
		}
	}
}

// Holder gives the open attempt that holds a GPU, nil if it is free.
func (v View) Holder(gpu string) *Attempt {
	h := first[hold](v.txn, tableHolds, "id", textKey(gpu))
	if h == nil {
		return nil
	}
	return v.Attempt(h.Token)
}

// Node gives one node by ID, also a removed one; nil if it was never admitted.
func (v View) Node(id string) *Node { return first[Node](v.txn, tableNodes, "id", textKey(id)) }

// Nodes walks the nodes that are not removed, in the order of their IDs.
func (v View) Nodes() iter.Seq[*Node] {
	return func(yield func(*Node) bool) {
		for n := range all[Node](v.txn, tableNodes, "id_prefix", nil) {
			if !n.Removed && !yield(n) {
				return
			}
		}
	}
}

// FindNode gives the node with that name, ID, or at least six first characters of its ID; nil if there is none or more
// than one.
func (v View) FindNode(word string) *Node {
	var found []*Node
	for n := range v.Nodes() {
		if n.Name == word || n.ID == word {
			return n
		}
		if len(word) >= 6 && strings.HasPrefix(n.ID, word) {
			found = append(found, n)
		}
	}
	if len(found) == 1 {
		return found[0]
	}
	return nil
}

// AccessByID gives a token by its ID, nil if there is none.
func (v View) AccessByID(id string) *Access {
	return first[Access](v.txn, tableAccess, "id", textKey(id))
}

// AccessBySecret gives the token whose stored secret is this one, nil if there is none.
func (v View) AccessBySecret(secret []byte) *Access {
	return first[Access](v.txn, tableAccess, "secret", textKey(string(secret)))
}

// Answered says whether a change of this user with this idempotency key was made: a repeat only answers what it gave.
func (v View) Answered(user, idempotency string) bool {
	return idempotency != "" && first[key](v.txn, tableKeys, "id", textKey(keyID(user, idempotency))) != nil
}

// AllAccess walks the tokens in the order of their IDs.
func (v View) AllAccess() iter.Seq[*Access] { return all[Access](v.txn, tableAccess, "id_prefix", nil) }

// Counts gives the number of experiments in each status.
func (v View) Counts() map[Status]int {
	counts := map[Status]int{}
	for _, s := range Statuses() {
		for range v.ByStatus(s) {
			counts[s]++
		}
	}
	return counts
}

func first[T any](txn *memdb.Txn, table, index string, k []byte) *T {
	r, err := txn.First(table, index, k)
	must(err)
	if r == nil {
		return nil
	}
	return r.(*T)
}

func all[T any](txn *memdb.Txn, table, index string, k []byte) iter.Seq[*T] {
	return func(yield func(*T) bool) {
		it, err := txn.Get(table, index, k)
		must(err)
		for r := it.Next(); r != nil; r = it.Next() {
			if !yield(r.(*T)) {
				return
			}
		}
	}
}
