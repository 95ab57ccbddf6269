package api

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/gorilla/mux"

	"github.com/deveronica/cvlab/fsm"
)

// Limits of what people may write about an experiment, in bytes.
const (
	maxName  = 200
	maxNotes = 2000
	maxTags  = 50
	maxBulk  = fsm.MaxBatch
)

// named gives the experiment that the path names.
func (sh *shower) named(r *http.Request) (*fsm.Experiment, error) {
	word := mux.Vars(r)["id"]
	id, err := strconv.ParseUint(word, 10, 64)
	if err == nil {
		if e := sh.view.Experiment(id); e != nil {
			return e, nil
		}
	}
	return nil, problem(http.StatusNotFound, fmt.Sprintf("experiment %s does not exist", clip(word, 20)), "cvlab queue --all lists them")
}

func (s *Server) cancel(w http.ResponseWriter, r *http.Request) error { return s.act(w, r, "cancel") }
func (s *Server) retry(w http.ResponseWriter, r *http.Request) error  { return s.act(w, r, "retry") }
func (s *Server) hold(w http.ResponseWriter, r *http.Request) error   { return s.act(w, r, "hold") }
func (s *Server) release(w http.ResponseWriter, r *http.Request) error {
	return s.act(w, r, "release")
}

// act does one thing to the experiment of the path.
func (s *Server) act(w http.ResponseWriter, r *http.Request, action string) error {
	var body actionBody
	if err := readBody(r, &body, true); err != nil {
		return err
	}
	e, err := newShower(s.o.Cluster.State().View()).named(r)
	if err != nil {
		return err
	}
	if err := mayChange(callerOf(r), e); err != nil {
		return err
	}
	c, err := command(BulkRequest{Action: action, Reason: body.Reason}, []uint64{e.ID})
	if err != nil {
		return err
	}
	return s.change(w, r, c)
}

func (s *Server) patch(w http.ResponseWriter, r *http.Request) error {
	var p Patch
	if err := readBody(r, &p, false); err != nil {
		return err
	}
	e, err := newShower(s.o.Cluster.State().View()).named(r)
	if err != nil {
		return err
	}
	if err := mayChange(callerOf(r), e); err != nil {
		return err
	}
	c, err := command(BulkRequest{Action: "patch", Patch: &p}, []uint64{e.ID})
	if err != nil {
		return err
	}
	return s.change(w, r, c)
}

func (s *Server) bulk(w http.ResponseWriter, r *http.Request) error {
	var b BulkRequest
	if err := readBody(r, &b, false); err != nil {
		return err
	}
	ids, err := s.selected(r, b)
	if err != nil {
		return err
	}
	c, err := command(b, ids)
	if err != nil {
		return err
	}
	return s.change(w, r, c)
}

func (s *Server) change(w http.ResponseWriter, r *http.Request, c fsm.Command) error {
	res, err := s.commit(w, r, c)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, Changed{Experiments: list(res.Experiments), Message: res.Message})
}

// command makes the fact's command of an action.
func command(b BulkRequest, ids []uint64) (fsm.Command, error) {
	if err := checkText("reason", b.Reason, maxName); err != nil {
		return nil, err
	}
	switch b.Action {
	case "cancel":
		return &fsm.Cancel{Experiments: ids, Reason: b.Reason}, nil
	case "retry":
		return &fsm.Retry{Experiments: ids}, nil
	case "hold":
		return &fsm.Hold{Experiments: ids, Reason: b.Reason}, nil
	case "release":
		return &fsm.Release{Experiments: ids}, nil
	case "patch":
		return annotate(b.Patch, ids)
	}
	return nil, problem(http.StatusBadRequest, fmt.Sprintf("action %q is not possible", clip(b.Action, 50)), "possible: cancel, retry, hold, release, patch")
}

func annotate(p *Patch, ids []uint64) (fsm.Command, error) {
	if p == nil || *p == (Patch{}) {
		return nil, problem(http.StatusBadRequest, "nothing is to be changed", "give priority, name, tags or notes")
	}
	c := &fsm.Annotate{Experiments: ids, Name: p.Name, Tags: p.Tags, Notes: p.Notes}
	if p.Priority != nil {
		v, err := fsm.ParsePriority(*p.Priority)
		if err != nil || *p.Priority == "" {
			return nil, problem(http.StatusUnprocessableEntity, fmt.Sprintf("priority %q is not one of low, normal, high, urgent", clip(*p.Priority, 50)), "")
		}
		c.Priority = &v
	}
	if p.Name != nil {
		if strings.TrimSpace(*p.Name) == "" {
			return nil, problem(http.StatusUnprocessableEntity, "a name has at least one character", "")
		}
		if err := checkText("name", *p.Name, maxName); err != nil {
			return nil, err
		}
	}
	if p.Tags != nil {
		if len(*p.Tags) > maxTags {
			return nil, problem(http.StatusUnprocessableEntity, fmt.Sprintf("an experiment has at most %d tags", maxTags), "")
		}
		for _, tag := range *p.Tags {
			if err := checkText("tag", tag, maxName); err != nil {
				return nil, err
			}
		}
	}
	if p.Notes != nil && (len(*p.Notes) > maxNotes || !utf8.ValidString(*p.Notes)) {
		return nil, problem(http.StatusUnprocessableEntity, fmt.Sprintf("notes are text of at most %d bytes", maxNotes), "")
	}
	return c, nil
}

// checkText refuses names that would break a line of a log, a table or a terminal.
func checkText(what, text string, most int) error {
	if len(text) > most {
		return problem(http.StatusUnprocessableEntity, fmt.Sprintf("the %s has %d bytes, the limit is %d", what, len(text), most), "")
	}
	if !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		return problem(http.StatusUnprocessableEntity, "the "+what+" has control characters or is not UTF-8", "")
	}
	return nil
}

// selected gives the numbers a bulk request means; the caller must be allowed to change each that is named one by one,
// and a selection finds only what the caller may change.
func (s *Server) selected(r *http.Request, b BulkRequest) ([]uint64, error) {
	view, who := s.o.Cluster.State().View(), callerOf(r)
	if len(b.IDs) > 0 == (b.Select != nil) {
		return nil, problem(http.StatusBadRequest, "give either ids or select", "")
	}
	if len(b.IDs) > maxBulk {
		return nil, problem(http.StatusUnprocessableEntity, fmt.Sprintf("at most %d experiments at once", maxBulk), "use select")
	}
	if b.Select == nil {
		for _, id := range b.IDs {
			if e := view.Experiment(id); e != nil {
				if err := mayChange(who, e); err != nil {
					return nil, err
				}
			}
		}
		return b.IDs, nil
	}
	q := QueueQuery{Project: b.Select.Project, User: b.Select.User, Sweep: b.Select.Sweep}
	if q.Project == "" && q.User == "" && q.Sweep == 0 && len(b.Select.Status) == 0 {
		return nil, problem(http.StatusBadRequest, "select needs at least one of project, status, user, sweep", "")
	}
	var ids []uint64
	sh := newShower(view)
	for e := range view.Experiments() {
		if sh.matches(e, q, "") && (len(b.Select.Status) == 0 || slices.Contains(b.Select.Status, e.Status)) && mayChange(who, e) == nil {
			ids = append(ids, e.ID)
		}
	}
	if len(ids) > maxBulk {
		return nil, problem(http.StatusUnprocessableEntity, fmt.Sprintf("%d experiments match, at most %d are changed at once", len(ids), maxBulk), "narrow the selection")
	}
	if len(ids) == 0 {
		return nil, problem(http.StatusNotFound, "no experiment of yours matches", "")
	}
	return ids, nil
}
