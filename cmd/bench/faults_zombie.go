package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/deveronica/cvlab/cluster/mesh"
	"github.com/deveronica/cvlab/fsm"
)

// zombie is F40b: a node's daemon is gone, its attempt was replaced, and somebody with the node's own key speaks for the
// old attempt, as a daemon from a restored image would.
func zombie(ctx context.Context, b *bed, _ times) (got outcome, err error) {
	b.requeues = true
	ws, err := b.workers(ctx, 1)
	if err != nil {
		return got, err
	}
	a, err := b.newAbsence(ctx, ws[0], 1)
	if err != nil {
		return got, err
	}
	id := a.jobs[0]
	if err := a.m.kill(); err != nil {
		return got, err
	}
	if a.cut, err = sinceBoot(); err != nil {
		return got, err
	}
	if err := b.requeued(ctx, a, id); err != nil {
		return got, err
	}
	if err := b.speakFor(ctx, a.m, id, &got); err != nil {
		return got, err
	}
	if err := b.restart(a.m); err != nil {
		return got, err
	}
	back, err := sinceBoot()
	if err != nil {
		return got, err
	}
	_, err = b.killed(ctx, a, id, back)
	return got, err
}

// speakFor says everything that a node may say of an attempt. Nothing of it may be taken.
func (b *bed) speakFor(ctx context.Context, m *member, id uint64, got *outcome) (err error) {
	leads, _, err := b.leaderAmong(ctx, b.l.except(m))
	if err != nil {
		return err
	}
	before, err := b.detail(ctx, leads, id)
	if err != nil {
		return err
	}
	if len(before.Attempts) < 2 {
		return fmt.Errorf("experiment %d has %d attempts, it was to be replaced", id, len(before.Attempts))
	}
	old, current := before.Attempts[0], before.Attempts[len(before.Attempts)-1]
	i, err := newImpostor(m, leads)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, i.close()) }()
	zero := 0
	for _, c := range []fsm.Command{
		&fsm.Start{Token: old.Token, Node: old.NodeID, BootID: "another"},
		&fsm.Finish{Token: old.Token, Node: old.NodeID, Class: fsm.ClassCompleted, ExitCode: &zero},
		&fsm.Finish{Token: current.Token, Node: old.NodeID, Class: fsm.ClassCompleted, ExitCode: &zero},
		&fsm.Publish{Token: old.Token, Node: old.NodeID, Seq: 1, Path: "checkpoints/last", Files: 1, Size: 1, Digest: strings.Repeat("ab", 32)},
		&fsm.Publish{Token: current.Token, Node: old.NodeID, Seq: 1, Path: "checkpoints/last", Files: 1, Size: 1, Digest: strings.Repeat("ab", 32)},
	} {
		began := time.Now()
		r, err := i.propose(ctx, c)
		if err != nil {
			return err
		}
		got.add(time.Since(began))
		if r.Code != fsm.Conflict && r.Code != fsm.Forbidden {
			return fmt.Errorf("%s of the replaced attempt %s was answered %q", c.Kind(), old.Token, r.Code)
		}
	}
	valid, err := i.renew(ctx, old.Token, current.Token)
	if err != nil {
		return err
	}
	if len(valid) > 0 {
		return fmt.Errorf("a renewal by the node of the replaced attempt was answered: %v are valid", valid)
	}
	after, err := b.detail(ctx, leads, id)
	if err != nil {
		return err
	}
	if a := after.Attempts; len(a) != len(before.Attempts) || a[0].Class != old.Class || a[len(a)-1].Class != current.Class || after.Status != before.Status {
		return fmt.Errorf("what the replaced attempt reported has changed experiment %d:%s", id, story(after))
	}
	return nil
}

// impostor speaks with the key of a node that does not run, from this program.
type impostor struct {
	mesh       *mesh.Mesh
	self       string
	leads      string // ID
	at         string // address of the leader's mesh
	membership trusting
}

// trusting believes everybody: the impostor only asks.
type trusting struct {
	ID    string `json:"id"`
	Epoch uint64 `json:"epoch"`
}

// Cluster implements mesh.Membership.
func (t trusting) Cluster() (string, uint64) { return t.ID, t.Epoch }

// IsMember implements mesh.Membership.
func (trusting) IsMember(string) bool { return true }

func newImpostor(m, leads *member) (*impostor, error) {
	i := &impostor{at: leads.mesh}
	key, _, err := mesh.LoadOrCreateIdentity(filepath.Join(m.dir, "identity.key"))
	if err != nil {
		return nil, fmt.Errorf("borrow the key of %s: %w", m.name, err)
	}
	text, err := os.ReadFile(filepath.Join(m.dir, "cluster.json"))
	if err == nil {
		err = json.NewDecoder(bytes.NewReader(text)).Decode(&i.membership) // a line with a checksum follows
	}
	if err != nil {
		return nil, fmt.Errorf("read the cluster of %s: %w", m.name, err)
	}
	leader, _, err := mesh.LoadOrCreateIdentity(filepath.Join(leads.dir, "identity.key"))
	if err != nil {
		return nil, fmt.Errorf("find the ID of %s: %w", leads.name, err)
	}
	i.self, i.leads = key.ID(), leader.ID()
	i.mesh, err = mesh.Listen(mesh.Options{Addr: "127.0.0.1:0", Identity: key, Logger: slog.New(slog.DiscardHandler), Membership: i.membership})
	return i, err
}

func (i *impostor) dial(ctx context.Context, protocol string) (net.Conn, error) {
	conn, err := i.mesh.Dial(ctx, i.leads, i.at, protocol)
	if err != nil {
		return nil, fmt.Errorf("speak as %s: %w", i.self, err)
	}
	return conn, nil
}

// propose forwards a command to the leader as a member does.
func (i *impostor) propose(ctx context.Context, c fsm.Command) (fsm.Result, error) {
	conn, err := i.dial(ctx, "forward")
	if err != nil {
		return fsm.Result{}, err
	}
	defer conn.Close()
	entry, err := fsm.Encode(fsm.Entry{By: i.self, At: time.Now().UTC(), Command: c})
	if err != nil {
		return fsm.Result{}, err
	}
	question := struct {
		Op    string          `json:"op"`
		Hops  int             `json:"hops"`
		Entry json.RawMessage `json:"entry"`
		Limit int64           `json:"limit"`
	}{"propose", 1, entry, 5000}
	var answer struct {
		Status, Error string
		Result        fsm.Result
	}
	if err := mesh.WriteFrame(conn, question); err != nil {
		return fsm.Result{}, fmt.Errorf("propose as %s: %w", i.self, err)
	}
	if err := mesh.ReadFrame(conn, 1<<20, &answer); err != nil {
		return fsm.Result{}, fmt.Errorf("propose as %s: %w", i.self, err)
	}
	if answer.Status != "ok" {
		return fsm.Result{}, fmt.Errorf("propose as %s: %s: %s", i.self, answer.Status, answer.Error)
	}
	return answer.Result, nil
}

// renew asks the leader for leases as a node does, and gives those that are valid.
func (i *impostor) renew(ctx context.Context, tokens ...fsm.Token) ([]fsm.Token, error) {
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return i.dial(ctx, "peer") }}
	question, err := json.Marshal(map[string]any{"for": i.self, "tokens": tokens})
	if err != nil {
		return nil, fmt.Errorf("renew as %s: %w", i.self, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://leader/renew", strings.NewReader(string(question)))
	if err != nil {
		return nil, fmt.Errorf("renew as %s: %w", i.self, err)
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("renew as %s: %w", i.self, err)
	}
	text, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	var answer struct{ Valid []fsm.Token }
	if resp.StatusCode == http.StatusOK {
		err = errors.Join(err, json.Unmarshal(text, &answer))
	} else {
		err = errors.Join(err, fmt.Errorf("%s: %s", resp.Status, text))
	}
	if err != nil {
		return nil, fmt.Errorf("renew as %s: %w", i.self, err)
	}
	return answer.Valid, nil
}

// close ends all connections.
func (i *impostor) close() error { return i.mesh.Close() }
