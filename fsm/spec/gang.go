package spec

import "fmt"

// gang asks for several machines, each with the slot that the device describes.
func (m *maker) gang(b *block) {
	if b.nodes < 2 {
		return
	}
	d := &m.spec.Device
	d.Nodes = b.nodes
	const key = blockKey + ".nodes"
	if d.Node != "" {
		m.add(at(b.nodesAt.place(), Problem{
			Key: key, Message: fmt.Sprintf("it asks for %d machines, but device names one, %s", b.nodes, d.Node), Hint: "remove one of the two; where names machines by their labels",
		}))
		return
	}
	if !gangsRun {
		m.add(at(b.nodesAt.place(), Problem{
			Key: key, Message: "gangs over several machines are not supported yet", Hint: "ask for at most one node's GPUs with gpus",
		}))
	}
}

// gangsRun says whether machines can run what asks for several of them. The planner and the facts can; as long as workers
// cannot, nobody may submit it.
const gangsRun = false
