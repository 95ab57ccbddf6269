package fsm

import (
	"fmt"
	"time"
)

// Assign gives one pending experiment to one node and its GPUs, or to all nodes of a gang at once. The planner's facts may
// be old by now, so everything is checked again here; a refused Assign means: plan again.
type Assign struct {
	Experiment uint64 `json:"experiment"`
	Node       string `json:"node"`
	// GPUs are the UUIDs to hold; none means one of the node's CPU slots.
	GPUs []string `json:"gpus,omitempty"`
	// Others are the slots of the further ranks of a gang; Node and GPUs are rank 0's.
	Others []Slot `json:"others,omitempty"`
	// Lease is how long the attempt may go on without a word from the cluster; 0 holds for ever.
	Lease Duration `json:"lease,omitempty"`
}

// Kind implements Command.
func (*Assign) Kind() string { return "assign" }

func (c *Assign) apply(t *tx) Result {
	e := t.experiment(c.Experiment)
	if e == nil {
		return refuse(NotFound, fmt.Sprintf("experiment %d does not exist", c.Experiment))
	}
	if e.Status != Pending {
		return refuse(Conflict, fmt.Sprintf("experiment %d is %s", e.ID, e.Status))
	}
	if last := t.view().Attempt(e.Token); last != nil && last.Open() {
		return refuse(Conflict, fmt.Sprintf("attempt %s of experiment %d is still open", last.Token, e.ID))
	}
	if c.Lease < 0 {
		return refuse(Invalid, "a lease cannot be negative")
	}
	spec := t.view().Spec(e)
	slots := append([]Slot{{Node: c.Node, GPUs: c.GPUs}}, c.Others...)
	if want := max(1, spec.Device.Nodes); len(slots) != want {
		return refuse(Conflict, fmt.Sprintf("experiment %d is for %d nodes at once, and %d are named", e.ID, want, len(slots)))
	}
	for _, id := range spec.After {
		if parent := t.experiment(id); parent.Status != Completed {
			return refuse(Conflict, fmt.Sprintf("experiment %d, after which it starts, is %s", id, parent.Status))
		}
	}
	if why := t.anyTaken(slots); why != "" {
		return refuse(Conflict, why)
	}
	a := &Attempt{
		Token: Token{Epoch: t.meta.Epoch, Index: t.index}, Experiment: e.ID, Number: e.Attempts + 1,
		Node: c.Node, GPUs: c.GPUs, State: AttemptAssigned, AssignedAt: t.now, Lease: c.Lease,
	}
	if len(slots) > 1 {
		for _, s := range slots {
			a.Gang = append(a.Gang, Part{Slot: s})
		}
	}
	t.openAttempt(e, a)
	t.putExperiment(e)
	r := ok()
	r.Token = a.Token
	return r
}

// openAttempt makes an attempt the experiment's current one, with the GPUs it holds.
func (t *tx) openAttempt(e *Experiment, a *Attempt) {
	t.put(tableAttempts, a)
	for _, p := range a.Parts() {
		for _, uuid := range p.GPUs {
			t.put(tableHolds, &hold{GPU: uuid, Token: a.Token})
		}
	}
	e.Status, e.Token, e.Attempts = Running, a.Token, a.Number
	e.NotBefore, e.Message, e.Class, e.ExitCode = time.Time{}, "", "", nil
}

// anyTaken says why not all slots can be given together, "" if they can.
func (t *tx) anyTaken(slots []Slot) string {
	given := map[string]bool{} // nodes and GPUs
	for _, s := range slots {
		if given[s.Node] {
			return fmt.Sprintf("node %s is named twice", s.Node)
		}
		given[s.Node] = true
		if why := t.slotTaken(s, false); why != "" {
			return why
		}
		for _, uuid := range s.GPUs {
			if given[uuid] {
				return fmt.Sprintf("GPU %s is named twice", uuid)
			}
			given[uuid] = true
		}
	}
	return ""
}

// slotTaken says why the node cannot give the slot, "" if it can. A draining one gives only what runs there already.
func (t *tx) slotTaken(s Slot, runs bool) string {
	n := t.view().Node(s.Node)
	switch {
	case n == nil || n.Removed:
		return fmt.Sprintf("node %s is no member", s.Node)
	case n.NoExec:
		return fmt.Sprintf("node %s runs no experiments", n.Name)
	case n.Draining && !runs:
		return fmt.Sprintf("node %s is draining", n.Name)
	}
	if len(s.GPUs) == 0 {
		used := 0
		for a := range t.view().Open(n.ID) {
			if len(a.On(n.ID).GPUs) == 0 {
				used++
			}
		}
		if used >= n.CPUSlots {
			return fmt.Sprintf("all %d CPU slots of node %s are in use", n.CPUSlots, n.Name)
		}
	}
	seen := map[string]bool{}
	for _, uuid := range s.GPUs {
		if seen[uuid] || !n.hasGPU(uuid) {
			return fmt.Sprintf("node %s has no such free GPU %s", n.Name, uuid)
		}
		seen[uuid] = true
		if h := t.view().Holder(uuid); h != nil {
			return fmt.Sprintf("GPU %s is held by experiment %d", uuid, h.Experiment)
		}
	}
	return ""
}

func (n *Node) hasGPU(uuid string) bool {
	for _, g := range n.GPUs {
		if g.UUID == uuid {
			return true
		}
	}
	return false
}
