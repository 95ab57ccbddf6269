package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/ui/api"
)

// errPictured marks a history that was refused and drawn into a file.
var errPictured = errors.New("the history has no order in which it could have happened")

// What clients do to one experiment, named by its key.
const (
	opSubmit = "submit"
	opCancel = "cancel"
	opGet    = "get" // a consistent read
)

// wish is what a client asked for.
type wish struct{ op, key string }

// reply is what it was told. Nothing of an unknown outcome is known: it may have happened, or happen later, or never.
type reply struct {
	unknown bool
	missing bool // a read found nothing
	already bool // a cancel came too late: it has ended
	known   known
}

// known is an experiment as far as the model looks at it.
type known struct {
	id        uint64 // 0 when only an unknown submission has made it
	attempt   int
	stage     stage
	cancelled bool // or about to be
}

// stage only grows within an attempt.
type stage int

const (
	waiting stage = iota
	running
	ended
)

func stageOf(s fsm.Status) stage {
	switch {
	case s.Ended():
		return ended
	case s == fsm.Running:
		return running
	}
	return waiting
}

// ops is the history of all clients of a scenario, on one clock.
type ops struct {
	mu    sync.Mutex
	began time.Time
	all   []porcupine.Operation
}

// record notes one call.
func (o *ops) record(client int, w wish, called time.Time, r reply) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.began.IsZero() {
		o.began = called
	}
	back := time.Since(o.began).Nanoseconds()
	if r.unknown {
		back = math.MaxInt64
	}
	o.all = append(o.all, porcupine.Operation{ClientId: client, Input: w, Call: called.Sub(o.began).Nanoseconds(), Output: r, Return: back})
}

// model is what one experiment may do, G5. What the system does by itself (assign, start, end) is a step forward that any
// read may see; no read may see a step back.
func model() porcupine.Model {
	return porcupine.Model{
		Partition: partition,
		Init:      func() any { return (*known)(nil) },
		Step: func(state, input, output any) (bool, any) {
			s, _ := state.(*known)
			return step(s, input.(wish), output.(reply))
		},
		Equal: func(x, y any) bool {
			a, b := x.(*known), y.(*known)
			return a == b || a != nil && b != nil && *a == *b
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v → %+v", input, output) },
		DescribeState: func(state any) string {
			if s := state.(*known); s != nil {
				return fmt.Sprintf("%+v", *s)
			}
			return "absent"
		},
	}
}

func partition(history []porcupine.Operation) [][]porcupine.Operation {
	byKey := map[string][]porcupine.Operation{}
	var keys []string
	for _, o := range history {
		k := o.Input.(wish).key
		if byKey[k] == nil {
			keys = append(keys, k)
		}
		byKey[k] = append(byKey[k], o)
	}
	var out [][]porcupine.Operation
	for _, k := range keys {
		out = append(out, byKey[k])
	}
	return out
}

// step says whether an answer is possible in a state, and the state after it.
func step(s *known, w wish, r reply) (bool, *known) {
	switch w.op {
	case opSubmit:
		switch {
		case r.unknown && s == nil:
			return true, &known{}
		case r.unknown:
			return true, s
		case s == nil:
			return true, &known{id: r.known.id}
		case s.id == 0:
			next := *s
			next.id = r.known.id
			return true, &next
		}
		return s.id == r.known.id, s
	case opCancel:
		if s == nil {
			return r.unknown, s
		}
		next := *s
		if r.already {
			next.stage = ended
			return true, &next
		}
		next.cancelled = next.cancelled || next.stage != ended
		return true, &next
	}
	if s == nil || r.missing {
		return s == nil && r.missing, s
	}
	return s.mayBecome(r.known), &r.known
}

// mayBecome says whether a read that follows may see k.
func (s *known) mayBecome(k known) bool {
	forward := cmp.Or(cmp.Compare(k.attempt, s.attempt), cmp.Compare(k.stage, s.stage)) >= 0
	// A job may have completed before a cancel reached it; but nobody else cancels, and a cancel is not undone.
	cancelled := k.cancelled == s.cancelled || s.cancelled && k.stage == ended
	return (s.id == 0 || s.id == k.id) && forward && cancelled && (s.stage != ended || k.stage == ended && k.attempt == s.attempt)
}

// checkTime bounds the search for an order; histories of one key are short.
const checkTime = 30 * time.Second

// checkOps is G5. A history that is refused is drawn into a file.
func (b *bed) checkOps() error { return b.ops.check(filepath.Join(b.l.o.dir, "linear-"+b.id+".html")) }

func (o *ops) check(picture string) error {
	o.mu.Lock()
	all := slices.Clone(o.all)
	o.mu.Unlock()
	result, info := porcupine.CheckOperationsVerbose(model(), all, checkTime)
	switch result {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("G5: no verdict on %d operations in %v", len(all), checkTime)
	}
	f, err := os.Create(picture)
	if err == nil {
		err = errors.Join(porcupine.Visualize(model(), info, f), f.Close())
	}
	return errors.Join(fmt.Errorf("G5: %w: %d operations, drawn in %s", errPictured, len(all), picture), err)
}

// askCancel cancels an experiment once, as client.
func (b *bed) askCancel(ctx context.Context, client int, c *api.Client, key string, id uint64) {
	called := time.Now()
	_, err := c.Cancel(ctx, id, "")
	e, answered := errors.AsType[*api.Error](err)
	r := reply{unknown: err != nil}
	if answered && e.Status == http.StatusConflict {
		r = reply{already: true}
	}
	b.ops.record(client, wish{opCancel, key}, called, r)
}

// askGet reads an experiment consistently. A read that failed says nothing.
func (b *bed) askGet(ctx context.Context, client int, m *member, key string, id uint64) {
	called := time.Now()
	status, text, err := b.get(ctx, m, fmt.Sprintf("/api/queue/%d?consistent=1", id))
	var e api.Experiment
	switch {
	case err == nil && status == http.StatusNotFound:
		b.ops.record(client, wish{opGet, key}, called, reply{missing: true})
	case err == nil && status == http.StatusOK && json.Unmarshal([]byte(text), &e) == nil:
		k := known{id: e.ID, attempt: e.Attempt, stage: stageOf(e.Status), cancelled: e.Cancelling || e.Status == fsm.Cancelled}
		b.ops.record(client, wish{opGet, key}, called, reply{known: k})
	}
}
