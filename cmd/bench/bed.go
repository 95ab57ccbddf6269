package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/deveronica/cvlab/node"
	"github.com/deveronica/cvlab/ui/api"
)

// bed is a cluster to which one scenario does its faults, with what was promised to the outside meanwhile.
type bed struct {
	l    *lab
	id   string // of the scenario; begins its keys
	self string // this program
	file string // the history, outside the cluster
	rnd  *rand.Rand
	line func(format string, args ...any)
	// slack is by how much the promised times may be exceeded, 1 for not at all; end is when a long form is to stop.
	slack time.Duration
	end   time.Time
	// requeues says that the faults may cost attempts that run: then the attempts must only not overlap.
	requeues bool

	before    holdings // of the nodes, before the first fault
	testimony ledger
	ops       ops

	mu           sync.Mutex
	keys         int
	clients      int
	acknowledged map[string]uint64 // experiments by idempotency key
	witnesses    []uint64
}

func newBed(l *lab, id, self string, rnd *rand.Rand, line func(string, ...any)) *bed {
	file := filepath.Join(l.o.dir, "history-"+id)
	return &bed{l: l, id: id, self: self, rnd: rnd, line: line, acknowledged: map[string]uint64{}, file: file, slack: 1, testimony: ledger{file: file}}
}

// more says whether a fault is to be done once more: n times, or until the time of a long form is over.
func (b *bed) more(done, n int) bool {
	return done < n && (done == 0 || b.end.IsZero() || time.Now().Before(b.end))
}

// within judges a figure by what is promised.
func (b *bed) within(d, limit time.Duration, what string) error {
	return atMost(d, limit*b.slack, what)
}

// Bounds of what is waited for.
const (
	healLimit  = 30 * time.Second // until all is well after a fault: G8
	steadyFor  = 3 * time.Second  // in which neither leader nor term may change
	submitMost = 60 * time.Second // until a submission is acknowledged, with all its repeats
	jobsLimit  = 60 * time.Second // until jobs that were told to end are recorded
	seenLimit  = 30 * time.Second // until a submitted job testifies, on a cluster that is well
)

// errTwice marks a key that was acknowledged as two experiments.
var errTwice = errors.New("G1: one key was acknowledged as two experiments")

// everyone makes a client that knows all nodes and repeats; it asks first first.
func (b *bed) everyone(first *member) (*api.Client, error) {
	var others []*member
	for _, m := range b.l.nodes {
		if m != first {
			others = append(others, m)
		}
	}
	return b.l.client(first, others...)
}

// newKey gives a key that nobody has used.
func (b *bed) newKey() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keys++
	return b.id + "-" + strconv.Itoa(b.keys)
}

// newClient numbers those who ask, for the history of what they asked, and gives each dice of its own.
func (b *bed) newClient() (int, *rand.Rand) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clients++
	return b.clients, rand.New(rand.NewPCG(b.rnd.Uint64(), uint64(b.clients)))
}

func (b *bed) acknowledge(key string, added api.Added) (uint64, error) {
	if len(added.Experiments) != 1 {
		return 0, fmt.Errorf("submit: %d experiments were made for key %s", len(added.Experiments), key)
	}
	id := added.Experiments[0].ID
	b.mu.Lock()
	defer b.mu.Unlock()
	if before, known := b.acknowledged[key]; known && before != id {
		return 0, fmt.Errorf("%w: %s as %d and as %d", errTwice, key, before, id)
	}
	b.acknowledged[key] = id
	return id, nil
}

// submit repeats a submission under one key until it is acknowledged.
func (b *bed) submit(ctx context.Context, c *api.Client, r api.AddRequest) (uint64, error) {
	r.Key = b.newKey()
	r.Name = r.Key
	client, _ := b.newClient()
	return b.insist(ctx, client, c, r)
}

// insist repeats one submission until it is acknowledged.
func (b *bed) insist(ctx context.Context, client int, c *api.Client, r api.AddRequest) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, submitMost)
	defer cancel()
	for {
		id, err := b.add(ctx, client, c, r)
		if err == nil || errors.Is(err, errTwice) {
			return id, err
		}
		if waited := pause(ctx, 20*time.Millisecond); waited != nil {
			return 0, fmt.Errorf("submit: %w", errors.Join(waited, err))
		}
	}
}

// try submits once to one node; an acknowledgement counts like any other.
func (b *bed) try(ctx context.Context, c *api.Client) (uint64, error) {
	r := held()
	r.Key = b.newKey()
	r.Name = r.Key
	client, _ := b.newClient()
	return b.add(ctx, client, c, r)
}

// add makes one submission and notes what came of it.
func (b *bed) add(ctx context.Context, client int, c *api.Client, r api.AddRequest) (id uint64, err error) {
	called := time.Now()
	added, err := c.Add(ctx, r)
	if err == nil {
		id, err = b.acknowledge(r.Key, added)
	}
	b.ops.record(client, wish{opSubmit, r.Key}, called, reply{unknown: err != nil, known: known{id: id}})
	return id, err
}

// held is a submission that is not started: only its acknowledgement is of interest.
func held() api.AddRequest { return api.AddRequest{Command: []string{"true"}, Hold: true} }

// gap is the time to the acknowledgement of a submission that is made now, and repeated.
func (b *bed) gap(ctx context.Context, c *api.Client) (time.Duration, error) {
	began := time.Now()
	_, err := b.submit(ctx, c, held())
	return time.Since(began), err
}

// write keeps submitting to a node until the context ends; what fails is tried again elsewhere under the same key. Now and
// then it reads consistently what it has made, wherever, or cancels it.
func (b *bed) write(ctx, until context.Context, first *member) error {
	c, err := b.everyone(first)
	if err != nil {
		return err
	}
	client, rnd := b.newClient()
	for until.Err() == nil {
		r := held()
		r.Key = b.newKey()
		r.Name = r.Key
		id, err := b.insist(ctx, client, c, r)
		if err != nil {
			return err
		}
		if rnd.IntN(20) == 0 {
			b.askCancel(ctx, client, c, r.Key, id)
		}
		if rnd.IntN(5) == 0 {
			b.askGet(ctx, client, b.l.nodes[rnd.IntN(len(b.l.nodes))], r.Key, id)
		}
		_ = pause(until, 20*time.Millisecond) // its end ends the loop
	}
	return nil
}

// writing keeps submitting to every node while f does something bad.
func (b *bed) writing(ctx context.Context, f func(context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	during, stop := context.WithCancel(ctx)
	for _, m := range b.l.nodes {
		g.Go(func() error { return b.write(ctx, during, m) })
	}
	g.Go(func() error { defer stop(); return f(ctx) })
	return g.Wait()
}

// job submits a witness that lasts so long and ends with the code. Device may be empty.
func (b *bed) job(ctx context.Context, device string, seconds float64, code int) (uint64, error) {
	c, err := b.everyone(b.l.nodes[0])
	if err != nil {
		return 0, err
	}
	return b.jobBy(ctx, c, device, seconds, code)
}

// jobBy is job through a client of the caller's. Each of its lines is longer by a number of bytes, if one is given.
func (b *bed) jobBy(ctx context.Context, c *api.Client, device string, seconds float64, code int, padding ...string) (uint64, error) {
	argv := append([]string{b.self, "witness", b.file, strconv.FormatFloat(seconds, 'f', 2, 64), strconv.Itoa(code)}, padding...)
	id, err := b.submit(ctx, c, api.AddRequest{Command: argv, Device: device})
	if err != nil {
		return 0, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.witnesses = append(b.witnesses, id)
	return id, nil
}

// aJobEverywhere starts a witness on every node that lasts until the check, and waits until all run.
func (b *bed) aJobEverywhere(ctx context.Context) error {
	for i, m := range b.l.nodes {
		id, err := b.job(ctx, m.name, 1200, i)
		if err != nil {
			return err
		}
		if err := b.seen(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// seen waits until an experiment testifies.
func (b *bed) seen(ctx context.Context, id uint64) error {
	ctx, cancel := context.WithTimeout(ctx, seenLimit)
	defer cancel()
	return until(ctx, fmt.Sprintf("experiment %d to run", id), func() (bool, error) {
		h, err := b.testimony.read()
		return len(h.attempts(id)) > 0, err
	})
}

// restart brings a node back that was killed.
func (b *bed) restart(m *member) error { return b.l.launch(m, "up") }

// ready asks one node's /readyz.
func (b *bed) ready(ctx context.Context, m *member) bool {
	status, _, err := b.get(ctx, m, "/readyz")
	return err == nil && status == http.StatusOK
}

// get makes one plain request to one node, with its token.
func (b *bed) get(ctx context.Context, m *member, path string) (status int, body string, err error) {
	token, err := node.ReadToken(m.dir)
	if err != nil {
		return 0, "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.http+path, nil)
	if err != nil {
		return 0, "", fmt.Errorf("ask %s: %w", m.name, err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := b.l.asker().Do(req)
	if err != nil {
		return 0, "", fmt.Errorf("ask %s: %w", m.name, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, "", fmt.Errorf("ask %s: %w", m.name, err)
	}
	return resp.StatusCode, string(text), nil
}
