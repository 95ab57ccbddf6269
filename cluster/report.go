package cluster

import (
	"context"
	"fmt"

	"github.com/deveronica/cvlab/fsm"
)

// speaker gives the node whose own word a command is, and the attempt it is about; "" for what people and the leader ask.
func speaker(c fsm.Command) (node string, token fsm.Token) {
	switch c := c.(type) {
	case *fsm.Start:
		return c.Node, c.Token
	case *fsm.Publish:
		return c.Node, c.Token
	case *fsm.Finish:
		return c.Node, c.Token
	case *fsm.Adopt:
		return c.Node, c.Token
	case *fsm.Update:
		return c.Node.ID, fsm.Token{}
	}
	return "", fsm.Token{}
}

// offerReport is offer for a request that came from another node. A node's word is taken only from that node: the key on
// the other end of the connection says who it is, whatever the request claims. So a report is never passed on a second time;
// its sender tries again at the next leader.
func (s *Seat) offerReport(ctx context.Context, from string, r forwardRequest, e fsm.Entry) (fsm.Result, error) {
	node, _ := speaker(e.Command)
	switch {
	case node == "":
		return s.offer(ctx, r)
	case node != from || e.By != from:
		refused := fsm.Result{Code: fsm.Forbidden, Message: "a node speaks only for itself"}
		s.auditReport(from, e, refused)
		if r.Hops > 1 { // a relay of an older version may have passed it on in good faith
			return fsm.Result{}, fmt.Errorf("%w: a report comes from its node itself", ErrNoLeader)
		}
		return refused, nil
	}
	r.Hops = maxHops
	result, err := s.offer(ctx, r)
	if err == nil {
		s.auditReport(from, e, result)
	}
	return result, err
}

// auditReport writes down who was refused what. A report that comes too late is no crime; one in another's name is.
func (s *Seat) auditReport(from string, e fsm.Entry, r fsm.Result) {
	node, token := speaker(e.Command)
	if node == "" || !r.Refused() {
		return
	}
	name := ""
	if n := s.replica.state.View().Node(from); n != nil {
		name = n.Name
	}
	s.log.Warn("refused report", "from", from, "name", name, "report", e.Command.Kind(), "of", node, "token", token.String(), "answer", r.Code, "why", r.Message)
}
