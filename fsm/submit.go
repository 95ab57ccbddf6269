package fsm

import (
	"fmt"
	"slices"
	"strconv"
)

// MaxBatch is the greatest number of experiments of one submission.
const MaxBatch = 10_000

// Submit makes one experiment, or one per combination of the spec's axes, numbered without a gap.
type Submit struct {
	Spec Spec `json:"spec"`
	// Hold makes them held instead of pending.
	Hold bool `json:"hold,omitempty"`
}

// Kind implements Command.
func (*Submit) Kind() string { return "submit" }

func (c *Submit) apply(t *tx) Result {
	count, bad := c.count()
	if bad != "" {
		return refuse(Invalid, bad)
	}
	for _, parent := range c.Spec.After {
		if t.view().Experiment(parent) == nil {
			return refuse(NotFound, fmt.Sprintf("it should start after experiment %d, which does not exist", parent))
		}
	}
	b := &Batch{ID: t.meta.Experiments + 1, Count: count, User: t.by, Spec: c.Spec}
	t.put(tableBatches, b)
	r := ok()
	r.Experiments = make([]uint64, 0, count)
	for i := range count {
		e := t.newExperiment(b, i)
		if c.Hold {
			e.Status = Held
			e.Message = "held at submission"
		}
		t.putExperiment(e)
		r.Experiments = append(r.Experiments, e.ID)
	}
	t.meta.Experiments += uint64(count)
	return r
}

func (c *Submit) count() (int, string) {
	n := 1
	for _, a := range c.Spec.Axes {
		if len(a.Values) == 0 {
			return 0, fmt.Sprintf("the swept key %q has no values", a.Key)
		}
		if n *= len(a.Values); n > MaxBatch {
			return 0, fmt.Sprintf("the sweep has more than %d experiments", MaxBatch)
		}
	}
	switch d := c.Spec.Device; d.Kind {
	case DeviceCPU, DeviceAuto:
	case DeviceGPU:
		if d.Count < 1 {
			return 0, "an experiment on GPUs needs at least one"
		}
	default:
		return 0, fmt.Sprintf("device kind %q is not one of auto, gpu, cpu", d.Kind)
	}
	switch d := c.Spec.Device; {
	case d.Nodes < 0 || d.Nodes > MaxGang:
		return 0, fmt.Sprintf("an experiment runs on 1 to %d nodes, not on %d", MaxGang, d.Nodes)
	case d.Nodes > 1 && d.Node != "":
		return 0, fmt.Sprintf("a gang of %d nodes cannot run on node %s alone", d.Nodes, d.Node)
	}
	return n, ""
}

func (t *tx) newExperiment(b *Batch, ordinal int) *Experiment {
	id := b.ID + uint64(ordinal)
	project := b.Spec.Project
	if project == "" {
		project = "default"
	}
	name := b.Spec.Name
	if name == "" {
		name = project + "-" + strconv.FormatUint(id, 10)
	}
	return &Experiment{
		ID: id, Batch: b.ID, Ordinal: ordinal,
		Name: name, Project: project, User: b.User,
		Status: Pending, Priority: b.Spec.Priority, CreatedAt: t.now,
	}
}

func (t *tx) view() View { return View{txn: t.txn} }

func (t *tx) putExperiment(e *Experiment) {
	e.ModifyIndex = t.index
	t.put(tableExperiments, e)
}

// experiment gives a copy to change, nil if there is none.
func (t *tx) experiment(id uint64) *Experiment {
	e := t.view().Experiment(id)
	if e == nil {
		return nil
	}
	c := *e
	c.Tags = slices.Clone(e.Tags)
	return &c
}
