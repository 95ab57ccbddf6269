package fsm

// Found is the first entry of every log: it names the cluster and admits the founder.
type Found struct {
	Cluster string `json:"cluster"` // ID
	Name    string `json:"name"`
	Node    Node   `json:"node"`
}

// Kind implements Command.
func (*Found) Kind() string { return "found" }

func (c *Found) apply(t *tx) Result {
	switch {
	case t.meta.Cluster != "":
		return refuse(Conflict, "the cluster is already founded")
	case c.Cluster == "" || c.Node.ID == "":
		return refuse(Invalid, "a cluster is founded with an ID and a first node")
	}
	t.meta.Cluster, t.meta.Name, t.meta.Epoch = c.Cluster, c.Name, 1
	n := c.Node
	n.Removed, n.JoinedAt = false, t.now
	t.put(tableNodes, &n)
	r := ok()
	r.Node = n.Name
	return r
}
