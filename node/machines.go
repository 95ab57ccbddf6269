package node

import (
	"context"
	"log/slog"
	"net/url"
	"strconv"
	"time"

	"github.com/deveronica/cvlab/cluster"
	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/fsm/sched"
	"github.com/deveronica/cvlab/node/gpu"
	"github.com/deveronica/cvlab/ui/api"
)

// machines answers how the nodes feel and why experiments wait. Beacons go to the leader, so the leader answers from what
// it heard; the others ask it, and fall back to what gossip told them.
type machines struct {
	seat   healthSeat
	peers  *peers
	keeper keeper // of this machine's own attempts
	logger *slog.Logger
}

// healthSeat is the seat as machines needs it.
type healthSeat interface {
	leadership
	State() *fsm.State
	// Health gives what each node said last.
	Health() []cluster.Health
}

// askLeader bounds how long a page waits for the leader before it shows what this node knows itself.
const askLeader = time.Second

// ask gets an answer from the leader; false means: answer from here.
func (m *machines) ask(ctx context.Context, path string, query url.Values, v any) bool {
	id, known := m.seat.Leader()
	if !known || id == m.seat.ID() {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, askLeader)
	defer cancel()
	if err := m.peers.getJSON(ctx, id, path, query, v); err != nil {
		m.logger.DebugContext(ctx, "the leader did not answer; answering from here", "path", path, "error", err)
		return false
	}
	return true
}

// Health gives the planner's view of every node that was heard.
func (m *machines) Health() map[string]sched.Health {
	v := m.seat.State().View()
	heard := map[string]sched.Health{}
	for _, h := range m.seat.Health() {
		n := v.Node(h.Node)
		b, err := decodeBeacon(h.Payload)
		if n == nil || n.Removed || err != nil {
			continue
		}
		heard[h.Node] = b.schedHealth(n, h.Heard)
	}
	return heard
}

func (m *machines) input() sched.Input {
	// This machine's own clock: a wrong one makes a wrong sentence here, but no wrong decision.
	return sched.Input{View: m.seat.State().View(), Now: time.Now().UTC(), Health: m.Health()}
}

// Reasons implements api.Machines.
func (m *machines) Reasons(ctx context.Context, ids []uint64) map[uint64]string {
	if len(ids) == 0 {
		return nil
	}
	query := url.Values{}
	for _, id := range ids {
		query.Add("id", strconv.FormatUint(id, 10))
	}
	var reasons map[uint64]string
	if m.ask(ctx, "/reasons", query, &reasons) {
		return reasons
	}
	if _, known := m.seat.Leader(); !known {
		reasons = map[uint64]string{}
		for _, id := range ids {
			reasons[id] = noLeader
		}
		return reasons
	}
	return m.localReasons(ids)
}

const noLeader = "no leader is known right now, so nothing is started; it waits until a majority of the voters answers again"

func (m *machines) localReasons(ids []uint64) map[uint64]string { return sched.Reasons(m.input(), ids) }

// Why implements api.Machines.
func (m *machines) Why(ctx context.Context, id uint64) (api.Explanation, error) {
	var x api.Explanation
	if m.ask(ctx, "/why", url.Values{"id": {strconv.FormatUint(id, 10)}}, &x) {
		return x, nil
	}
	x = m.localWhy(id)
	if _, known := m.seat.Leader(); !known && x.Status == fsm.Pending {
		x.Sentence, x.Start = noLeader, ""
	}
	return x, nil
}

func (m *machines) localWhy(id uint64) api.Explanation {
	in := m.input()
	w := sched.Why(in, id)
	x := api.Explanation{ID: id, Sentence: w.Sentence, Blocking: w.Blocking, Start: w.Start}
	if e := in.View.Experiment(id); e != nil {
		x.Status = e.Status
	}
	for _, n := range w.Nodes {
		x.Nodes = append(x.Nodes, api.NodeReason{Node: n.Node, Name: n.Name, Sentence: n.Sentence})
	}
	return x
}

// Devices implements api.Machines.
func (m *machines) Devices(ctx context.Context) ([]api.Device, time.Duration) {
	var devices []api.Device
	asked := time.Now()
	if m.ask(ctx, "/devices", nil, &devices) {
		return devices, time.Since(asked)
	}
	return m.localDevices(), 0
}

func (m *machines) localDevices() []api.Device {
	heard := map[string]cluster.Health{}
	for _, h := range m.seat.Health() {
		heard[h.Node] = h
	}
	v := m.seat.State().View()
	devices := []api.Device{}
	for n := range v.Nodes() {
		h, ok := heard[n.ID]
		devices = append(devices, device(v, n, h, ok))
	}
	return devices
}

// How old the last word of a node may be. Within activeFor it may get work (the seed's rule); after silentFor it is most
// likely off, which decides nothing: only people read this word.
const (
	activeFor = 3 * time.Second
	silentFor = 30 * time.Second
)

func device(v fsm.View, n *fsm.Node, h cluster.Health, heard bool) api.Device {
	d := api.Device{ID: n.ID, Name: n.Name, State: "lost", GPUs: []api.GPU{}}
	var b beacon
	if heard {
		age := h.Heard.Seconds()
		d.LastHeard = &age
		switch {
		case h.Heard <= activeFor:
			d.State = "active"
		case h.Heard <= silentFor:
			d.State = "stale"
		}
		b, _ = decodeBeacon(h.Payload) // one that cannot be read says nothing, as if it had not come
		d.DiskState = string(diskOf(h.Payload))
	}
	d.CPU = api.CPU{Cores: b.Cores, Utilization: b.CPU}
	d.Memory = api.Space{Used: b.Mem[0] * mib, Total: b.Mem[1] * mib}
	d.Disk = api.Space{Used: (b.Disk[1] - min(b.Disk[0], b.Disk[1])) * mib, Total: b.Disk[1] * mib}
	for _, g := range n.GPUs {
		d.GPUs = append(d.GPUs, card(v, g, b))
	}
	b.show(&d, v, h.Heard, heard)
	return d
}

// card is one GPU of the registry with what its machine last said of it.
func card(v fsm.View, g fsm.GPU, b beacon) api.GPU {
	c := api.GPU{UUID: g.UUID, Index: g.Index, Name: g.Name, MemoryTotal: g.Memory, State: string(gpu.Lost), Processes: []api.GPUProcess{}}
	gb, ok := b.gpu(g.Index)
	if !ok {
		return c
	}
	c.MemoryUsed, c.MemoryTotal = gb.Used*mib, gb.Total*mib
	c.Utilization, c.Temperature, c.Power = float64(gb.Use), gb.Celsius, gb.Watt
	for _, p := range gb.Foreign {
		c.Processes = append(c.Processes, api.GPUProcess{PID: p.PID, Name: p.Name, User: p.User, Memory: p.Used * mib})
	}
	switch {
	case gb.state() != gpu.OK:
		c.State = string(gb.state())
	case v.Holder(g.UUID) != nil:
		c.State = "busy"
	case len(gb.Foreign) > 0:
		c.State = "foreign"
	default:
		c.State = "idle"
	}
	return c
}
