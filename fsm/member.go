package fsm

import (
	"fmt"
	"slices"
	"strconv"
)

// Admit makes a machine a member. It spends one use of a join token; a machine that is a member already spends none.
type Admit struct {
	Node   Node   `json:"node"`
	Access string `json:"access"` // ID of the join token it proved
}

// Kind implements Command.
func (*Admit) Kind() string { return "admit" }

func (c *Admit) apply(t *tx) Result {
	if c.Node.ID == "" {
		return refuse(Invalid, "a node without an ID")
	}
	if old := t.view().Node(c.Node.ID); old != nil {
		if old.Removed {
			return refuse(Forbidden, fmt.Sprintf("node %s was removed; delete its data directory so that it joins as a new one", old.Name))
		}
		r := ok()
		r.Node = old.Name
		return r
	}
	access := t.view().AccessByID(c.Access)
	switch {
	case access == nil || access.Kind != AccessJoin:
		return refuse(Forbidden, "the join token is not known; make a new one with: cvlab token create --join")
	case access.Expired(t.now):
		return refuse(Forbidden, "the join token has expired; make a new one with: cvlab token create --join")
	case access.Uses < 1:
		return refuse(Forbidden, "the join token was used already; make a new one with: cvlab token create --join")
	}
	spent := *access
	spent.Uses--
	t.put(tableAccess, &spent)
	n := c.Node
	n.Removed, n.Draining, n.JoinedAt = false, false, t.now
	n.Name = t.freeName(n.Name, n.ID)
	t.put(tableNodes, &n)
	r := ok()
	r.Node = n.Name
	return r
}

// freeName gives the name, or name-2, name-3 … when another member has it: two machines from one image get along.
func (t *tx) freeName(name, id string) string {
	if name == "" {
		name = id[:min(8, len(id))]
	}
	taken := map[string]bool{}
	for n := range t.view().Nodes() {
		if n.ID != id {
			taken[n.Name] = true
		}
	}
	free := name
	for i := 2; taken[free]; i++ {
		free = name + "-" + strconv.Itoa(i)
	}
	return free
}

// Update is a node's own description of itself, sent at its start and when its inventory or addresses change.
type Update struct {
	Node Node `json:"node"`
}

// Kind implements Command.
func (*Update) Kind() string { return "update" }

func (c *Update) apply(t *tx) Result {
	old := t.view().Node(c.Node.ID)
	if old == nil || old.Removed {
		return refuse(Forbidden, "the node is no member")
	}
	n := c.Node
	n.Draining, n.Removed, n.JoinedAt = old.Draining, false, old.JoinedAt
	n.Name = t.freeName(n.Name, n.ID)
	t.put(tableNodes, &n)
	if n.BootID != "" {
		t.closeBefore(n)
	}
	r := ok()
	r.Node = n.Name
	return r
}

// closeBefore ends what another boot of the machine had started: a machine that has booted again runs nothing of what it
// ran before. A gang that was not started yet is taken back: what its other parts were told of this one is no longer true.
func (t *tx) closeBefore(n Node) {
	var lost []*Attempt
	for a := range t.view().Open(n.ID) {
		if p := a.On(n.ID); p.State() == AttemptStarted && p.BootID != n.BootID {
			lost = append(lost, a)
		}
	}
	for _, a := range lost {
		if a.State == AttemptAssigned {
			t.takeBack(a.clone(), n.ID, fmt.Sprintf("node %s was restarted before its gang was ready", n.Name))
			continue
		}
		t.closePart(a.clone(), n.ID, ending{class: ClassNodeLost, message: fmt.Sprintf("node %s was restarted while it ran", n.Name)})
	}
}

// Drain keeps new work from a node, or lets it have some again.
type Drain struct {
	Node string `json:"node"`
	On   bool   `json:"on"`
	// Now also has what runs there stopped, after a checkpoint, so that it goes on elsewhere.
	Now bool `json:"now,omitempty"`
}

// Kind implements Command.
func (*Drain) Kind() string { return "drain" }

func (c *Drain) apply(t *tx) Result {
	old := t.view().Node(c.Node)
	if old == nil || old.Removed {
		return refuse(NotFound, "the node is no member")
	}
	if c.Now && !c.On {
		return refuse(Invalid, "a node that is given work again has nothing to stop")
	}
	n := *old
	n.Draining = c.On
	t.put(tableNodes, &n)
	if c.Now {
		t.preempt(&n, fmt.Sprintf("node %s was drained by %s", n.Name, t.by))
	}
	return ok()
}

// preempt takes back what a node has not started, and has the rest stopped: a gang on all its nodes.
func (t *tx) preempt(n *Node, why string) {
	for _, old := range slices.Collect(t.view().Open(n.ID)) {
		if old.StoppedBy != "" {
			continue // a gang that is being stopped already, and what came first counts
		}
		a := old.clone()
		a.Preempting = why
		if len(a.Gang) > 0 {
			a.StoppedBy = n.ID
		}
		if a.State == AttemptAssigned {
			t.closeAttempt(a, ClassPreempted, why)
			continue
		}
		t.put(tableAttempts, a)
		t.putExperiment(t.experiment(a.Experiment)) // who follows the experiment learns of it
	}
}

// Remove makes a node a tombstone: its key is never admitted again.
type Remove struct {
	Node string `json:"node"`
	// Off is a person's word that the machine is switched off and runs nothing any more.
	Off bool `json:"off,omitempty"`
}

// Kind implements Command.
func (*Remove) Kind() string { return "remove" }

func (c *Remove) apply(t *tx) Result {
	old := t.view().Node(c.Node)
	if old == nil {
		return refuse(NotFound, "the node is no member")
	}
	if old.Removed {
		return ok()
	}
	var open []*Attempt
	started := 0
	for a := range t.view().Open(c.Node) {
		open = append(open, a)
		if a.State == AttemptStarted {
			started++
		}
	}
	if started > 0 && !c.Off {
		return refuse(Conflict, fmt.Sprintf("node %s may still run %d experiments; cancel them, or say that the machine is off with --it-is-off", old.Name, started))
	}
	for _, a := range open {
		t.closePart(a.clone(), c.Node, ending{class: ClassNodeLost, message: fmt.Sprintf("node %s was removed by %s", old.Name, t.by)})
	}
	n := *old
	n.Removed = true
	t.put(tableNodes, &n)
	t.revokeOf(c.Node)
	return ok()
}

// revokeOf takes back the tokens that a node has granted itself, for the programs of its own machine.
func (t *tx) revokeOf(node string) {
	var own []*Access
	for a := range t.view().AllAccess() {
		if a.By == node {
			own = append(own, a)
		}
	}
	for _, a := range own {
		t.drop(tableAccess, a)
	}
}
