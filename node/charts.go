package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/ui/api"
	"github.com/deveronica/cvlab/ui/metrics"
)

// charts reads the metrics of attempts: of this machine's own from their files, of others through the machine that ran them.
// What runs here it follows all the time, so that a question waits for no file.
type charts struct {
	self  string // this node's ID
	seat  healthSeat
	peers *peers
	// runs holds the attempts' files, cache the columns made from them, both by experiment and attempt.
	runs, cache string
	output      func(token string) string // where an attempt's output lies
	logger      *slog.Logger

	mu   sync.Mutex
	open map[fsm.Token]*opened
	far  map[uint64]metrics.Progress // of what runs here
}

// opened is one attempt whose columns are open.
type opened struct {
	run  *metrics.Run
	used time.Time
}

const (
	// chartsEvery is how often the files of what runs here are looked at.
	chartsEvery = time.Second
	// maxOpened is how many attempts' columns are kept open; an open one holds no file, only its index.
	maxOpened = 256
	// progressTail is how much of the output's end is read for progress: some refreshes of a bar.
	progressTail = 8 << 10
)

// Run follows what runs here until ctx ends.
func (c *charts) Run(ctx context.Context) error {
	tick := time.NewTicker(chartsEvery)
	defer tick.Stop()
	for {
		c.look(ctx)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (c *charts) look(ctx context.Context) {
	v := c.seat.State().View()
	far := map[uint64]metrics.Progress{}
	for a := range v.Open(c.self) {
		e := v.Experiment(a.Experiment)
		if a.State != fsm.AttemptStarted || e == nil || ctx.Err() != nil {
			continue
		}
		run, err := c.of(a)
		if err == nil {
			_, err = run.Update(ctx, time.Now(), false)
		}
		if err != nil && ctx.Err() == nil {
			c.logger.DebugContext(ctx, "metrics", "token", a.Token.String(), "error", err)
		}
		if p, ok := c.progressOf(a, v.Spec(e).Epochs, run); ok {
			far[e.ID] = p
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.far = far
}

// progressOf reads how far an attempt is from its output, or else from the last step of its metrics.
func (c *charts) progressOf(a *fsm.Attempt, epochs int, run *metrics.Run) (metrics.Progress, bool) {
	if tail, err := readTail(c.output(a.Token.String()), progressTail); err == nil {
		if p, ok := metrics.ReadProgress(tail, epochs); ok {
			return p, true
		}
	}
	if epochs <= 0 || run == nil {
		return metrics.Progress{}, false
	}
	last := 0.0
	for _, s := range run.Series() {
		last = max(last, s.All.To)
	}
	if last < 1 || last > float64(epochs) { // a step that is no epoch
		return metrics.Progress{}, false
	}
	return metrics.Progress{Epoch: int(last), Epochs: epochs, Fraction: last / float64(epochs)}, true
}

// readTail reads the end of a file.
func readTail(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the end of the output: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read the end of the output: %w", err)
	}
	tail := make([]byte, min(info.Size(), most))
	n, err := f.ReadAt(tail, info.Size()-int64(len(tail)))
	if n == 0 && err != nil && len(tail) > 0 {
		return nil, fmt.Errorf("read the end of the output: %w", err)
	}
	return tail[:n], nil
}

// Here gives how far the experiments are that run here.
func (c *charts) Here() map[uint64]metrics.Progress {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.far
}

// of opens the columns of an attempt of this machine.
func (c *charts) of(a *fsm.Attempt) (*metrics.Run, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o := c.open[a.Token]; o != nil {
		o.used = time.Now()
		return o.run, nil
	}
	name := filepath.Join(strconv.FormatUint(a.Experiment, 10), strconv.Itoa(a.Number))
	run, err := metrics.Open(filepath.Join(c.runs, name), filepath.Join(c.cache, name))
	if err != nil {
		return nil, err
	}
	if c.open == nil {
		c.open = map[fsm.Token]*opened{}
	}
	if len(c.open) >= maxOpened {
		c.closeOldest()
	}
	c.open[a.Token] = &opened{run: run, used: time.Now()}
	return run, nil
}

func (c *charts) closeOldest() {
	var oldest fsm.Token
	for t, o := range c.open {
		if oldest.IsZero() || o.used.Before(c.open[oldest].used) {
			oldest = t
		}
	}
	delete(c.open, oldest)
}

// Metrics implements api.Charts.
func (c *charts) Metrics(ctx context.Context, q api.MetricsRequest) ([]api.MetricSeries, error) {
	if q.Attempt.Node == c.self {
		return c.local(ctx, q)
	}
	query := url.Values{"token": {q.Attempt.Token.String()}, "key": q.Keys, "points": {strconv.Itoa(q.Points)},
		"from": {formatStep(q.From)}, "to": {formatStep(q.To)}}
	resp, err := c.peers.get(ctx, q.Attempt.Node, "/metrics", query)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.Header.Get("X-Missing") != "" {
		return nil, fmt.Errorf("the run's files are no longer on its node: %w", fs.ErrNotExist)
	}
	var list []api.MetricSeries
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		return nil, fmt.Errorf("ask node %s for metrics: %w", q.Attempt.Node, err)
	}
	return list, nil
}

func formatStep(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

// local answers from this machine's files.
func (c *charts) local(ctx context.Context, q api.MetricsRequest) ([]api.MetricSeries, error) {
	run, err := c.of(q.Attempt)
	if err != nil {
		return nil, err
	}
	if !q.Attempt.Open() {
		if _, err := run.Update(ctx, time.Now(), true); err != nil {
			c.logger.DebugContext(ctx, "metrics", "token", q.Attempt.Token.String(), "error", err)
		}
	}
	all := run.Series()
	if _, err := os.Stat(filepath.Join(c.runs, strconv.FormatUint(q.Attempt.Experiment, 10), strconv.Itoa(q.Attempt.Number))); len(all) == 0 && err != nil && !q.Attempt.Open() {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	var list []api.MetricSeries
	for _, s := range all {
		if len(q.Keys) > 0 && !slices.Contains(q.Keys, s.Key) {
			continue
		}
		one := api.MetricSeries{
			Key: s.Key, File: s.File, Count: uint64(s.All.N), Last: api.Number(s.All.Last), LastStep: api.Number(s.All.To),
			Least: api.Number(s.All.Min), LeastStep: api.Number(s.All.MinStep), Most: api.Number(s.All.Max), MostStep: api.Number(s.All.MaxStep),
		}
		if q.Points > 0 {
			buckets, err := run.Chart(s.Key, q.From, q.To, q.Points)
			if errors.Is(err, metrics.ErrNoSeries) {
				continue // its file was written anew just now
			}
			if err != nil {
				return nil, err
			}
			points(&one, buckets)
		}
		list = append(list, one)
	}
	return list, nil
}

// points turns buckets into the arrays of a chart.
func points(s *api.MetricSeries, buckets []metrics.Bucket) {
	timed, grouped := false, false
	for i := range buckets {
		timed = timed || !math.IsNaN(buckets[i].Wall)
		grouped = grouped || buckets[i].N > 1
	}
	for i := range buckets {
		b := &buckets[i]
		s.Steps = append(s.Steps, api.Number(b.To))
		s.Values = append(s.Values, api.Number(b.Last))
		if timed {
			s.Wall = append(s.Wall, api.Number(b.Wall))
		}
		if grouped {
			s.Min, s.Max, s.Mean = append(s.Min, api.Number(b.Min)), append(s.Max, api.Number(b.Max)), append(s.Mean, api.Number(b.Mean()))
		}
	}
}

// Progress implements api.Charts: what the machines said of themselves last.
func (c *charts) Progress(ctx context.Context, ids []uint64) map[uint64]api.Progress {
	if len(ids) == 0 {
		return nil
	}
	all := map[uint64]api.Progress{}
	if !c.askLeader(ctx, &all) {
		all = c.heard()
	}
	for id, p := range c.Here() {
		all[id] = api.Progress(p)
	}
	wanted := map[uint64]api.Progress{}
	for _, id := range ids {
		if p, ok := all[id]; ok {
			wanted[id] = p
		}
	}
	return wanted
}

func (c *charts) askLeader(ctx context.Context, all *map[uint64]api.Progress) bool {
	m := machines{seat: c.seat, peers: c.peers, logger: c.logger}
	return m.ask(ctx, "/progress", nil, all)
}

// heard gives what beacons and gossip told.
func (c *charts) heard() map[uint64]api.Progress {
	all := map[uint64]api.Progress{}
	for _, h := range c.seat.Health() {
		b, err := decodeBeacon(h.Payload)
		if err != nil {
			continue
		}
		for _, r := range b.Runs {
			all[r.Experiment] = api.Progress{Epoch: r.Epoch, Epochs: r.Epochs, Fraction: float64(r.Permille) / 1000}
		}
	}
	return all
}

// metrics answers another node's Metrics.
func (s *peerServer) metrics(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	token, err := fsm.ParseToken(query.Get("token"))
	points, err1 := strconv.Atoi(query.Get("points"))
	from, err2 := strconv.ParseFloat(query.Get("from"), 64)
	to, err3 := strconv.ParseFloat(query.Get("to"), 64)
	if err := errors.Join(err, err1, err2, err3); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a := s.state.View().Attempt(token)
	if a == nil {
		http.Error(w, "attempt "+token.String()+" is not known here yet", http.StatusServiceUnavailable)
		return
	}
	list, err := s.charts.local(r.Context(), api.MetricsRequest{Attempt: a, Keys: query["key"], Points: min(points, metrics.MaxBuckets), From: from, To: to})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		w.Header().Set("X-Missing", "true")
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		answer(w, list)
	}
}

func (s *peerServer) progress(w http.ResponseWriter, _ *http.Request) { answer(w, s.charts.heard()) }
