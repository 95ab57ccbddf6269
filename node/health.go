package node

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/deveronica/cvlab/cluster"
	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/fsm/sched"
	"github.com/deveronica/cvlab/node/gpu"
	"github.com/deveronica/cvlab/ui/metrics"
)

// beacon is one machine's word on itself, once a second to the leader. Field names are one letter because 8 GPUs should
// fit the 1,100 bytes that the seat sends as one packet (with outside processes on all of them it goes over a connection);
// GPUs are named by index, their UUIDs are in the registry.
type beacon struct {
	GPUs  []gpuBeacon `json:"g,omitempty"`
	CPU   float64     `json:"c"`           // percent of all cores
	Mem   [2]uint64   `json:"m"`           // used, total; MiB
	Disk  [2]uint64   `json:"d"`           // free, total; MiB
	Cores int         `json:"n,omitempty"` // number of cores
	Runs  []runBeacon `json:"r,omitempty"` // how far what runs here is, at most maxRuns
	// Room is how much room the data directory has; empty: enough. Sync is how long its disk takes to make entries durable:
	// 99 of 100 took no longer, in milliseconds.
	Room cluster.DiskState `json:"o,omitempty"`
	Sync int64             `json:"l,omitempty"`
	bearing
}

// bearing is what people should know of the attempts of a machine, and is no fact.
type bearing struct {
	Frozen   []frozenBeacon `json:"z,omitempty"`
	Strays   []strayBeacon  `json:"y,omitempty"`
	Warnings []string       `json:"w,omitempty"`
}

type frozenBeacon struct {
	Token fsm.Token `json:"t"`
	Since int64     `json:"s"` // seconds since 1970
	Lease int64     `json:"l"` // seconds
}

type strayBeacon struct {
	Token      fsm.Token `json:"t"`
	Experiment uint64    `json:"e"`
	Reason     string    `json:"r"`
}

type runBeacon struct {
	Experiment uint64 `json:"x"`
	Epoch      int    `json:"e,omitempty"`
	Epochs     int    `json:"t,omitempty"`
	Permille   int    `json:"p,omitempty"`
}

// maxRuns is how many runs of one machine are told; with eight GPUs it fits the packet.
const maxRuns = 8

type gpuBeacon struct {
	Index   int          `json:"i"`
	State   gpu.State    `json:"s,omitempty"` // empty: ok
	Used    uint64       `json:"u"`           // MiB
	Total   uint64       `json:"t"`           // MiB
	Use     int          `json:"p"`           // percent
	Celsius float64      `json:"k,omitempty"`
	Watt    float64      `json:"w,omitempty"`
	Foreign []procBeacon `json:"f,omitempty"` // processes that are no experiment's, at most maxForeign
}

type procBeacon struct {
	PID  int    `json:"p"`
	User string `json:"u,omitempty"`
	Name string `json:"n,omitempty"`
	Used uint64 `json:"m,omitempty"` // MiB
}

// maxForeign is how many outside processes of one GPU are told; one is enough to know whom to ask.
const maxForeign = 2

const mib = 1 << 20

// tell adds how far what runs here is, in the order of the numbers.
func (b *beacon) tell(far map[uint64]metrics.Progress) {
	for _, id := range slices.Sorted(maps.Keys(far)) {
		if p := far[id]; len(b.Runs) < maxRuns {
			b.Runs = append(b.Runs, runBeacon{Experiment: id, Epoch: p.Epoch, Epochs: p.Epochs, Permille: int(math.Round(1000 * p.Fraction))})
		}
	}
}

// newBeacon says what was measured. held tells whether an experiment of this machine holds a GPU: what runs on it then
// is the experiment's, what runs on any other GPU is somebody's who went around the queue, or a leftover.
func newBeacon(r gpu.Reading, held func(uuid string) bool) beacon {
	b := beacon{
		CPU: tenths(r.Host.CPU), Cores: r.Host.Cores,
		Mem:  [2]uint64{r.Host.MemoryUsed / mib, r.Host.MemoryTotal / mib},
		Disk: [2]uint64{r.Host.DiskFree / mib, r.Host.DiskTotal / mib},
	}
	for _, g := range r.GPUs {
		gb := gpuBeacon{
			Index: g.Index, State: g.State, Used: g.MemoryUsed / mib, Total: g.MemoryTotal / mib,
			Use: g.Utilization, Celsius: tenths(g.Temperature), Watt: tenths(g.Power),
		}
		if gb.State == gpu.OK {
			gb.State = ""
		}
		if !held(g.UUID) {
			for _, p := range g.Processes[:min(len(g.Processes), maxForeign)] {
				gb.Foreign = append(gb.Foreign, procBeacon{PID: p.PID, User: p.User, Name: p.Name, Used: p.MemoryUsed / mib})
			}
		}
		b.GPUs = append(b.GPUs, gb)
	}
	return b
}

// withDisk adds what the seat knows of its disk.
func (b beacon) withDisk(d disk) beacon {
	if b.Room = d.Disk(); b.Room == cluster.DiskOK {
		b.Room = ""
	}
	b.Sync = d.SyncTime().Milliseconds()
	return b
}

// room is the word on the disk of a machine that was heard.
func (b beacon) room() cluster.DiskState { return cmp.Or(b.Room, cluster.DiskOK) }

// diskOf reads only that word; what cannot be read says nothing.
func diskOf(payload []byte) cluster.DiskState {
	b, err := decodeBeacon(payload)
	if err != nil {
		return ""
	}
	return b.room()
}

// tenths rounds to one decimal: fourteen more would cost a packet and tell nobody anything.
func tenths(x float64) float64 { return math.Round(x*10) / 10 }

func (b beacon) encode() ([]byte, error) {
	data, err := json.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("encode beacon: %w", err)
	}
	return data, nil
}

func decodeBeacon(data []byte) (beacon, error) {
	var b beacon
	if err := json.Unmarshal(data, &b); err != nil {
		return beacon{}, fmt.Errorf("decode beacon: %w", err)
	}
	return b, nil
}

// schedHealth puts a beacon into the planner's words, naming GPUs by the UUIDs of the registry.
func (b beacon) schedHealth(n *fsm.Node, heard time.Duration) sched.Health {
	h := sched.Health{Node: n.ID, Heard: heard, CPU: b.CPU / 100}
	for _, g := range n.GPUs {
		// A card of the inventory that the machine does not speak of is not to be used.
		gh := sched.GPUHealth{UUID: g.UUID, State: string(gpu.Lost), MemoryTotal: g.Memory}
		if gb, ok := b.gpu(g.Index); ok {
			gh = sched.GPUHealth{
				UUID: g.UUID, State: string(gb.state()), MemoryUsed: gb.Used * mib, MemoryTotal: gb.Total * mib,
				Utilization: gb.Use, Foreign: len(gb.Foreign) > 0,
			}
			if gh.Foreign {
				gh.ForeignUser = gb.Foreign[0].User
			}
		}
		h.GPUs = append(h.GPUs, gh)
	}
	return h
}

func (b beacon) gpu(index int) (gpuBeacon, bool) {
	for _, g := range b.GPUs {
		if g.Index == index {
			return g, true
		}
	}
	return gpuBeacon{}, false
}

func (g gpuBeacon) state() gpu.State {
	if g.State == "" {
		return gpu.OK
	}
	return g.State
}
