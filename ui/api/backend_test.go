package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/deveronica/cvlab/cluster"
	"github.com/deveronica/cvlab/fsm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lab is a cluster of one process: a real state, whose log is a counter, and machines and output made of maps.
type lab struct {
	leaveErr error
	t        *testing.T
	state    *fsm.State
	srv      *Server
	log      bytes.Buffer

	mu       sync.Mutex
	index    uint64
	proposed int
	// fail is asked before and after each proposal; an error before means that nothing was applied.
	before, after func(n int) error
	barriers      int
	leader        string
	trouble       string
	output        map[fsm.Token][]byte
	outputErr     error
	devices       []Device
	series        map[fsm.Token][]MetricSeries
	asked         int // reads of output
	killed        []string
}

const (
	nodeA = "aaaaaaaaaaaaaaaaaaaaaaaaaa"
	nodeB = "bbbbbbbbbbbbbbbbbbbbbbbbbb"
	gpuA  = "GPU-aaaa-0"
)

// tokens of the lab's people; ana and bob are members.
const (
	tokenViewer = "cvu_viewer-viewer-viewer-viewer"
	tokenAna    = "cvu_ana-ana-ana-ana-ana-ana-ana"
	tokenBob    = "cvu_bob-bob-bob-bob-bob-bob-bob"
	tokenAdmin  = "cvu_admin-admin-admin-admin-adm"
)

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, state: fsm.New(), leader: nodeA, output: map[fsm.Token][]byte{}}
	l.apply(&fsm.Found{Cluster: "c1", Name: "vision", Node: fsm.Node{ID: nodeA, Name: "gpu1", CPUSlots: 4, GPUs: []fsm.GPU{{UUID: gpuA, Name: "RTX 4090", Memory: 24 << 30}}}})
	for user, x := range map[string]struct {
		token string
		role  fsm.Role
	}{"vera": {tokenViewer, fsm.Viewer}, "ana": {tokenAna, fsm.Member}, "bob": {tokenBob, fsm.Member}, "root": {tokenAdmin, fsm.Admin}} {
		l.apply(&fsm.Grant{Access: fsm.Access{ID: "id-" + user, Kind: fsm.AccessUser, User: user, Role: x.role, Secret: secretOf(x.token)}})
	}
	srv, err := New(Options{
		Cluster: l, Machines: machinesOf{l}, Logs: logsOf{l}, Charts: chartsOf{l}, Joins: joinsOf{l}, Version: "test", NodeName: "gpu1",
		Logger:       slog.New(slog.NewJSONHandler(lockedWriter{l}, &slog.HandlerOptions{Level: slog.LevelDebug})),
		AllowedHosts: func() []string { return []string{"example.com", "gpu1.lab"} },
		Pages:        http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "page") }),
	})
	if err != nil {
		t.Fatal(err)
	}
	l.srv = srv
	return l
}

type lockedWriter struct{ l *lab }

func (w lockedWriter) Write(p []byte) (int, error) {
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	return w.l.log.Write(p)
}

func (l *lab) logged() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.log.String()
}

// apply commits a command as the machinery would.
func (l *lab) apply(c fsm.Command) fsm.Result {
	l.t.Helper()
	r, err := l.commit(fsm.Entry{By: "machinery", At: time.Now(), Command: c})
	if err != nil {
		l.t.Fatal(err)
	}
	if r.Refused() {
		l.t.Fatalf("%s: %s", c.Kind(), r.Message)
	}
	return r
}

func (l *lab) commit(e fsm.Entry) (fsm.Result, error) {
	data, err := fsm.Encode(e)
	if err != nil {
		return fsm.Result{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.index++
	return l.state.Apply(l.index, data)
}

func (l *lab) State() *fsm.State { return l.state }

func (l *lab) Propose(_ context.Context, e fsm.Entry) (fsm.Result, error) {
	l.mu.Lock()
	l.proposed++
	n, before, after := l.proposed, l.before, l.after
	l.mu.Unlock()
	if before != nil {
		if err := before(n); err != nil {
			return fsm.Result{}, err
		}
	}
	r, err := l.commit(e)
	if err == nil && after != nil {
		err = after(n)
	}
	return r, err
}

func (l *lab) Barrier(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.barriers++
	if l.leader == "" {
		return cluster.ErrNoLeader
	}
	return nil
}

func (l *lab) Age() time.Duration { return 40 * time.Millisecond }

func (l *lab) Status(context.Context) ClusterStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := ClusterStatus{ID: "c1", Name: "vision", Term: 3, Voters: 1, Trouble: l.trouble, Nodes: []ClusterNode{{ID: nodeA, Name: "gpu1", Role: "leader", State: "alive"}}}
	if l.leader != "" {
		s.Leader = &NodeRef{ID: l.leader, Name: "gpu1"}
	}
	return s
}

func (l *lab) setLeader(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leader = id
}

type machinesOf struct{ l *lab }

func (m machinesOf) Devices(context.Context) ([]Device, time.Duration) {
	m.l.mu.Lock()
	defer m.l.mu.Unlock()
	return slices.Clone(m.l.devices), 700 * time.Millisecond
}

func (m machinesOf) Reasons(_ context.Context, ids []uint64) map[uint64]string {
	out := map[uint64]string{}
	for _, id := range ids {
		out[id] = fmt.Sprintf("experiment %d waits for a GPU", id)
	}
	return out
}

func (m machinesOf) Why(_ context.Context, id uint64) (Explanation, error) {
	if id == 666 {
		return Explanation{}, errors.New("dial leader: refused")
	}
	return Explanation{Sentence: "waits for a GPU", Nodes: []NodeReason{{Node: nodeA, Name: "gpu1", Sentence: "has 0 of 1 GPUs free"}}, Start: "1 more free GPU"}, nil
}

type chartsOf struct{ l *lab }

// Metrics answers from the map; an attempt of nodeB does not answer.
func (f chartsOf) Metrics(_ context.Context, q MetricsRequest) ([]MetricSeries, error) {
	f.l.mu.Lock()
	defer f.l.mu.Unlock()
	if q.Attempt.Node == nodeB {
		return nil, errors.New("dial: refused")
	}
	all, found := f.l.series[q.Attempt.Token]
	if !found {
		return nil, fmt.Errorf("read metrics: %w", fs.ErrNotExist)
	}
	var list []MetricSeries
	for _, s := range all {
		if len(q.Keys) == 0 || slices.Contains(q.Keys, s.Key) {
			s.Values = s.Values[:min(len(s.Values), q.Points)]
			list = append(list, s)
		}
	}
	return list, nil
}

// Progress says that experiment 1 is half way.
func (f chartsOf) Progress(_ context.Context, ids []uint64) map[uint64]Progress {
	if slices.Contains(ids, 1) {
		return map[uint64]Progress{1: {Epoch: 5, Epochs: 10, Fraction: 0.5}}
	}
	return nil
}

// KillStray takes the stray out of the list, as a node does.
func (m machinesOf) KillStray(_ context.Context, node string, token fsm.Token, by string) error {
	m.l.mu.Lock()
	defer m.l.mu.Unlock()
	for i, d := range m.l.devices {
		for j, s := range d.Strays {
			if d.ID == node && s.Token == token {
				m.l.devices[i].Strays = slices.Delete(slices.Clone(d.Strays), j, j+1)
				m.l.killed = append(m.l.killed, token.String()+" by "+by)
				return nil
			}
		}
	}
	if node == nodeB {
		return errors.New("dial: refused")
	}
	return fmt.Errorf("kill: %w", fs.ErrNotExist)
}

type logsOf struct{ l *lab }

// Read answers from the map and waits by looking again, as a node does.
func (f logsOf) Read(ctx context.Context, q LogRequest) (LogChunk, error) {
	for {
		changed := f.l.state.Changed()
		c, found, err := f.try(q)
		if err != nil {
			return c, err
		}
		if !found && c.Ended {
			return c, fmt.Errorf("open the output: %w", fs.ErrNotExist)
		}
		if !q.Wait || len(c.Data) > 0 || c.Ended {
			return c, nil
		}
		select {
		case <-ctx.Done():
			return c, ctx.Err()
		case <-changed:
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (f logsOf) try(q LogRequest) (LogChunk, bool, error) {
	a := f.l.state.View().Attempt(q.Attempt.Token)
	f.l.mu.Lock()
	defer f.l.mu.Unlock()
	f.l.asked++
	if f.l.outputErr != nil {
		return LogChunk{}, false, f.l.outputErr
	}
	out, found := f.l.output[q.Attempt.Token]
	from := min(q.From, int64(len(out)))
	data := out[from:min(int64(len(out)), from+int64(min(q.Max, 1<<20)))]
	return LogChunk{Data: slices.Clone(data), From: from, Next: from + int64(len(data)), Size: int64(len(out)), Ended: !a.Open()}, found, nil
}

// write makes an attempt print something.
func (l *lab) write(t fsm.Token, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.output[t] = append(l.output[t], text...)
}

type joinsOf struct{ l *lab }

func (j joinsOf) CreateJoinToken(_ context.Context, by string, uses int, ttl time.Duration) (string, *fsm.Access, error) {
	a := fsm.Access{ID: "join1", Kind: fsm.AccessJoin, Secret: bytes.Repeat([]byte{7}, 16), Uses: uses, ExpiresAt: time.Now().Add(ttl)}
	_, err := j.l.commit(fsm.Entry{By: by, At: time.Now(), Command: &fsm.Grant{Access: a}})
	return "cvj1_join1_secret_check", &a, err
}

func (j joinsOf) Leave(context.Context, string) error { return j.l.leaveErr }

func (j joinsOf) JoinOther(context.Context, string, string) error { return nil }

// submit stores an experiment of a person's, without the API.
func (l *lab) submit(user string, s fsm.Spec) uint64 {
	l.t.Helper()
	if s.Device.Kind == "" {
		s.Device = fsm.Device{Kind: fsm.DeviceCPU}
	}
	r, err := l.commit(fsm.Entry{By: user, At: time.Now(), Command: &fsm.Submit{Spec: s}})
	if err != nil || r.Refused() {
		l.t.Fatal(err, r.Message)
	}
	return r.Experiments[0]
}

// start runs an experiment on gpu1 and gives its attempt.
func (l *lab) start(id uint64) fsm.Token {
	l.t.Helper()
	token := l.apply(&fsm.Assign{Experiment: id, Node: nodeA}).Token
	l.apply(&fsm.Start{Token: token, Node: nodeA, BootID: "boot1"})
	return token
}

func (l *lab) finish(t fsm.Token, class fsm.Class, code int) {
	l.t.Helper()
	l.apply(&fsm.Finish{Token: t, Node: nodeA, Class: class, ExitCode: &code})
}

// serve opens a real server on a port of its own.
func (l *lab) serve() string {
	l.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := httptest.NewUnstartedServer(l.srv.Handler())
	s.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	s.Config.MaxHeaderBytes = 16 << 10
	s.Config.WriteTimeout = 2 * time.Second // streams must live longer
	s.Start()
	l.t.Cleanup(func() {
		cancel()
		s.CloseClientConnections()
		s.Close()
	})
	return s.URL
}

func (l *lab) client(url, token string, more ...Address) *Client {
	l.t.Helper()
	transport := &http.Transport{}
	l.t.Cleanup(transport.CloseIdleConnections)
	c, err := NewClient(ClientOptions{URL: url, Token: token, Fallback: more, HTTP: &http.Client{Transport: transport}})
	if err != nil {
		l.t.Fatal(err)
	}
	return c
}

// ask sends one request through every layer. Header lines are "Name: value"; a body makes it JSON.
func (l *lab) ask(method, path, token, body string, header ...string) *httptest.ResponseRecorder {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 5*time.Second) // a stream that should have been refused must not hang the test
	defer cancel()
	r := httptest.NewRequestWithContext(ctx, method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		if name == "Host" {
			r.Host = value
			continue
		}
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	l.srv.Handler().ServeHTTP(w, r)
	return w
}

func decoded[T any](t *testing.T, w *httptest.ResponseRecorder) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatalf("decode %s: %v", w.Body, err)
	}
	return v
}

// within waits for a condition with a deadline.
func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline, tick := time.After(5*time.Second), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not within 5 s: %s", what)
		case <-tick.C:
		}
	}
}

func keys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
