package api

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/fsm/spec"
)

// add stores a submission: one command for the whole batch, so that a sweep is there as a whole or not at all.
func (s *Server) add(w http.ResponseWriter, r *http.Request) error {
	q, key, err := readAdd(r)
	if err != nil {
		return err
	}
	made, err := parseAdd(q)
	if err != nil {
		return err
	}
	w.Header().Set(headerKey, key)
	res, err := s.propose(w, r, fsm.Entry{By: callerOf(r).user, At: time.Now(), Key: key, Command: &fsm.Submit{Spec: made.Spec, Hold: q.Hold}})
	if err != nil {
		return err
	}
	out := Added{Experiments: make([]Experiment, 0, len(res.Experiments)), Warnings: showProblems(made.Warnings)}
	sh := newShower(s.o.Cluster.State().View())
	for _, id := range res.Experiments {
		if e := sh.view.Experiment(id); e != nil {
			x := sh.experiment(e)
			if x.Status == fsm.Pending {
				x.Reason = notPlanned // to ask the leader for a reason would only slow the submission down
			}
			out.Experiments = append(out.Experiments, x)
		}
	}
	if len(out.Experiments) > 1 {
		out.Sweep = &out.Experiments[0].ID
	}
	w.Header().Set("Location", queuePath(res.Experiments[0], ""))
	return answer(w, http.StatusCreated, out)
}

// previewed is how many experiments a preview shows in full.
const previewed = 10

func (s *Server) preview(w http.ResponseWriter, r *http.Request) error {
	q, _, err := readAdd(r)
	if err != nil {
		return err
	}
	made, err := parseAdd(q)
	if err != nil {
		return err
	}
	out := Preview{
		Count: made.Count, Name: made.Spec.Name, Project: made.Spec.Project, Spec: showSpec(&made.Spec),
		Warnings: list(showProblems(made.Warnings)), Experiments: []PreviewItem{},
	}
	for i := range min(made.Count, previewed) {
		item := PreviewItem{Ordinal: i, Params: Params(made.Spec.Params(i))}
		if item.Config, err = rendered(&made.Spec, i, made.Spec.Device.Kind == fsm.DeviceCPU); err != nil {
			return err
		}
		argv, err := spec.Argv(&made.Spec, i)
		if err != nil {
			return fmt.Errorf("preview command: %w", err)
		}
		item.Command = list(argv)
		out.Experiments = append(out.Experiments, item)
	}
	return answer(w, http.StatusOK, out)
}

// readAdd reads a submission and the key it is made under.
func readAdd(r *http.Request) (AddRequest, string, error) {
	var q AddRequest
	if err := readBody(r, &q, false); err != nil {
		return q, "", err
	}
	header := r.Header.Get(headerKey)
	if header != "" && q.Key != "" && header != q.Key {
		return q, "", problem(http.StatusBadRequest, "the header "+headerKey+" and key in the body differ", "give one of them")
	}
	if header == "" {
		if q.Key != "" {
			return q, q.Key, checkKey(q.Key)
		}
	}
	key, err := requestKey(r)
	return q, key, err
}

// parseAdd turns a submission into a spec, or says what is wrong with it and where.
func parseAdd(q AddRequest) (*spec.Result, error) {
	o, err := specOptions(q)
	if err != nil {
		return nil, err
	}
	var made *spec.Result
	switch {
	case q.Code != "":
		return nil, problem(http.StatusBadRequest, "shipping code is not supported yet", "put the code where every node can read it, and name it in the command")
	case len(q.Config) > maxConfig:
		return nil, problem(http.StatusRequestEntityTooLarge, "the config is larger than 1 MiB", "put large data into files that the run reads")
	case q.Config != "" && len(q.Command) > 0:
		return nil, problem(http.StatusBadRequest, "give either config or command", "a config names its command under cvlab: {command: ...}")
	case len(q.Command) > 0:
		made, err = spec.Command(q.Command, o)
	case q.Config != "":
		made, err = spec.Parse(q.Config, o)
	default:
		return nil, problem(http.StatusBadRequest, "neither config nor command is given", `send {"config": "…YAML…"} or {"command": ["python", "train.py"]}`)
	}
	if err != nil {
		return nil, configProblem(err)
	}
	return made, nil
}

func specOptions(q AddRequest) (spec.Options, error) {
	o := spec.Options{
		Name: q.Name, Project: q.Project, Device: q.Device, Set: q.Set, Env: q.Env, After: q.After,
		TimeLimit: time.Duration(q.TimeLimit), Retries: q.Retries, MaxParallel: q.MaxParallel,
	}
	if q.Priority != "" {
		p, err := fsm.ParsePriority(q.Priority)
		if err != nil {
			return o, problem(http.StatusUnprocessableEntity, fmt.Sprintf("priority %q is not one of low, normal, high, urgent", clip(q.Priority, 50)), "")
		}
		o.Priority = &p
	}
	if q.GPUs != nil {
		if o.GPUs = *q.GPUs; o.GPUs == 0 && (o.Device == "" || o.Device == "any") {
			o.Device = "cpu" // none was asked for in so many words
		}
	}
	for _, c := range []struct {
		name  string
		value int
		least int
		most  int
	}{
		{"gpus", o.GPUs, 0, 1024}, {"retries", valueOr(q.Retries), 0, 1000}, {"max_parallel", q.MaxParallel, 0, fsm.MaxBatch},
	} {
		if c.value < c.least || c.value > c.most {
			return o, problem(http.StatusUnprocessableEntity, fmt.Sprintf("%s is a number from %d to %d", c.name, c.least, c.most), "")
		}
	}
	if err := checkText("name", q.Name, maxName); err != nil {
		return o, err
	}
	return o, checkText("project", q.Project, maxName)
}

func valueOr(p *int) int {
	if p == nil {
		return 0
	}
	return *p
}

// configProblem answers what is wrong with a config, place by place.
func configProblem(err error) error {
	bad, ok := errors.AsType[*spec.Error](err)
	if !ok {
		return problem(http.StatusBadRequest, err.Error(), "")
	}
	e := problem(http.StatusBadRequest, "the config cannot be run as it is", "")
	e.Problems = showProblems(bad.Problems)
	if len(e.Problems) == 1 {
		e.Detail, e.Hint = e.Problems[0].Message, e.Problems[0].Hint
	}
	return e
}

func showProblems(in []spec.Problem) []Problem {
	var out []Problem
	for _, p := range in {
		out = append(out, Problem{Line: p.Line, Column: p.Column, Key: p.Key, Message: p.Message, Hint: p.Hint})
	}
	return out
}

// rendered gives the config that one experiment of a spec is handed.
func rendered(sp *fsm.Spec, ordinal int, cpu bool) (string, error) {
	text, err := spec.Render(sp, ordinal, spec.Handed{CPU: cpu})
	if err != nil {
		return "", fmt.Errorf("render config: %w", err)
	}
	return text, nil
}

func (s *Server) config(w http.ResponseWriter, r *http.Request) error {
	sh := newShower(s.o.Cluster.State().View())
	e, err := sh.named(r)
	if err != nil {
		return err
	}
	asked := &sh.batch(e.Batch).Spec
	cpu := asked.Device.Kind == fsm.DeviceCPU
	if a := sh.view.Attempt(e.Token); a != nil {
		cpu = len(a.GPUs) == 0 // as the newest attempt was handed it
	}
	text, err := rendered(asked, e.Ordinal, cpu)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write([]byte(text)) // the reader is gone; nobody is left to be told
	return nil
}
