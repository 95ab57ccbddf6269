package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/deveronica/cvlab/fsm"
)

// Charts reads the metrics of attempts, wherever their files lie.
type Charts interface {
	// Metrics gives the series of one attempt. An attempt without files that can be reached gives an error that wraps
	// fs.ErrNotExist.
	Metrics(ctx context.Context, q MetricsRequest) ([]MetricSeries, error)
	// Progress gives how far these running experiments are; those that say nothing are left out.
	Progress(ctx context.Context, ids []uint64) map[uint64]Progress
}

// MetricsRequest asks for the series of one attempt.
type MetricsRequest struct {
	Attempt *fsm.Attempt
	// Keys are the series wanted; none means all.
	Keys []string
	// From and To are the first and last step wanted; infinities for no bound.
	From, To float64
	// Points is how many a series may have at most; 0 gives only what a list shows of it.
	Points int
}

// Metrics are the series of one experiment's attempt.
type Metrics struct {
	Experiment uint64         `json:"experiment"`
	Attempt    int            `json:"attempt"`
	Series     []MetricSeries `json:"series"`
	// Error says in one sentence why there are none; empty when there is no reason but that nothing was written.
	Error string `json:"error,omitempty"`
}

// MetricSeries is one series. Where more than Points values were written, each point stands for some that follow each other:
// Min and Max keep every peak.
type MetricSeries struct {
	Key   string `json:"key"`
	File  string `json:"file"`  // below the run directory
	Count uint64 `json:"count"` // of the values in the window's run, all of them
	// Last and LastStep are the newest value; Least and Most the extremes, with their steps.
	Last      Number `json:"last"`
	LastStep  Number `json:"last_step"`
	Least     Number `json:"least"`
	LeastStep Number `json:"least_step"`
	Most      Number `json:"most"`
	MostStep  Number `json:"most_step"`

	// Steps and Values are the points: the last step and value of each. Wall is in seconds since 1970, left out when the file
	// tells no time. Min, Max and Mean are left out when each point is one value.
	Steps  []Number `json:"steps,omitempty"`
	Values []Number `json:"values,omitempty"`
	Wall   []Number `json:"wall,omitempty"`
	Min    []Number `json:"min,omitempty"`
	Max    []Number `json:"max,omitempty"`
	Mean   []Number `json:"mean,omitempty"`
}

// Number is a value that may be missing: NaN and the infinities are null in JSON.
type Number float64

// MarshalJSON writes a number or null.
func (n Number) MarshalJSON() ([]byte, error) {
	if math.IsNaN(float64(n)) || math.IsInf(float64(n), 0) {
		return []byte("null"), nil
	}
	return strconv.AppendFloat(nil, float64(n), 'g', -1, 64), nil
}

// UnmarshalJSON reads a number; null becomes NaN.
func (n *Number) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		*n = Number(math.NaN())
		return nil
	}
	v, err := strconv.ParseFloat(string(data), 64)
	if err != nil {
		return fmt.Errorf("read number: %w", err)
	}
	*n = Number(v)
	return nil
}

// comparison is the answer for several experiments at once.
type comparison struct {
	Runs []Metrics `json:"runs"`
}

// Limits of one question.
const (
	defaultPoints  = 500
	maxPoints      = 20_000
	maxCompared    = 100
	comparedAtOnce = 16
)

func (s *Server) metrics(w http.ResponseWriter, r *http.Request) error {
	sh := newShower(s.o.Cluster.State().View())
	e, err := sh.named(r)
	if err != nil {
		return err
	}
	q, err := parseMetrics(r.URL.Query())
	if err != nil {
		return err
	}
	number, err := boundedInt(r.URL.Query(), "attempt", 0, 0, 1<<31-1)
	if err != nil {
		return err
	}
	if q.Attempt = attemptOf(sh.view, e, number); q.Attempt == nil && number > 0 {
		return problem(http.StatusNotFound, fmt.Sprintf("experiment %d has no attempt %d", e.ID, number), fmt.Sprintf("it has made %d", e.Attempts))
	}
	m := Metrics{Experiment: e.ID, Series: []MetricSeries{}}
	if q.Attempt == nil { // it has not begun
		return answer(w, http.StatusOK, m)
	}
	m.Attempt = q.Attempt.Number
	got, err := s.o.Charts.Metrics(r.Context(), q)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		m.Error = "its files cannot be reached; it ran on " + sh.nodeName(q.Attempt.Node)
	case err != nil:
		return s.notNow(r, err, "the metrics lie on "+sh.nodeName(q.Attempt.Node)+", which does not answer now")
	}
	m.Series = list(got)
	return answer(w, http.StatusOK, m)
}

// compare answers for several experiments at once. One whose machine does not answer costs only itself.
func (s *Server) compare(w http.ResponseWriter, r *http.Request) error {
	sh := newShower(s.o.Cluster.State().View())
	q, err := parseMetrics(r.URL.Query())
	if err != nil {
		return err
	}
	ids, err := parseIDs(r.URL.Query()["id"])
	if err != nil {
		return err
	}
	out := comparison{Runs: make([]Metrics, len(ids))}
	var g sync.WaitGroup
	slots := make(chan struct{}, comparedAtOnce)
	for i, id := range ids {
		e := sh.view.Experiment(id)
		if e == nil {
			return problem(http.StatusNotFound, fmt.Sprintf("experiment %d does not exist", id), "")
		}
		m := &out.Runs[i]
		*m = Metrics{Experiment: id, Series: []MetricSeries{}}
		a := sh.view.Attempt(e.Token)
		if a == nil {
			continue
		}
		m.Attempt = a.Number
		one := q
		one.Attempt = a
		g.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			got, err := s.o.Charts.Metrics(r.Context(), one)
			if err != nil {
				m.Error = "its metrics cannot be read now; they lie on " + sh.nodeName(a.Node)
				s.log.DebugContext(r.Context(), "metrics of a comparison", "experiment", id, "error", err)
				return
			}
			m.Series = list(got)
		})
	}
	g.Wait()
	return answer(w, http.StatusOK, out)
}

func parseIDs(words []string) ([]uint64, error) {
	var ids []uint64
	for _, word := range words {
		for one := range strings.SplitSeq(word, ",") {
			id, err := strconv.ParseUint(one, 10, 64)
			if err != nil {
				return nil, problem(http.StatusBadRequest, fmt.Sprintf("%q is no number of an experiment", clip(one, 50)), "write id=17,18,19")
			}
			if !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	if len(ids) == 0 || len(ids) > maxCompared {
		return nil, problem(http.StatusBadRequest, fmt.Sprintf("1 to %d experiments can be compared, not %d", maxCompared, len(ids)), "write id=17,18,19")
	}
	return ids, nil
}

func parseMetrics(v url.Values) (MetricsRequest, error) {
	q := MetricsRequest{From: math.Inf(-1), To: math.Inf(1), Points: defaultPoints}
	for _, word := range v["keys"] {
		for one := range strings.SplitSeq(word, ",") {
			if one != "" {
				q.Keys = append(q.Keys, one)
			}
		}
	}
	var err error
	if text := v.Get("points"); text != "" {
		if q.Points, err = strconv.Atoi(text); err != nil || q.Points < 0 || q.Points > maxPoints {
			return q, problem(http.StatusBadRequest, fmt.Sprintf("points is a number from 0 to %d", maxPoints), "0 gives only last and extreme values")
		}
	}
	for name, to := range map[string]*float64{"from": &q.From, "to": &q.To} {
		if text := v.Get(name); text != "" {
			if *to, err = strconv.ParseFloat(text, 64); err != nil || math.IsNaN(*to) {
				return q, problem(http.StatusBadRequest, name+" is a step, a number", "")
			}
		}
	}
	return q, nil
}

// progress fills in how far the running ones of a list are.
func (s *Server) progress(ctx context.Context, list []Experiment) {
	var ids []uint64
	for _, e := range list {
		if e.Status == fsm.Running {
			ids = append(ids, e.ID)
		}
	}
	if len(ids) == 0 {
		return
	}
	known := s.o.Charts.Progress(ctx, ids)
	for i := range list {
		if p, ok := known[list[i].ID]; ok && list[i].Status == fsm.Running {
			list[i].Progress = &p
		}
	}
}
