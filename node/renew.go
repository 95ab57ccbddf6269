package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/deveronica/cvlab/cluster"
	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/node/leader"
	"github.com/deveronica/cvlab/node/worker"
)

// renewals carries questions about leases to the leader: directly, or through a member that can reach it when this machine
// cannot.
type renewals struct {
	seat   leadership
	peers  *peers
	leader ruler
	others func() []string // members that are alive, without this one
}

// ruler is the leader's work on this machine.
type ruler interface {
	Renew(ctx context.Context, node string, tokens []fsm.Token) (leader.Verdict, error)
}

// renewal is the question between nodes.
type renewal struct {
	// For is the node whose attempts they are; only a member that relays may name another one than itself.
	For    string      `json:"for"`
	Relay  bool        `json:"relay,omitempty"` // pass it on to the leader; what was passed on is not passed on again
	Tokens []fsm.Token `json:"tokens"`
}

type renewalAnswer struct {
	Valid   []fsm.Token `json:"valid,omitempty"`
	Revoked []fsm.Token `json:"revoked,omitempty"`
	Unknown []fsm.Token `json:"unknown,omitempty"` // absent in answers of before it was told
}

// Limits of a renewal: what fits a machine's attempts many times over, and how long one way is tried before the next. A
// member that is frozen keeps connections open and says nothing.
const (
	maxRenewal = 1 << 20
	oneWay     = 2 * time.Second
)

// Renew implements worker.Renewals. The direct way comes first; then every member is asked to relay.
func (r *renewals) Renew(ctx context.Context, tokens []fsm.Token) (worker.Verdict, error) {
	question := renewal{For: r.seat.ID(), Tokens: tokens}
	lead, known := r.seat.Leader()
	err := errors.New("no leader is known")
	if known {
		var v leader.Verdict
		if v, err = r.ask(ctx, lead, question); err == nil {
			return worker.Verdict(v), nil
		}
	}
	question.Relay = true
	for _, id := range r.others() {
		if ctx.Err() != nil {
			break
		}
		if id == lead {
			continue
		}
		v, again := r.ask(ctx, id, question)
		if again == nil {
			return worker.Verdict(v), nil
		}
		err = errors.Join(err, again)
	}
	return worker.Verdict{}, fmt.Errorf("renew leases: %w", err)
}

// ask asks one node, which may be this one.
func (r *renewals) ask(ctx context.Context, node string, q renewal) (leader.Verdict, error) {
	if node == r.seat.ID() {
		return r.leader.Renew(ctx, q.For, q.Tokens)
	}
	limit := oneWay
	if end, has := ctx.Deadline(); has {
		limit = min(limit, time.Until(end)/2) // something must be left for the next way
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var a renewalAnswer
	if err := r.peers.postJSON(ctx, node, "/renew", q, &a); err != nil {
		return leader.Verdict{}, err
	}
	return leader.Verdict(a), nil
}

// relay answers a question of another node, or passes it on to the leader.
func (r *renewals) relay(ctx context.Context, q renewal) (leader.Verdict, error) {
	v, err := r.leader.Renew(ctx, q.For, q.Tokens)
	if !errors.Is(err, leader.ErrNotLeading) || !q.Relay {
		return v, err
	}
	lead, known := r.seat.Leader()
	if !known || lead == r.seat.ID() || lead == q.For {
		return leader.Verdict{}, err
	}
	q.Relay = false
	return r.ask(ctx, lead, q)
}

func (s *peerServer) renew(w http.ResponseWriter, r *http.Request) {
	from, _ := r.Context().Value(peerKey{}).(string)
	var q renewal
	d := json.NewDecoder(io.LimitReader(r.Body, maxRenewal))
	d.DisallowUnknownFields()
	if err := d.Decode(&q); err != nil {
		http.Error(w, "renew: "+err.Error(), http.StatusBadRequest)
		return
	}
	if q.Relay && q.For != from {
		http.Error(w, "renew: only a node itself may ask for a relay", http.StatusForbidden)
		return
	}
	v, err := s.renewals.relay(r.Context(), q)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	answer(w, renewalAnswer(v))
}

// postJSON sends one JSON value to a node and reads another one.
func (p *peers) postJSON(ctx context.Context, node, path string, v, answer any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("ask node %s: %w", node, err)
	}
	u := url.URL{Scheme: "http", Host: node, Path: path}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask node %s: %w", node, err)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return fmt.Errorf("ask node %s: %w", node, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return fmt.Errorf("ask node %s: %s: %s", node, resp.Status, bytes.TrimSpace(text))
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxRenewal)).Decode(answer); err != nil {
		return fmt.Errorf("ask node %s for %s: %w", node, path, err)
	}
	return nil
}

// members gives the other members of the cluster, those that are alive first.
func (n *Node) members() []string {
	var alive, silent []string
	for _, m := range n.seat.Members() {
		switch {
		case m.ID == n.seat.ID() || !m.Registered:
		case m.Alive == cluster.Alive:
			alive = append(alive, m.ID)
		default:
			silent = append(silent, m.ID)
		}
	}
	return append(alive, silent...)
}

// voters says how many machines vote.
func (n *Node) voters() int {
	count := 0
	for _, m := range n.seat.Members() {
		if m.Role == cluster.RoleVoter {
			count++
		}
	}
	return count
}
