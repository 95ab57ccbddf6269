package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/deveronica/cvlab/executor"
	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/node/worker"
	"github.com/deveronica/cvlab/ui/api"
)

// keeper is the worker as this machine's word on itself needs it.
type keeper interface {
	Frozen() []worker.Frozen
	Strays() []worker.Stray
	KillStray(ctx context.Context, token fsm.Token, by string) error
}

// newBearing puts the worker's knowledge into a beacon's words.
func newBearing(k keeper, warnings []string) bearing {
	b := bearing{Warnings: warnings}
	for _, f := range k.Frozen() {
		b.Frozen = append(b.Frozen, frozenBeacon{Token: f.Token, Since: f.Since.Unix(), Lease: int64(f.Lease.Seconds())})
	}
	for _, s := range k.Strays() {
		b.Strays = append(b.Strays, strayBeacon{Token: s.Token, Experiment: s.Experiment, Reason: s.Reason})
	}
	return b
}

// asides says which attempt directories made no sense and lie in dir now.
func asides(found []executor.Found, dir string) []string {
	var names []string
	for _, f := range found {
		if f.State == executor.Quarantined && !f.Alive {
			names = append(names, f.Token)
		}
	}
	const most = 3
	switch n := len(names); {
	case n == 0:
		return nil
	case n == 1:
		return []string{"an attempt directory was put aside: " + names[0] + "; it lies in " + dir}
	case n > most:
		return []string{fmt.Sprintf("%d attempt directories were put aside: %s and others; they lie in %s", n, strings.Join(names[:most], ", "), dir)}
	default:
		return []string{fmt.Sprintf("%d attempt directories were put aside: %s; they lie in %s", n, strings.Join(names, ", "), dir)}
	}
}

// show adds what a machine said of its attempts to a device, and what follows from its silence: a lease ends without a word.
func (b bearing) show(d *api.Device, v fsm.View, heard time.Duration, everHeard bool) {
	d.Warnings = b.Warnings
	for _, s := range b.Strays {
		d.Strays = append(d.Strays, api.Stray{Token: s.Token, Experiment: s.Experiment, Reason: s.Reason})
	}
	told := map[fsm.Token]bool{}
	for _, f := range b.Frozen {
		a := v.Attempt(f.Token)
		if a == nil || !a.Open() {
			continue // it has ended since
		}
		told[f.Token] = true
		d.Frozen = append(d.Frozen, api.Frozen{Token: f.Token, Experiment: a.Experiment, Since: time.Unix(f.Since, 0).UTC(), Lease: float64(f.Lease)})
	}
	if !everHeard {
		return
	}
	for a := range v.Open(d.ID) {
		lease := time.Duration(a.Lease)
		if a.State != fsm.AttemptStarted || lease <= 0 || heard < lease || told[a.Token] {
			continue
		}
		d.Frozen = append(d.Frozen, api.Frozen{
			Token: a.Token, Experiment: a.Experiment, Since: time.Now().Add(lease - heard).UTC().Truncate(time.Second), Lease: lease.Seconds(), Presumed: true,
		})
	}
}

// strayRequest asks a node to kill one of its stray attempts.
type strayRequest struct {
	Token fsm.Token `json:"token"`
	By    string    `json:"by"`
}

type strayAnswer struct {
	Found bool `json:"found"`
}

// KillStray implements api.Machines.
func (m *machines) KillStray(ctx context.Context, node string, token fsm.Token, by string) error {
	a := strayAnswer{}
	var err error
	if node == m.seat.ID() {
		a, err = m.killLocal(ctx, token, by)
	} else {
		err = m.peers.postJSON(ctx, node, "/strays/kill", strayRequest{Token: token, By: by}, &a)
	}
	if err != nil {
		return fmt.Errorf("kill stray attempt %s: %w", token, err)
	}
	if !a.Found {
		return fmt.Errorf("kill stray attempt %s: %w", token, fs.ErrNotExist)
	}
	return nil
}

func (m *machines) killLocal(ctx context.Context, token fsm.Token, by string) (strayAnswer, error) {
	err := m.keeper.KillStray(ctx, token, by)
	if errors.Is(err, worker.ErrNoStray) {
		return strayAnswer{}, nil
	}
	return strayAnswer{Found: err == nil}, err
}

func (s *peerServer) killStray(w http.ResponseWriter, r *http.Request) {
	var q strayRequest
	d := json.NewDecoder(io.LimitReader(r.Body, maxRenewal))
	d.DisallowUnknownFields()
	if err := d.Decode(&q); err != nil {
		http.Error(w, "kill a stray attempt: "+err.Error(), http.StatusBadRequest)
		return
	}
	a, err := s.machines.killLocal(r.Context(), q.Token, q.By)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	answer(w, a)
}
