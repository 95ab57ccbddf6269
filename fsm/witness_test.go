package fsm_test

import (
	"fmt"
	"maps"
	"slices"

	"github.com/google/go-cmp/cmp"

	"github.com/deveronica/cvlab/fsm"
)

// witness watches a replica and remembers what must stay true. Each check names the invariant it is.
type witness struct {
	t        fataler
	starts   map[fsm.Token]string // boot ID of each applied Start
	newest   fsm.Token
	attempts map[fsm.Token]*fsm.Attempt        // ended ones
	ended    map[uint64]fsm.Experiment         // ended ones
	removed  map[string]bool                   // node IDs
	answers  map[string]map[string]firstAnswer // by user, then key
	time     int64
	reign    uint64
	epoch    uint64
	gone     map[uint64]bool // cancelled, and not taken back by a retry
	files    map[fsm.Token]map[uint64]string // digests of published checkpoints
}

type firstAnswer struct {
	kind   string
	body   string
	result fsm.Result
}

func newWitness(t fataler) *witness {
	return &witness{
		t: t, starts: map[fsm.Token]string{}, attempts: map[fsm.Token]*fsm.Attempt{}, ended: map[uint64]fsm.Experiment{},
		epoch: 1, gone: map[uint64]bool{}, files: map[fsm.Token]map[uint64]string{}, removed: map[string]bool{}, answers: map[string]map[string]firstAnswer{},
	}
}

func (w *witness) failf(format string, args ...any) { w.t.Helper(); w.t.Fatalf(format, args...) }

// saw checks the state after an entry and its answer.
func (w *witness) saw(v fsm.View, e fsm.Entry, r fsm.Result) {
	w.key(e, r)
	if !r.Refused() {
		w.command(v, e, r)
	}
	holders := map[string]fsm.Token{}
	for x := range v.Experiments() {
		w.experiment(v, x, holders)
	}
	w.holds(v, holders)
	w.nodes(v)
	if now := v.Time().UnixNano(); now < w.time {
		w.failf("I18: the state's time went back by %d ns", w.time-now)
	} else {
		w.time = now
	}
}

// key is I10: a key and its request always give the first answer; another request under it never changes anything.
func (w *witness) key(e fsm.Entry, r fsm.Result) {
	if e.Key == "" {
		return
	}
	ofUser := w.answers[e.By]
	if ofUser == nil {
		ofUser = map[string]firstAnswer{}
		w.answers[e.By] = ofUser
	}
	body := string(encode(w.t, fsm.Entry{Command: e.Command}))
	first, known := ofUser[e.Key]
	switch {
	case known && first.body == body:
		if diff := cmp.Diff(first.result, r); diff != "" {
			w.failf("I10: a repeat under key %s is answered differently:\n%s", e.Key, diff)
		}
	case known && r.Code != fsm.Conflict:
		w.failf("I10: key %s was used for a %s and now gives %+v", e.Key, first.kind, r)
	case !known && !r.Refused():
		ofUser[e.Key] = firstAnswer{kind: e.Command.Kind(), body: body, result: r}
	}
}

func (w *witness) command(v fsm.View, e fsm.Entry, r fsm.Result) {
	if r.Index != v.Index() {
		return // a repeat under its key: it changed nothing, and I10 has looked at its answer
	}
	switch c := e.Command.(type) {
	case *fsm.Assign:
		n := v.Node(c.Node)
		if n == nil || n.Removed || n.NoExec {
			w.failf("I5: %+v was accepted by node %+v", c, n)
		}
		for _, uuid := range c.GPUs {
			if !slices.ContainsFunc(n.GPUs, func(g fsm.GPU) bool { return g.UUID == uuid }) {
				w.failf("I5: %s is no GPU of node %s", uuid, c.Node)
			}
		}
		w.assigned(v, c)
		if !w.newest.Less(r.Token) {
			w.failf("I3: token %s after %s", r.Token, w.newest)
		}
		w.newest = r.Token
	case *fsm.Reign:
		w.reign = v.Reign()
	case *fsm.Expire:
		a := v.Attempt(c.Token)
		if before := w.attempts[c.Token]; before != nil {
			w.failf("an Expire was accepted for %s, which had ended", c.Token)
		}
		// I12: nothing of it can have had a lease before its Start.
		if a.Open() || a.Lease == 0 || a.Class != fsm.ClassNodeLost || c.Reign != w.reign || a.StartedAt.IsZero() {
			w.failf("%+v was accepted, reign %d: %+v", c, w.reign, a)
		}
	case *fsm.Start:
		w.starts[c.Token] = c.BootID
	case *fsm.Adopt:
		if a := v.Attempt(c.Token); !a.Adopted && w.starts[c.Token] == "" || c.Token.Epoch >= w.epoch {
			w.failf("%+v was accepted in epoch %d: %+v", c, w.epoch, a)
		}
		w.starts[c.Token] = c.BootID
	case *fsm.NewEpoch:
		if w.epoch++; w.newest.Epoch >= w.epoch {
			w.failf("I3: epoch %d begins after token %s", w.epoch, w.newest)
		}
	case *fsm.Publish:
		w.published(v, c)
	case *fsm.Retry:
		for _, id := range r.Experiments {
			delete(w.ended, id)
			delete(w.gone, id)
		}
	case *fsm.Annotate:
		// People may rename what has ended.
		for _, id := range r.Experiments {
			if _, known := w.ended[id]; known {
				w.ended[id] = *v.Experiment(id)
			}
		}
	case *fsm.Remove:
		w.removed[c.Node] = true
	}
}

// assigned is I8, I14 and, since slots are all the quota there is, I15.
func (w *witness) assigned(v fsm.View, c *fsm.Assign) {
	if w.gone[c.Experiment] {
		w.failf("I8: experiment %d was cancelled and got another attempt", c.Experiment)
	}
	for _, id := range v.Spec(v.Experiment(c.Experiment)).After {
		if id >= c.Experiment || v.Experiment(id).Status != fsm.Completed {
			w.failf("I14: experiment %d was assigned after %d, which is %s", c.Experiment, id, v.Experiment(id).Status)
		}
	}
	slots := 0
	for a := range v.Open(c.Node) {
		if len(a.GPUs) == 0 {
			slots++
		}
	}
	if n := v.Node(c.Node); len(c.GPUs) == 0 && slots > n.CPUSlots {
		w.failf("I15: %d experiments run on the %d CPU slots of %s", slots, n.CPUSlots, c.Node)
	}
}

func (w *witness) experiment(v fsm.View, e *fsm.Experiment, holders map[string]fsm.Token) {
	number, open := 0, 0
	var last *fsm.Attempt
	for a := range v.Attempts(e.ID) {
		number++
		if a.Adopted && a.Number > number {
			number = a.Number // those between are forgotten
		}
		if a.Number != number {
			w.failf("I1: attempt %s of experiment %d has number %d, want %d", a.Token, e.ID, a.Number, number)
		}
		if last != nil && !last.Token.Less(a.Token) {
			w.failf("I3: token %s follows %s in experiment %d", a.Token, last.Token, e.ID)
		}
		if a.Open() {
			open++
			w.open(v, a, holders)
		}
		w.attempt(a)
		last = a
	}
	w.checkpoints(v, e)
	if open > 1 || open == 1 && !last.Open() {
		w.failf("I2: experiment %d has %d open attempts, the newest is %s", e.ID, open, last.State)
	}
	if (e.Status == fsm.Running) != (open == 1) {
		w.failf("I6, I7: experiment %d is %s with %d open attempts", e.ID, e.Status, open)
	}
	if e.Attempts != number || last != nil && e.Token != last.Token {
		w.failf("I1: experiment %d counts %d attempts up to %s, there are %d", e.ID, e.Attempts, e.Token, number)
	}
	if e.Failures > v.Spec(e).Retries || e.Losses > 10 || len(e.Downed) > 3 {
		w.failf("I13: experiment %d spent %d of %d retries and %d of 10 losses", e.ID, e.Failures, v.Spec(e).Retries, e.Losses)
	}
	if before, known := w.ended[e.ID]; known {
		if diff := cmp.Diff(before, *e); diff != "" {
			w.failf("I7: experiment %d had ended and changed:\n%s", e.ID, diff)
		}
	} else if e.Status.Ended() {
		w.ended[e.ID] = *e
	}
	if e.Status == fsm.Cancelled {
		w.gone[e.ID] = true
	}
}

// published is I9: only the current, started attempt publishes, its numbers grow, and what was published never changes.
func (w *witness) published(v fsm.View, c *fsm.Publish) {
	a := v.Attempt(c.Token)
	if a.State != fsm.AttemptStarted || a.Node != c.Node || v.Experiment(a.Experiment).Token != c.Token {
		w.failf("I9: %+v was accepted for %+v", c, a)
	}
	of := w.files[c.Token]
	if of == nil {
		of = map[uint64]string{}
		w.files[c.Token] = of
	}
	for seq, digest := range of {
		if seq > c.Seq && of[c.Seq] == "" || seq == c.Seq && digest != c.Digest {
			w.failf("I9: %+v was accepted after number %d with digest %s", c, seq, digest)
		}
	}
	of[c.Seq] = c.Digest
}

// checkpoints is the rest of I9: what the facts hold is in order, bounded, and was published.
func (w *witness) checkpoints(v fsm.View, e *fsm.Experiment) {
	list := v.Checkpoints(e.ID)
	if len(list) > fsm.KeptCheckpoints {
		w.failf("I9: %d checkpoints of experiment %d are kept", len(list), e.ID)
	}
	for i, c := range list {
		if w.files[c.Token][c.Seq] != c.Digest || v.Attempt(c.Token) == nil {
			w.failf("I9: %+v was never published", c)
		}
		if i > 0 && !list[i].Token.Less(list[i-1].Token) && (c.Token != list[i-1].Token || c.Seq >= list[i-1].Seq) {
			w.failf("I9: checkpoint %+v comes after %+v", list[i-1], c)
		}
	}
}

func (w *witness) open(v fsm.View, a *fsm.Attempt, holders map[string]fsm.Token) {
	if n := v.Node(a.Node); n == nil || n.Removed {
		w.failf("I5: attempt %s is open on %s, which is no member", a.Token, a.Node)
	}
	for _, uuid := range a.GPUs {
		if other, taken := holders[uuid]; taken {
			w.failf("I4: GPU %s is held by %s and %s", uuid, other, a.Token)
		}
		holders[uuid] = a.Token
	}
}

func (w *witness) attempt(a *fsm.Attempt) {
	boot, started := w.starts[a.Token]
	if started != !a.StartedAt.IsZero() || a.BootID != boot || a.State == fsm.AttemptStarted && !started {
		w.failf("I6: attempt %+v, and a Start was applied: %t, boot %q", a, started, boot)
	}
	if a.Open() != (a.Class == "") || !a.Open() && !a.Class.Valid() || a.Open() != a.EndedAt.IsZero() {
		w.failf("I11: attempt %s is %s with class %q, ended at %s", a.Token, a.State, a.Class, a.EndedAt)
	}
	if before := w.attempts[a.Token]; before != nil {
		if diff := cmp.Diff(before, a); diff != "" {
			w.failf("I11: attempt %s had ended and changed:\n%s", a.Token, diff)
		}
	} else if !a.Open() {
		c := *a
		w.attempts[a.Token] = &c
	}
}

// holds is the other half of I4: the table of holds says what the open attempts say.
func (w *witness) holds(v fsm.View, holders map[string]fsm.Token) {
	for _, uuid := range slices.Sorted(maps.Keys(holders)) {
		if h := v.Holder(uuid); h == nil || h.Token != holders[uuid] {
			w.failf("I4: GPU %s is held by %s, and Holder says %+v", uuid, holders[uuid], h)
		}
	}
	for n := range v.Nodes() {
		for _, g := range n.GPUs {
			if h := v.Holder(g.UUID); h != nil && !h.Open() {
				w.failf("I4: GPU %s is held by %s, which is %s", g.UUID, h.Token, h.State)
			}
		}
	}
}

func (w *witness) nodes(v fsm.View) {
	names := map[string]string{}
	for n := range v.Nodes() {
		if w.removed[n.ID] {
			w.failf("I16: node %s was removed and is back", n.ID)
		}
		if other, taken := names[n.Name]; taken {
			w.failf("nodes %s and %s are both named %s", other, n.ID, n.Name)
		}
		names[n.Name] = n.ID
	}
	for id := range w.removed {
		if n := v.Node(id); n == nil || !n.Removed {
			w.failf("I16: the tombstone of %s is gone: %+v", id, n)
		}
	}
}

// same says how two replicas differ, "" if not.
func same(a, b *fsm.State) string {
	if a.View().Digest() == b.View().Digest() && a.Index() == b.Index() {
		return ""
	}
	return fmt.Sprintf("index %d and %d\n%s", a.Index(), b.Index(), cmp.Diff(show(a.View()), show(b.View())))
}
