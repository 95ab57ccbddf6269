package gpu

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"time"
)

const (
	simMemory = 24 << 30 // bytes of a pretended GPU
	simName   = "Simulated GPU"
	// simPoll is how often a pretended hang looks whether the description still wants it.
	simPoll = 50 * time.Millisecond
)

// simulated pretends GPUs. How busy one is follows from who holds it and from how often it was asked, not from a clock or
// dice, so that a test sees the same each time.
type simulated struct {
	count  int
	file   string
	nodeID string
	held   func() []string

	probes int
	load   map[string]float64 // by UUID, 0 to 1
}

func newSimulated(o Options) (*simulated, error) {
	if o.Simulated < 0 || o.Simulated > MaxSimulated {
		return nil, fmt.Errorf("%d simulated GPUs asked for; ask for 0 to %d", o.Simulated, MaxSimulated)
	}
	s := &simulated{
		count: o.Simulated, file: o.SimulatedFile, nodeID: o.NodeID, held: o.Held, load: map[string]float64{},
	}
	if s.held == nil {
		s.held = func() []string { return nil }
	}
	if s.file == "" {
		return s, nil
	}
	if _, err := os.Stat(s.file); s.count == 0 && errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the description of simulated GPUs %s is not there; write it or give their number", s.file)
	}
	if _, err := s.describe(); err != nil {
		return nil, err
	}
	return s, nil
}

// Name returns "simulated".
func (s *simulated) Name() string { return "simulated" }

// Close does nothing.
func (s *simulated) Close() error { return nil }

// Probe reads the description again and moves every GPU one step towards busy or idle.
func (s *simulated) Probe(ctx context.Context) ([]GPU, error) {
	d, err := s.describe()
	if err != nil {
		return nil, err
	}
	if d.Hang {
		if d, err = s.hang(ctx); err != nil {
			return nil, err
		}
	}
	s.probes++
	held := map[string]bool{}
	for _, uuid := range s.held() {
		held[uuid] = true
	}
	special := make(map[int]simGPU, len(d.GPUs))
	for _, g := range d.GPUs {
		special[g.Index] = g
	}
	gpus := make([]GPU, 0, s.number(d))
	for i := range s.number(d) {
		if special[i].Missing {
			continue
		}
		gpus = append(gpus, s.gpu(i, special[i], held))
	}
	return gpus, nil
}

func (s *simulated) describe() (simFile, error) {
	if s.file == "" {
		return simFile{}, nil
	}
	return readSimFile(s.file)
}

// hang stays silent until the description no longer wants it or ctx ends.
func (s *simulated) hang(ctx context.Context) (simFile, error) {
	tick := time.NewTicker(simPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return simFile{}, errSilent
		case <-tick.C:
		}
		d, err := s.describe()
		if err != nil || !d.Hang {
			return d, err
		}
	}
}

// number is how many GPUs there are; a description without a count may name more than were asked for.
func (s *simulated) number(d simFile) int {
	if d.Count != nil {
		return *d.Count
	}
	n := s.count
	for _, g := range d.GPUs {
		n = max(n, g.Index+1)
	}
	return n
}

func (s *simulated) gpu(index int, d simGPU, held map[string]bool) GPU {
	g := GPU{
		UUID: d.UUID, Index: index, Name: simName, State: OK, MemoryTotal: simMemory, Processes: d.Processes,
	}
	if g.UUID == "" {
		g.UUID = fmt.Sprintf("GPU-sim-%s-%d", s.nodeID[:min(8, len(s.nodeID))], index)
	}
	set(&g.MemoryTotal, d.MemoryTotal)
	load := step(s.load[g.UUID], held[g.UUID])
	s.load[g.UUID] = load
	wave := math.Sin(float64(s.probes)/5 + float64(index))
	g.MemoryUsed = uint64(load * 0.7 * float64(g.MemoryTotal))
	g.Utilization = int(math.Round(load * (90 + 6*wave)))
	g.Temperature = math.Round(34 + load*(38+2*wave))
	g.Power = math.Round(25 + load*(240+15*wave))
	for _, p := range d.Processes {
		g.MemoryUsed += p.MemoryUsed
	}
	set(&g.MemoryUsed, d.MemoryUsed)
	set(&g.Utilization, d.Utilization)
	set(&g.Temperature, d.Temperature)
	set(&g.Power, d.Power)
	g.MemoryUsed = min(g.MemoryUsed, g.MemoryTotal)
	if d.Name != "" {
		g.Name = d.Name
	}
	if d.State != "" {
		g.State = d.State
	}
	return g
}

// set overwrites a value by one that the description gives.
func set[T any](value *T, given *T) {
	if given != nil {
		*value = *given
	}
}

// step moves a load a third of the way up, or most of the way down: programs fill memory slowly and free it at once.
func step(load float64, held bool) float64 {
	if held {
		return load + (1-load)/3
	}
	if load /= 4; load < 0.01 {
		return 0
	}
	return load
}
