package fsm_test

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/deveronica/cvlab/fsm"
)

// witness watches a replica and remembers what must stay true. Each check names the invariant it is.
type witness struct {
	t        fataler
	starts   map[fsm.Token]map[string]string // boot ID of each applied Start, by node
	newest   fsm.Token
	parts    map[fsm.Token]map[string]fsm.Part // ended ones, by node
	attempts map[fsm.Token]*fsm.Attempt        // ended ones
	ended    map[uint64]fsm.Experiment         // ended ones
	removed  map[string]bool                   // node IDs
	answers  map[string]map[string]firstAnswer // by user, then key
	time     int64
	reign    uint64
	epoch    uint64
	gone     map[uint64]bool                 // cancelled, and not taken back by a retry
	files    map[fsm.Token]map[uint64]string // digests of published checkpoints
}

type firstAnswer struct {
	kind   string
	body   string
	result fsm.Result
}

func newWitness(t fataler) *witness {
	return &witness{
		t: t, starts: map[fsm.Token]map[string]string{}, parts: map[fsm.Token]map[string]fsm.Part{}, attempts: map[fsm.Token]*fsm.Attempt{}, ended: map[uint64]fsm.Experiment{},
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
	w.proofs(v, e.Command)
	holders := map[string]fsm.Token{}
	for x := range v.Experiments() {
		w.experiment(v, x, holders)
	}
	w.holds(v, holders)
	w.nodes(v)
	w.walks(v)
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
		if diff := gocmp.Diff(first.result, r); diff != "" {
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
		w.assigned(v, c, v.Attempt(r.Token))
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
		p := a.On(cmp.Or(c.Node, a.Node))
		if p == nil || len(a.Gang) > 0 && c.Node == "" || w.parts[c.Token][p.Node].Class != "" {
			w.failf("R12: %+v was accepted, not for an open part: %+v", c, a)
		}
		// I12: nothing of it can have had a lease before its Start.
		if p.Open() || a.Lease == 0 || p.Class != fsm.ClassNodeLost || c.Reign != w.reign || a.StartedAt.IsZero() {
			w.failf("%+v was accepted, reign %d: %+v", c, w.reign, a)
		}
	case *fsm.Withdraw:
		if a := v.Attempt(c.Token); a.Open() || !a.StartedAt.IsZero() {
			w.failf("R2: %+v was accepted for what may run: %+v", c, a)
		}
	case *fsm.Start:
		w.started(c.Token, c.Node, c.BootID)
	case *fsm.Adopt:
		a := v.Attempt(c.Token)
		if !a.Adopted && w.starts[c.Token] == nil || c.Token.Epoch >= w.epoch || len(a.Gang) > 0 || v.Spec(v.Experiment(c.Experiment)).Device.Nodes > 1 {
			w.failf("%+v was accepted in epoch %d: %+v", c, w.epoch, a)
		}
		w.started(c.Token, c.Node, c.BootID)
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
	case *fsm.Update:
		// Else a gang would start with a part that has gone, and nobody would launch it.
		for a := range v.Open(c.Node.ID) {
			if p := a.On(c.Node.ID); c.Node.BootID != "" && p.BootID != "" && p.BootID != c.Node.BootID {
				w.failf("R7: %+v was accepted, and this is open: %+v", c, a)
			}
		}
	case *fsm.Remove:
		w.removed[c.Node] = true
	}
}

// started remembers that a Start was applied; a part never has two of different boots.
func (w *witness) started(token fsm.Token, node, boot string) {
	of := w.starts[token]
	if of == nil {
		of = map[string]string{}
		w.starts[token] = of
	}
	if before, known := of[node]; known && before != boot {
		w.failf("I6: %s on %s was started in boot %q and again in %q", token, node, before, boot)
	}
	of[node] = boot
}

// assigned is I5, I8, I14 and, since slots are all the quota there is, I15.
func (w *witness) assigned(v fsm.View, c *fsm.Assign, a *fsm.Attempt) {
	if w.gone[c.Experiment] {
		w.failf("I8: experiment %d was cancelled and got another attempt", c.Experiment)
	}
	spec := v.Spec(v.Experiment(c.Experiment))
	for _, id := range spec.After {
		if id >= c.Experiment || v.Experiment(id).Status != fsm.Completed {
			w.failf("I14: experiment %d was assigned after %d, which is %s", c.Experiment, id, v.Experiment(id).Status)
		}
	}
	if len(a.Parts()) != max(1, spec.Device.Nodes) || len(a.Parts()) > 1 != (len(a.Gang) > 0) || a.Parts()[0].Node != a.Node {
		w.failf("an experiment for %d nodes got %+v", spec.Device.Nodes, a)
	}
	for rank, p := range a.Parts() {
		if a.Rank(p.Node) != rank {
			w.failf("node %s is in %+v twice", p.Node, a)
		}
		w.given(v, p)
	}
}

// given checks what one node gives.
func (w *witness) given(v fsm.View, p fsm.Part) {
	n := v.Node(p.Node)
	if n == nil || n.Removed || n.NoExec || n.Draining {
		w.failf("I5: %+v was given by node %+v", p, n)
	}
	for _, uuid := range p.GPUs {
		if !slices.ContainsFunc(n.GPUs, func(g fsm.GPU) bool { return g.UUID == uuid }) {
			w.failf("I5: %s is no GPU of node %s", uuid, p.Node)
		}
	}
	slots := 0
	for a := range v.Open(p.Node) {
		if len(a.On(p.Node).GPUs) == 0 {
			slots++
		}
	}
	if len(p.GPUs) == 0 && slots > n.CPUSlots {
		w.failf("I15: %d experiments run on the %d CPU slots of %s", slots, n.CPUSlots, p.Node)
	}
}

// proofs is R7 and R12: what may run on a node is closed only by a proof about that node, one part at a time.
func (w *witness) proofs(v fsm.View, c fsm.Command) {
	for e := range v.Experiments() {
		for a := range v.Attempts(e.ID) {
			for _, p := range a.Parts() {
				_, known := w.parts[a.Token][p.Node]
				if p.Open() || known {
					continue
				}
				if !a.StartedAt.IsZero() && !proves(c, a, p) {
					w.failf("R12: %+v ended %+v of %+v", c, p, a)
				}
				if w.parts[a.Token] == nil {
					w.parts[a.Token] = map[string]fsm.Part{}
				}
				w.parts[a.Token][p.Node] = p
			}
		}
	}
}

func proves(c fsm.Command, a *fsm.Attempt, p fsm.Part) bool {
	switch c := c.(type) {
	case *fsm.Finish:
		return c.Token == a.Token && c.Node == p.Node
	case *fsm.Expire:
		return c.Token == a.Token && (c.Node == p.Node || c.Node == "" && len(a.Gang) == 0)
	case *fsm.Update:
		return c.Node.ID == p.Node && c.Node.BootID != p.BootID
	case *fsm.Remove:
		return c.Node == p.Node && c.Off
	}
	return false
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
			w.stops(e, a)
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
		if diff := gocmp.Diff(before, *e); diff != "" {
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
	for _, p := range a.Parts() {
		if n := v.Node(p.Node); p.Open() && (n == nil || n.Removed) {
			w.failf("I5: a part of attempt %s is open on %s, which is no member", a.Token, p.Node)
		}
		for _, uuid := range p.GPUs {
			if other, taken := holders[uuid]; taken && p.Open() {
				w.failf("I4: GPU %s is held by %s and %s", uuid, other, a.Token)
			}
			if p.Open() {
				holders[uuid] = a.Token
			}
		}
	}
}

// stops says that the rest of a gang of which a part has failed is to stop, as what is cancelled or preempted; nothing else is.
func (w *witness) stops(e *fsm.Experiment, a *fsm.Attempt) {
	failed := slices.ContainsFunc(a.Parts(), func(p fsm.Part) bool { return !p.Open() && p.Class != fsm.ClassCompleted })
	why, as := e.Stop(a)
	if want := failed || e.Cancelling || a.Preempting != ""; want != (why != "") || want != as.Valid() {
		w.failf("to be stopped as %q because %q, a part failed: %t, of %+v", as, why, failed, a)
	}
}

func (w *witness) attempt(a *fsm.Attempt) {
	ready, open := 0, 0
	for rank, p := range a.Parts() {
		boot, started := w.starts[a.Token][p.Node]
		if started != !p.StartedAt.IsZero() || p.BootID != boot || p.State() == fsm.AttemptStarted && !started {
			w.failf("I6: rank %d of attempt %+v, and a Start was applied: %t, boot %q", rank, a, started, boot)
		}
		if p.Open() != (p.Class == "") || !p.Open() && !p.Class.Valid() || p.Open() != p.EndedAt.IsZero() {
			w.failf("I11: rank %d of attempt %+v", rank, a)
		}
		if before, ended := w.parts[a.Token][p.Node]; ended {
			if diff := gocmp.Diff(before, p); diff != "" {
				w.failf("I11: rank %d of attempt %s had ended and changed:\n%s", rank, a.Token, diff)
			}
		}
		if started {
			ready++
		}
		if p.Open() {
			open++
		}
		if a.MayLaunch(p.Node, p.BootID) != (p.Open() && !a.StartedAt.IsZero()) {
			w.failf("R2: rank %d may be launched, or may not: %+v", rank, a)
		}
	}
	if !a.StartedAt.IsZero() != (ready == len(a.Parts())) {
		w.failf("I6: %d parts are ready of %+v", ready, a)
	}
	if a.Open() != (open > 0) || a.State == fsm.AttemptAssigned && open < len(a.Parts()) {
		w.failf("R12: %d parts are open of %+v", open, a)
	}
	if a.Open() != (a.Class == "") || !a.Open() && !a.Class.Valid() || a.Open() != a.EndedAt.IsZero() {
		w.failf("I11: attempt %s is %s with class %q, ended at %s", a.Token, a.State, a.Class, a.EndedAt)
	}
	if a.Class == fsm.ClassCompleted && slices.ContainsFunc(a.Parts(), func(p fsm.Part) bool { return p.Class != fsm.ClassCompleted }) {
		w.failf("attempt %+v has completed, and not all of it has", a)
	}
	if before := w.attempts[a.Token]; before != nil {
		if diff := gocmp.Diff(before, a); diff != "" {
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

// walks says that an attempt is found by every node with an open part of it, and once among all.
func (w *witness) walks(v fsm.View) {
	want, got := map[string]int{}, map[string]int{}
	for e := range v.Experiments() {
		for a := range v.Attempts(e.ID) {
			if a.Open() {
				want[a.Token.String()]++
			}
			for _, p := range a.Parts() {
				if p.Open() {
					want[a.Token.String()+" on "+p.Node]++
				}
			}
		}
	}
	for a := range v.Open("") {
		got[a.Token.String()]++
	}
	for n := range v.Nodes() {
		for a := range v.Open(n.ID) {
			got[a.Token.String()+" on "+n.ID]++
		}
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		w.failf("Open walks something else (-want +got):\n%s", diff)
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
	return fmt.Sprintf("index %d and %d\n%s", a.Index(), b.Index(), gocmp.Diff(show(a.View()), show(b.View())))
}
