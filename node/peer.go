package node

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/node/worker"
)

// peers is how the nodes of a cluster ask each other for what is no fact: HTTP over the mesh, so that both ends are
// members and known by key. A host name in these URLs is a node's ID.
type peers struct {
	client *http.Client
	logger *slog.Logger
}

// peerDialer opens a stream to a member.
type peerDialer func(ctx context.Context, nodeID string) (net.Conn, error)

func newPeers(dial peerDialer, logger *slog.Logger) *peers {
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			id, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, fmt.Errorf("dial peer %q: %w", addr, err)
			}
			return dial(ctx, id)
		},
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       time.Minute,
		ResponseHeaderTimeout: 15 * time.Second,
	}
	return &peers{client: &http.Client{Transport: t}, logger: logger}
}

func (p *peers) close() { p.client.CloseIdleConnections() }

// get asks a node and hands out the answer's body.
func (p *peers) get(ctx context.Context, node, path string, query url.Values) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: node, Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("ask node %s: %w", node, err)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask node %s: %w", node, err)
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		resp.Body.Close()
		return nil, fmt.Errorf("ask node %s: %s: %s", node, resp.Status, bytes.TrimSpace(text))
	}
	return resp, nil
}

// getJSON asks a node for one JSON value.
func (p *peers) getJSON(ctx context.Context, node, path string, query url.Values, v any) error {
	resp, err := p.get(ctx, node, path, query)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<20)).Decode(v); err != nil {
		return fmt.Errorf("ask node %s for %s: %w", node, path, err)
	}
	return nil
}

// peerServer answers the other nodes.
type peerServer struct {
	state    *fsm.State
	machines *machines
	logs     *logs
	charts   *charts
	renewals *renewals
	stored   worker.Store          // checkpoints of this machine
	who      func(net.Conn) string // the member on the other end
	logger   *slog.Logger
}

type peerKey struct{}

// Run serves peers on l until ctx ends.
func (s *peerServer) Run(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /orders", s.orders)
	mux.HandleFunc("GET /reasons", s.reasons)
	mux.HandleFunc("GET /why", s.why)
	mux.HandleFunc("GET /devices", s.devices)
	mux.HandleFunc("GET /log", s.log)
	mux.HandleFunc("GET /metrics", s.metrics)
	mux.HandleFunc("GET /progress", s.progress)
	mux.HandleFunc("GET /checkpoint", s.checkpoint)
	mux.HandleFunc("POST /renew", s.renew)
	mux.HandleFunc("POST /strays/kill", s.killStray)
	srv := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, s.who(c))
		},
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return serving(srv.Serve(l)) })
	g.Go(func() error {
		<-gctx.Done()
		return srv.Close()
	})
	return g.Wait()
}

// orders streams to a node what it is to start and to stop, as lines of JSON. It is fed by this machine's replica, which
// on the leader has every commit first; the asking node's own would have it up to 100 ms later.
func (s *peerServer) orders(w http.ResponseWriter, r *http.Request) {
	node, _ := r.Context().Value(peerKey{}).(string)
	out := json.NewEncoder(w)
	flush := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	if err := flush.Flush(); err != nil {
		return
	}
	sent := map[fsm.Token]bool{} // value: the cancel was sent too
	for {
		changed := s.state.Changed()
		orders := newOrders(s.state.View(), node, sent)
		for _, o := range orders {
			if err := out.Encode(o); err != nil {
				return
			}
		}
		if len(orders) > 0 {
			if err := flush.Flush(); err != nil {
				return
			}
		}
		select {
		case <-r.Context().Done():
			return
		case <-changed:
		case <-time.After(orderKeepAlive):
			// An empty line tells a dead connection from a quiet one.
			if _, err := io.WriteString(w, "\n"); err != nil || flush.Flush() != nil {
				return
			}
		}
	}
}

// orderKeepAlive is how often a quiet stream says that it lives; the reader gives up after three.
const orderKeepAlive = 2 * time.Second

// newOrders gives what has not been sent to the node yet, and notes it as sent.
func newOrders(v fsm.View, node string, sent map[fsm.Token]bool) []worker.Order {
	var orders []worker.Order
	open := map[fsm.Token]bool{}
	for a := range v.Open(node) {
		open[a.Token] = true
		e := v.Experiment(a.Experiment)
		if e == nil {
			continue
		}
		cancelling, known := sent[a.Token]
		if known && cancelling == e.Cancelling {
			continue
		}
		sent[a.Token] = e.Cancelling
		if a.State == fsm.AttemptAssigned || e.Cancelling {
			orders = append(orders, worker.Order{Attempt: *a, Experiment: *e, Spec: *v.Spec(e)})
		}
	}
	for t := range sent {
		if !open[t] {
			delete(sent, t)
		}
	}
	return orders
}

// followOrders keeps a stream from the leader open and passes its orders on until ctx ends.
func (p *peers) followOrders(ctx context.Context, lead leadership, orders chan<- worker.Order) error {
	for ctx.Err() == nil {
		changed := lead.LeaderChanged()
		id, known := lead.Leader()
		if !known || id == lead.ID() {
			// The leader's own replica is as early as its stream would be.
			select {
			case <-ctx.Done():
			case <-changed:
			}
			continue
		}
		err := p.readOrders(ctx, id, changed, orders)
		p.logger.DebugContext(ctx, "the leader's stream of orders ended", "leader", id, "error", err)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-time.After(100 * time.Millisecond):
		}
	}
	return ctx.Err()
}

// leadership is who leads, as far as this machine knows.
type leadership interface {
	ID() string
	Leader() (id string, known bool)
	LeaderChanged() <-chan struct{}
}

// readOrders reads one stream until it breaks, falls silent, or another node leads.
func (p *peers) readOrders(ctx context.Context, leader string, changed <-chan struct{}, orders chan<- worker.Order) error {
	g, ctx := errgroup.WithContext(ctx)
	silence := time.NewTimer(3 * orderKeepAlive)
	defer silence.Stop()
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			return errors.New("the leader may have changed")
		case <-silence.C:
			return errors.New("the leader's stream is silent")
		}
	})
	g.Go(func() error {
		resp, err := p.get(ctx, leader, "/orders", nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		lines := bufio.NewReader(resp.Body)
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				return fmt.Errorf("read orders: %w", err)
			}
			silence.Reset(3 * orderKeepAlive)
			if len(bytes.TrimSpace(line)) == 0 {
				continue
			}
			var o worker.Order
			if err := json.Unmarshal(line, &o); err != nil {
				return fmt.Errorf("read orders: %w", err)
			}
			select {
			case orders <- o:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	return g.Wait()
}

func (s *peerServer) reasons(w http.ResponseWriter, r *http.Request) {
	var ids []uint64
	for _, text := range r.URL.Query()["id"] {
		id, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			http.Error(w, "id: want a number", http.StatusBadRequest)
			return
		}
		ids = append(ids, id)
	}
	answer(w, s.machines.localReasons(ids))
}

func (s *peerServer) why(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseUint(r.URL.Query().Get("id"), 10, 64)
	if err != nil {
		http.Error(w, "id: want a number", http.StatusBadRequest)
		return
	}
	answer(w, s.machines.localWhy(id))
}

func (s *peerServer) devices(w http.ResponseWriter, _ *http.Request) {
	answer(w, s.machines.localDevices())
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	// An error here is the asking node's connection; it asks again.
	_ = json.NewEncoder(w).Encode(v)
}
