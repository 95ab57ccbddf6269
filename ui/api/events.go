package api

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

// perEvent is how many experiments one event carries at most, so that no event grows with the size of a sweep.
const perEvent = 200

// eventGap is the shortest time between two looks at the facts: a burst of commits becomes one event.
const eventGap = 50 * time.Millisecond

type experimentsEvent struct {
	Experiments []Experiment `json:"experiments"`
}

type helloEvent struct {
	Index uint64 `json:"index"`
	Node  string `json:"node"`
}

// watcher is one reader of events.
type watcher struct {
	s       *Server
	r       *http.Request
	out     *sse
	sent    uint64              // log index up to which the reader is informed
	devices map[string][32]byte // what it was told last, by node
	cluster [32]byte
}

// events tells changes until the reader goes. What a reader has seen is a log index, which is the same on every node, so
// it can go on anywhere.
func (s *Server) events(w http.ResponseWriter, r *http.Request) error {
	x := &watcher{s: s, r: r, devices: map[string][32]byte{}}
	resume := r.Header.Get("Last-Event-ID")
	state := s.o.Cluster.State()
	x.sent = state.View().Index()
	if resume != "" {
		id, err := strconv.ParseUint(resume, 10, 64)
		if err != nil {
			return problem(http.StatusBadRequest, "Last-Event-ID is not one that this stream gave out", "begin without it")
		}
		x.sent = id
	}
	var err error
	if x.out, err = openSSE(w); err != nil {
		return nil
	}
	if resume == "" {
		if x.out.send(strconv.FormatUint(x.sent, 10), "hello", helloEvent{Index: x.sent, Node: s.o.NodeName}) != nil {
			return nil
		}
	}
	if err := x.run(r.Context(), state); err != nil {
		s.log.DebugContext(r.Context(), "event stream ended", "error", err)
	}
	return nil
}

func (x *watcher) run(ctx context.Context, state *fsm.State) error {
	tick := time.NewTicker(feedEvery)
	defer tick.Stop()
	if err := x.machines(ctx); err != nil {
		return err
	}
	for {
		changed := state.Changed() // taken before the view, or a change between the two is missed
		if err := x.experiments(ctx, state.View()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
			if err := sleep(ctx, eventGap); err != nil {
				return err
			}
		case <-tick.C:
			if !x.s.stillGood(x.r) {
				return x.out.comment("the token is not valid any more")
			}
			if err := x.machines(ctx); err != nil {
				return err
			}
			if err := x.out.breathe(); err != nil {
				return err
			}
		}
	}
}

// experiments tells what changed since the index the reader has. One entry may change thousands; the reader's index moves
// only with the last event of the view, since to resume in the middle of an entry would lose the rest.
func (x *watcher) experiments(ctx context.Context, view fsm.View) error {
	sh := newShower(view)
	newest := x.sent
	var some []Experiment
	flush := func(id string) error {
		x.s.live(ctx, some)
		x.s.still(ctx, view, some)
		err := x.out.send(id, "experiment", experimentsEvent{Experiments: some})
		some = nil
		return err
	}
	for e := range view.Modified(x.sent) {
		if len(some) == perEvent {
			if err := flush(""); err != nil {
				return err
			}
		}
		some = append(some, sh.experiment(e))
		newest = e.ModifyIndex
	}
	if len(some) == 0 {
		return nil
	}
	if err := flush(strconv.FormatUint(newest, 10)); err != nil {
		return err
	}
	x.sent = newest
	return nil
}

// machines tells nodes whose health changed, and the cluster when its leader or members did.
func (x *watcher) machines(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, handlerTime)
	defer cancel()
	for _, d := range x.s.devices.get(ctx, x.s) {
		plain := d
		plain.LastHeard = nil // it grows by itself
		changed, err := differs(plain, x.devices[d.ID])
		if err != nil {
			return err
		}
		if changed == nil {
			continue
		}
		x.devices[d.ID] = *changed
		if err := x.out.send("", "device", d); err != nil {
			return err
		}
	}
	status := x.s.o.Cluster.Status(ctx)
	status.Nodes = list(status.Nodes)
	changed, err := differs(clusterShape(status), x.cluster)
	if err != nil || changed == nil {
		return err
	}
	x.cluster = *changed
	return x.out.send("", "cluster", status)
}

// clusterShape is what must change for a cluster event: not the indexes and times, which always do.
func clusterShape(s ClusterStatus) []string {
	shape := []string{fmt.Sprint(s.Term, s.Voters, s.Tolerates)}
	if s.Leader != nil {
		shape = append(shape, s.Leader.ID)
	}
	for _, n := range s.Nodes {
		shape = append(shape, fmt.Sprint(n.ID, " ", n.Name, " ", n.Role, " ", n.State, " ", n.Draining, " ", n.Version, " ", n.HTTP))
	}
	return shape
}

// differs gives the new digest of a value when it is not the old one.
func differs(v any, old [32]byte) (*[32]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode for comparison: %w", err)
	}
	sum := sha256.Sum256(data)
	if sum == old {
		return nil, nil
	}
	return &sum, nil
}
