package api

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"github.com/deveronica/cvlab/fsm"
)

// This file answers scripts that were written against cvlab-kit's own server, in its shapes over our facts.

type upstreamList struct {
	Jobs  []upstreamJob `json:"jobs"`
	Total int           `json:"total"`
}

// upstreamJob is cvlab-kit's QueueJob, as far as its scripts read it. Its uid is our number.
type upstreamJob struct {
	UID            string         `json:"experiment_uid"`
	Name           string         `json:"name"`
	Project        string         `json:"project"`
	Status         string         `json:"status"`
	Priority       string         `json:"priority"`
	CreatedAt      string         `json:"created_at"`
	QueuedAt       string         `json:"queued_at"`
	StartedAt      *string        `json:"started_at"`
	CompletedAt    *string        `json:"completed_at"`
	AssignedDevice *string        `json:"assigned_device"`
	Progress       float64        `json:"progress"`
	ErrorMessage   *string        `json:"error_message"`
	RetryCount     int            `json:"retry_count"`
	MaxRetries     int            `json:"max_retries"`
	User           string         `json:"user"`
	Tags           []string       `json:"tags"`
	Metadata       map[string]any `json:"metadata"`
}

type upstreamStats struct {
	Total     int `json:"total_jobs"`
	Pending   int `json:"pending_jobs"`
	Queued    int `json:"queued_jobs"`
	Running   int `json:"running_jobs"`
	Completed int `json:"completed_jobs"`
	Failed    int `json:"failed_jobs"`
	Cancelled int `json:"cancelled_jobs"`
}

type upstreamProject struct {
	Project     string        `json:"project"`
	Count       int           `json:"experiment_count"`
	Experiments []upstreamRun `json:"experiments"`
}

type upstreamRun struct {
	Name            string         `json:"run_name"`
	Status          string         `json:"status"`
	StartedAt       *string        `json:"started_at"`
	FinishedAt      *string        `json:"finished_at"`
	LastUpdated     string         `json:"last_updated"`
	Hyperparameters map[string]any `json:"hyperparameters"`
	Notes           string         `json:"notes"`
	Tags            []string       `json:"tags"`
}

// upstreamStatus gives cvlab-kit's word: it calls "paused" what we call held.
func upstreamStatus(s fsm.Status) string {
	if s == fsm.Held {
		return "paused"
	}
	return string(s)
}

func isoTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func isoWhen(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	text := isoTime(t)
	return &text
}

func (sh *shower) upstreamJob(e *fsm.Experiment) upstreamJob {
	x := sh.experiment(e)
	j := upstreamJob{
		UID: strconv.FormatUint(e.ID, 10), Name: e.Name, Project: e.Project, Status: upstreamStatus(e.Status), Priority: e.Priority.String(),
		CreatedAt: isoTime(e.CreatedAt), QueuedAt: isoTime(e.CreatedAt), StartedAt: isoWhen(e.StartedAt), CompletedAt: isoWhen(e.EndedAt),
		RetryCount: e.Failures, MaxRetries: sh.batch(e.Batch).Spec.Retries, User: e.User, Tags: list(e.Tags), Metadata: map[string]any{},
	}
	if e.Status == fsm.Completed {
		j.Progress = 1
	}
	if x.Node != "" {
		j.AssignedDevice = &x.Node
	}
	if e.Status == fsm.Failed || e.Status == fsm.Cancelled {
		text := strings.TrimSuffix(fmt.Sprintf("%s: %s", e.Class, e.Message), ": ")
		j.ErrorMessage = &text
	}
	return j
}

func (s *Server) upstreamList(w http.ResponseWriter, r *http.Request) error {
	v := r.URL.Query()
	limit, err := boundedInt(v, "limit", defaultLimit, 1, maxLimit)
	if err != nil {
		return err
	}
	offset, err := boundedInt(v, "offset", 0, 0, 1<<31)
	if err != nil {
		return err
	}
	sh := newShower(s.o.Cluster.State().View())
	out := upstreamList{Jobs: []upstreamJob{}}
	for e := range sh.view.Newest() {
		if p := v.Get("project"); p != "" && e.Project != p {
			continue
		}
		if st := v.Get("status"); st != "" && upstreamStatus(e.Status) != st && string(e.Status) != st {
			continue
		}
		if out.Total++; out.Total > offset && len(out.Jobs) < limit {
			out.Jobs = append(out.Jobs, sh.upstreamJob(e))
		}
	}
	return answer(w, http.StatusOK, out)
}

func boundedInt(v url.Values, name string, missing, least, most int) (int, error) {
	text := v.Get(name)
	if text == "" {
		return missing, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		return 0, problem(http.StatusBadRequest, fmt.Sprintf("%s is a number from %d to %d", name, least, most), "")
	}
	return n, nil
}

func (s *Server) upstreamStats(w http.ResponseWriter, _ *http.Request) error {
	c := s.o.Cluster.State().View().Counts()
	out := upstreamStats{
		Pending: c[fsm.Pending] + c[fsm.Held], Running: c[fsm.Running], Completed: c[fsm.Completed], Failed: c[fsm.Failed], Cancelled: c[fsm.Cancelled],
	}
	for _, n := range c {
		out.Total += n
	}
	return answer(w, http.StatusOK, out)
}

func (s *Server) upstreamCancel(w http.ResponseWriter, r *http.Request) error {
	// Its scripts send this without a body, or with one that means nothing.
	vars := mux.Vars(r)
	vars["id"] = vars["uid"]
	e, err := newShower(s.o.Cluster.State().View()).named(r)
	if err != nil {
		return err
	}
	if err := mayChange(callerOf(r), e); err != nil {
		return err
	}
	if _, err := s.commit(w, r, &fsm.Cancel{Experiments: []uint64{e.ID}}); err != nil {
		return err
	}
	return answer(w, http.StatusOK, messageAnswer{Message: fmt.Sprintf("Experiment %d cancelled", e.ID)})
}

func (s *Server) upstreamProject(w http.ResponseWriter, r *http.Request) error {
	name := mux.Vars(r)["name"]
	sh := newShower(s.o.Cluster.State().View())
	out := upstreamProject{Project: name}
	for e := range sh.view.Newest() {
		if e.Project != name {
			continue
		}
		out.Count++
		if len(out.Experiments) == maxLimit {
			continue
		}
		params := map[string]any{}
		for _, p := range sh.batch(e.Batch).Spec.Params(e.Ordinal) {
			params[p.Key] = p.Value
		}
		out.Experiments = append(out.Experiments, upstreamRun{
			Name: e.Name, Status: upstreamStatus(e.Status), StartedAt: isoWhen(e.StartedAt), FinishedAt: isoWhen(e.EndedAt),
			LastUpdated:     isoTime(slices.MaxFunc([]time.Time{e.CreatedAt, e.StartedAt, e.EndedAt}, time.Time.Compare)),
			Hyperparameters: params, Notes: e.Notes, Tags: list(e.Tags),
		})
	}
	if out.Count == 0 {
		return noProject(name)
	}
	return answer(w, http.StatusOK, out)
}
