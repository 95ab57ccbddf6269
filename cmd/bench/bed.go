package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/deveronica/cvlab/node"
	"github.com/deveronica/cvlab/ui/api"
)

// bed is a cluster to which faults are done, with what it has promised to the outside so far.
type bed struct {
	l    *lab
	self string // this program
	file string // the history, outside the cluster
	rnd  *rand.Rand
	line func(format string, args ...any)

	mu           sync.Mutex
	keys         int
	acknowledged map[string]uint64 // experiments by idempotency key
	witnesses    []uint64
}

func newBed(l *lab, self string, rnd *rand.Rand, line func(string, ...any)) *bed {
	return &bed{l: l, self: self, rnd: rnd, line: line, acknowledged: map[string]uint64{}, file: filepath.Join(l.o.dir, "history")}
}

// Bounds of what is waited for.
const (
	healLimit  = 30 * time.Second // until all is well after a fault: G8
	steadyFor  = 3 * time.Second  // in which neither leader nor term may change
	submitMost = 60 * time.Second // until a submission is acknowledged, with all its repeats
	jobsLimit  = 60 * time.Second // until jobs that were told to end are recorded
)

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
	return "key" + strconv.Itoa(b.keys)
}

func (b *bed) acknowledge(key string, added api.Added) (uint64, error) {
	if len(added.Experiments) != 1 {
		return 0, fmt.Errorf("submit: %d experiments were made for key %s", len(added.Experiments), key)
	}
	id := added.Experiments[0].ID
	b.mu.Lock()
	defer b.mu.Unlock()
	if before, known := b.acknowledged[key]; known && before != id {
		return 0, fmt.Errorf("G1: key %s was acknowledged as experiment %d and as %d", key, before, id)
	}
	b.acknowledged[key] = id
	return id, nil
}

// submit repeats a submission under one key until it is acknowledged.
func (b *bed) submit(ctx context.Context, c *api.Client, r api.AddRequest) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, submitMost)
	defer cancel()
	r.Key = b.newKey()
	r.Name = r.Key
	for {
		added, err := c.Add(ctx, r)
		if err == nil {
			return b.acknowledge(r.Key, added)
		}
		if waited := pause(ctx, 20*time.Millisecond); waited != nil {
			return 0, fmt.Errorf("submit: %w", errors.Join(waited, err))
		}
	}
}

// try submits once to one node; an acknowledgement counts like any other.
func (b *bed) try(ctx context.Context, c *api.Client) (uint64, error) {
	key := b.newKey()
	added, err := c.Add(ctx, api.AddRequest{Key: key, Name: key, Command: []string{"true"}, Hold: true})
	if err != nil {
		return 0, err
	}
	return b.acknowledge(key, added)
}

// held is a submission that is not started: only its acknowledgement is of interest.
func held() api.AddRequest { return api.AddRequest{Command: []string{"true"}, Hold: true} }

// gap is the time to the acknowledgement of a submission that is made now, and repeated.
func (b *bed) gap(ctx context.Context, c *api.Client) (time.Duration, error) {
	began := time.Now()
	_, err := b.submit(ctx, c, held())
	return time.Since(began), err
}

// write keeps submitting to a node until the context ends; what fails is tried again elsewhere under the same key.
func (b *bed) write(ctx, until context.Context, first *member) error {
	c, err := b.everyone(first)
	if err != nil {
		return err
	}
	for until.Err() == nil {
		if _, err := b.submit(ctx, c, held()); err != nil {
			return err
		}
		<-time.After(5 * time.Millisecond)
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
	argv := []string{b.self, "witness", b.file, strconv.FormatFloat(seconds, 'f', 2, 64), strconv.Itoa(code)}
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
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return until(ctx, fmt.Sprintf("experiment %d to run", id), func() (bool, error) {
		h, err := readHistory(b.file)
		return len(h.of(id, 1)) > 0, err
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
	t := &http.Transport{DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: t}).Do(req)
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

// steady is G8: within 30 s all nodes are whole and ready, and then leader and term stay for 3 s.
func (b *bed) steady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, healLimit+steadyFor, errors.New("30 s have passed"))
	defer cancel()
	var term uint64
	since := time.Now()
	err := until(ctx, "one leader, all ready, and a steady term", func() (bool, error) {
		s, err := b.l.see(ctx, b.l.nodes[0])
		well := err == nil && b.l.whole(ctx)
		for _, m := range b.l.nodes {
			if m.ended() {
				return false, fmt.Errorf("%s has ended by itself", m.name)
			}
			well = well && b.ready(ctx, m)
		}
		if !well || s.Term != term {
			term, since = s.Term, time.Now()
			return false, nil
		}
		return time.Since(since) >= steadyFor, pause(ctx, 100*time.Millisecond)
	})
	if err != nil {
		return fmt.Errorf("G8: %w", err)
	}
	return nil
}

// check ends the witnesses and makes all checks.
func (b *bed) check(ctx context.Context) error {
	if err := b.steady(ctx); err != nil {
		return err
	}
	if err := os.WriteFile(b.file+".stop", nil, 0o600); err != nil {
		return fmt.Errorf("end the jobs: %w", err)
	}
	if err := b.waitEnded(ctx, b.witnesses...); err != nil {
		return err
	}
	if err := b.l.waitWhole(ctx); err != nil {
		return err
	}
	h, err := readHistory(b.file)
	if err != nil {
		return err
	}
	all := []error{h.checkAttempts()}
	for _, m := range b.l.nodes {
		listed, err := b.list(ctx, m)
		all = append(all, err, checkKeys(m.name, b.acknowledged, listed))
	}
	for _, id := range b.witnesses {
		all = append(all, b.checkJob(ctx, h, id))
	}
	return errors.Join(all...)
}

// waitEnded waits until experiments have ended, as some node says.
func (b *bed) waitEnded(ctx context.Context, ids ...uint64) error {
	ctx, cancel := context.WithTimeout(ctx, jobsLimit)
	defer cancel()
	c, err := b.everyone(b.l.nodes[0])
	if err != nil {
		return err
	}
	for _, id := range ids {
		err := until(ctx, fmt.Sprintf("experiment %d to be recorded as ended", id), func() (bool, error) {
			d, err := c.Get(ctx, id)
			return err == nil && d.Status.Ended(), nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// checkJob checks one witness: exactly one attempt of it ever ran and that is the one recorded last, G3 and G4. A node that
// did not run it is asked for the output.
func (b *bed) checkJob(ctx context.Context, h history, id uint64) error {
	first, err := b.l.once(b.l.nodes[0])
	if err != nil {
		return err
	}
	d, err := first.Get(ctx, id)
	if err != nil {
		return fmt.Errorf("look at experiment %d: %w", id, err)
	}
	if ran := h.attempts(id); !slices.Equal(ran, []int{d.Attempt}) {
		return fmt.Errorf("experiment %d: attempts %v were seen to run, no fault here may cost one that runs; recorded is:%s", id, ran, story(d))
	}
	if d.Attempt != 1 {
		b.line("  experiment %d ran once, but as attempt %d:%s", id, d.Attempt, story(d))
	}
	for _, m := range b.l.nodes {
		if m.name == d.Node && len(b.l.nodes) > 1 {
			continue
		}
		c, err := b.l.once(m)
		if err != nil {
			return err
		}
		output, err := b.output(ctx, c, id)
		return errors.Join(err, h.checkExit(id, d.Attempt, d.ExitCode), h.checkOutput(id, d.Attempt, output))
	}
	return nil
}

// story tells what is recorded of an experiment's attempts.
func story(d api.Detail) string {
	var text strings.Builder
	for _, a := range d.Attempts {
		fmt.Fprintf(&text, " attempt %d on %s, token %s, %s: %s;", a.Number, a.Node, a.Token, a.Class, a.Sentence)
	}
	return text.String()
}

func (b *bed) output(ctx context.Context, c *api.Client, id uint64) (string, error) {
	r, err := c.Logs(ctx, id, api.LogOptions{})
	if err != nil {
		return "", fmt.Errorf("read the output of experiment %d: %w", id, err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		return "", fmt.Errorf("read the output of experiment %d: %w", id, err)
	}
	return string(text), nil
}

// list gives all experiments as one node knows them.
func (b *bed) list(ctx context.Context, m *member) ([]named, error) {
	c, err := b.l.once(m)
	if err != nil {
		return nil, err
	}
	var all []named
	q := api.QueueQuery{Sort: "id", Limit: 1000}
	for {
		page, err := c.Queue(ctx, q)
		if err != nil {
			return nil, fmt.Errorf("list the experiments on %s: %w", m.name, err)
		}
		for _, e := range page.Experiments {
			all = append(all, named{id: e.ID, name: e.Name})
		}
		if page.Next == "" {
			return all, nil
		}
		q.Cursor = page.Next
	}
}
