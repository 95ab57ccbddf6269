package worker

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

// stray is what is known of an attempt that the facts do not know, guarded by Worker.mu.
type stray struct {
	answers int    // in a row, that did not know it
	frozen  string // why it was frozen for good; "" if it was not
}

// Stray is an attempt that runs here and that the facts neither know nor take back. It is frozen until a person ends it:
// its experiment may run elsewhere.
type Stray struct {
	Token      fsm.Token
	Experiment uint64
	Reason     string
}

// ErrNoStray is returned by KillStray for what is no stray attempt of this machine.
var ErrNoStray = errors.New("no stray attempt of this node has that token")

// Strays gives the stray attempts of this machine, in the order of their tokens.
func (w *Worker) Strays() []Stray {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []Stray
	for token, t := range w.tasks {
		if t.stray.frozen != "" {
			list = append(list, Stray{Token: token, Experiment: t.about.experiment, Reason: t.stray.frozen})
		}
	}
	slices.SortFunc(list, func(a, b Stray) int { return strings.Compare(a.Token.String(), b.Token.String()) })
	return list
}

// KillStray ends a stray attempt in somebody's name.
func (w *Worker) KillStray(ctx context.Context, token fsm.Token, by string) error {
	w.mu.Lock()
	t := w.tasks[token]
	is := t != nil && t.stray.frozen != ""
	w.mu.Unlock()
	if !is {
		return ErrNoStray
	}
	w.log(ctx, token, "a stray attempt is killed", "by", by)
	return w.o.Fences.Revoke(ctx, token.String(), "killed by "+by+", since the facts do not know it")
}

// certain is how many answers in a row must not know a token of the facts' own epoch before that is believed.
const certain = 2

// unknown deals with an attempt of which an answer said that the facts do not know it (rule R11). They may have gone back in
// time: then they take it up again, or else nothing of it executes any more.
func (w *Worker) unknown(ctx context.Context, token fsm.Token) {
	_, _, epoch := w.o.Cluster.State().View().Cluster()
	w.mu.Lock()
	t := w.tasks[token]
	if t == nil || t.stray.frozen != "" {
		w.mu.Unlock()
		return
	}
	t.stray.answers++
	if token.Epoch >= epoch && t.stray.answers < certain {
		w.mu.Unlock()
		return
	}
	if !t.lease.launched { // and never will be
		t.lease.revoked = true
		t.lease.wakeLocked()
		w.mu.Unlock()
		return
	}
	w.mu.Unlock()
	standing, err := w.o.Fences.Standing(ctx, token.String())
	switch {
	case err != nil:
		w.log(ctx, token, "the facts do not know it, and its supervisor was not reached; trying again", "error", err)
		return
	case standing.Held != "": // by the daemon of before
		w.setStray(token, standing.Held)
		return
	}
	r, err := w.adoption(ctx, token, t)
	switch {
	case err != nil:
		w.o.Logger.DebugContext(ctx, "an attempt was not adopted yet, trying again", "token", token.String(), "error", err)
		return
	case !r.Refused():
		w.log(ctx, token, "the facts had forgotten it and have adopted it")
		return
	}
	err = w.o.Fences.Freeze(ctx, token.String(), r.Message)
	w.log(ctx, token, "the facts do not know it and do not take it: it is frozen until a person decides", "why", r.Message, "error", err)
	if err == nil {
		w.setStray(token, cmp.Or(r.Message, "the facts do not know it"))
	}
}

func (w *Worker) setStray(token fsm.Token, why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t := w.tasks[token]; t != nil {
		t.stray.frozen = why
	}
}

// adoptWithin bounds one offer of an attempt to the facts; other leases wait for it.
const adoptWithin = 5 * time.Second

// adoption offers an attempt to facts that do not know it.
func (w *Worker) adoption(ctx context.Context, token fsm.Token, t *task) (fsm.Result, error) {
	if !t.about.known {
		return fsm.Result{Code: fsm.Invalid, Message: "its record on the node is damaged, so nobody can say what it holds"}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, adoptWithin)
	defer cancel()
	return w.o.Cluster.Commit(ctx, fsm.Entry{By: w.o.Cluster.ID(), At: time.Now().UTC(), Command: w.adopting(token, t)})
}

func (w *Worker) adopting(token fsm.Token, t *task) *fsm.Adopt {
	return &fsm.Adopt{
		Token: token, Experiment: t.about.experiment, Number: t.about.number, Node: w.o.Cluster.ID(), GPUs: t.about.gpus,
		Lease: fsm.Duration(t.about.lease), BootID: t.about.bootID, StartedAt: t.about.created,
	}
}

// readopt has the facts take an ended attempt up again that they had forgotten, so that its end counts, and says whether
// they did.
func (w *Worker) readopt(ctx context.Context, token fsm.Token) bool {
	w.mu.Lock()
	t := w.tasks[token]
	w.mu.Unlock()
	if t == nil || !t.about.known {
		return false
	}
	r, err := w.insist(ctx, w.adopting(token, t))
	return err == nil && !r.Refused()
}
