package api

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

// when gives a time for JSON, null for none.
func when(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// list gives a slice for JSON that is never null.
func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// shower turns facts into what people see; it holds one view, so that an answer is consistent in itself.
type shower struct {
	view    fsm.View
	names   map[string]string     // of nodes, by ID
	batches map[uint64]*fsm.Batch // of 10,000 experiments, most share one
}

func newShower(v fsm.View) *shower {
	return &shower{view: v, names: map[string]string{}, batches: map[uint64]*fsm.Batch{}}
}

func (s *shower) nodeName(id string) string {
	name, known := s.names[id]
	if !known {
		if n := s.view.Node(id); n != nil {
			name = n.Name
		}
		s.names[id] = name
	}
	return name
}

func (s *shower) batch(id uint64) *fsm.Batch {
	b, known := s.batches[id]
	if !known {
		if b = s.view.Batch(id); b == nil {
			b = &fsm.Batch{ID: id, Count: 1}
		}
		s.batches[id] = b
	}
	return b
}

// experiment shows one experiment; its reason and progress are filled in by live.
func (s *shower) experiment(e *fsm.Experiment) Experiment {
	b := s.batch(e.Batch)
	x := Experiment{
		ID: e.ID, Name: e.Name, Project: e.Project, User: e.User, Status: e.Status, Priority: e.Priority,
		Params: Params(b.Spec.Params(e.Ordinal)), GPUs: []string{}, Attempt: e.Attempts,
		ExitCode: e.ExitCode, Class: e.Class, Message: e.Message, Cancelling: e.Cancelling, Tags: list(e.Tags),
		CreatedAt: e.CreatedAt, StartedAt: when(e.StartedAt), EndedAt: when(e.EndedAt), Index: e.ModifyIndex,
	}
	x.Name = filled(x.Name, x.Params)
	if b.Count > 1 {
		x.Sweep = &b.ID
	}
	if e.Status == fsm.Held {
		x.Reason = e.Message
	}
	if a := s.view.Attempt(e.Token); a != nil && e.Status != fsm.Pending && e.Status != fsm.Held {
		x.Node, x.NodeID, x.GPUs = s.nodeName(a.Node), a.Node, list(a.GPUs)
	}
	if n := b.Spec.Epochs; n > 0 && e.Status == fsm.Completed {
		x.Progress = &Progress{Epoch: n, Epochs: n, Fraction: 1}
	}
	return x
}

// filled puts the experiment's own values for the {{key}} of its sweep into a name, so that people can tell its sisters
// apart. It is for people only: what a run calls its files is the run's own business.
func filled(name string, params Params) string {
	if !strings.Contains(name, "{{") {
		return name
	}
	for _, p := range params {
		name = strings.ReplaceAll(name, "{{"+p.Key+"}}", strings.Trim(string(p.Value), `"`))
	}
	return name
}

// notPlanned is the reason of what is too new for the planner to have looked at it, or when the leader does not answer.
const notPlanned = "waits to be planned"

// live fills in what is no fact: why those wait that wait, and how far those are that run.
func (s *Server) live(ctx context.Context, shown []Experiment) {
	s.reasons(ctx, shown)
	s.progress(ctx, shown)
}

// reasons fills in why the waiting ones wait.
func (s *Server) reasons(ctx context.Context, shown []Experiment) {
	var ids []uint64
	for _, x := range shown {
		if x.Status == fsm.Pending {
			ids = append(ids, x.ID)
		}
	}
	if len(ids) == 0 {
		return
	}
	why := s.o.Machines.Reasons(ctx, ids)
	for i := range shown {
		if shown[i].Status == fsm.Pending {
			shown[i].Reason = cmp.Or(why[shown[i].ID], notPlanned)
		}
	}
}

func (s *shower) attempt(a *fsm.Attempt) Attempt {
	return Attempt{
		Number: a.Number, Token: a.Token, State: a.State, Node: s.nodeName(a.Node), NodeID: a.Node, GPUs: list(a.GPUs),
		AssignedAt: a.AssignedAt, StartedAt: when(a.StartedAt), EndedAt: when(a.EndedAt), ExitCode: a.ExitCode, Class: a.Class,
		Resumed: s.resumed(a.Resumed), Sentence: s.sentence(a),
	}
}

// fromWords says what an attempt went on from.
func fromWords(r *CheckpointRef) string {
	if r == nil {
		return ""
	}
	return fmt.Sprintf(", going on from checkpoint %d of attempt %d", r.Seq, r.Attempt)
}

// sentence says how an attempt ended, or that it has not.
func (s *shower) sentence(a *fsm.Attempt) string {
	node := cmp.Or(s.nodeName(a.Node), a.Node)
	switch {
	case a.State == fsm.AttemptAssigned:
		return "is being started on " + node
	case a.State == fsm.AttemptStarted:
		return "runs on " + node
	}
	text := ending(a, node)
	if !a.StartedAt.IsZero() && a.Class != fsm.ClassStartFailed {
		text += " after " + words(a.EndedAt.Sub(a.StartedAt))
	}
	switch a.Class {
	case fsm.ClassPreempted:
		text += ", to go on later or elsewhere"
	case fsm.ClassSupervisorLost:
		text += ", and nobody saw how it ended"
	}
	if a.Message != "" && a.Message != string(a.Class) {
		text += ": " + a.Message
	}
	return text
}

// ending says in plain words what each class means.
func ending(a *fsm.Attempt, node string) string {
	switch a.Class {
	case fsm.ClassUserError:
		if a.ExitCode != nil {
			return fmt.Sprintf("failed with exit code %d on %s", *a.ExitCode, node)
		}
		return "failed on " + node
	case fsm.ClassHostOOM:
		return "ran out of memory on " + node
	case fsm.ClassGPUOOM:
		return "ran out of GPU memory on " + node
	case fsm.ClassGPUFault:
		return "was ended by a broken GPU of " + node
	case fsm.ClassTimeLimit:
		return "reached its time limit on " + node
	case fsm.ClassCancelled:
		return "was cancelled on " + node
	case fsm.ClassPreempted:
		return "was stopped on " + node
	case fsm.ClassNodeLost:
		return "was lost together with " + node
	case fsm.ClassSupervisorLost:
		return "was lost on " + node
	case fsm.ClassStartFailed:
		return "could not be started on " + node
	}
	return string(a.Class) + " on " + node
}

func (s *shower) detail(e *fsm.Experiment) Detail {
	spec := &s.batch(e.Batch).Spec
	d := Detail{Experiment: s.experiment(e), Notes: e.Notes, Config: spec.Config, Spec: showSpec(spec), Attempts: []Attempt{}, Checkpoints: s.checkpoints(e.ID)}
	d.Timeline = append(d.Timeline, Moment{At: e.CreatedAt, What: "submitted by " + e.User})
	for a := range s.view.Attempts(e.ID) {
		d.Attempts = append(d.Attempts, s.attempt(a))
		node := cmp.Or(s.nodeName(a.Node), a.Node)
		add := func(at time.Time, what string) {
			if !at.IsZero() {
				d.Timeline = append(d.Timeline, Moment{At: at, What: fmt.Sprintf("attempt %d %s", a.Number, what)})
			}
		}
		add(a.AssignedAt, "was assigned to "+node)
		add(a.StartedAt, "started on "+node+fromWords(s.resumed(a.Resumed)))
		add(a.EndedAt, "ended: "+string(a.Class))
	}
	if !e.EndedAt.IsZero() {
		d.Timeline = append(d.Timeline, Moment{At: e.EndedAt, What: string(e.Status)})
	}
	return d
}

func showSpec(s *fsm.Spec) Spec {
	where := s.Where
	if where == nil {
		where = map[string]string{}
	}
	return Spec{
		Command: list(s.Command), Shell: s.Shell, Device: deviceWords(s.Device), GPUs: s.Device.Count, GPUMemory: s.Device.Memory,
		Where: where, After: list(s.After), TimeLimit: time.Duration(s.TimeLimit).Seconds(), Retries: s.Retries,
		MaxParallel: s.MaxParallel, Env: list(slices.Sorted(maps.Keys(s.Env))), Launcher: s.Launcher,
		OnContactLoss: s.OnContactLoss, Epochs: s.Epochs, Code: s.Code,
	}
}

func deviceWords(d fsm.Device) string {
	text := string(d.Kind)
	if d.Kind == fsm.DeviceGPU {
		text = fmt.Sprintf("%d GPUs", d.Count)
		if d.Count == 1 {
			text = "1 GPU"
		}
	}
	if d.Node != "" {
		text += " on " + d.Node
		if len(d.Indexes) > 0 {
			text += " " + strings.ReplaceAll(fmt.Sprint(d.Indexes), " ", ", ")
		}
	}
	return text
}

// textOf is what a search for text looks through.
func (s *shower) textOf(e *fsm.Experiment) string {
	parts := []string{fmt.Sprint(e.ID), e.Name, e.Project, e.User, e.Notes, e.Message, strings.Join(e.Tags, "\n")}
	for _, p := range s.batch(e.Batch).Spec.Params(e.Ordinal) {
		parts = append(parts, p.Key+"="+plainValue(p.Value))
	}
	return strings.ToLower(strings.Join(parts, "\n"))
}

// plainValue gives text without its quotes, other JSON as it is.
func plainValue(v json.RawMessage) string {
	var text string
	if json.Unmarshal(v, &text) == nil {
		return text
	}
	return string(v)
}
