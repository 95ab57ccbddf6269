//go:build cgo && linux && !nonvml

package gpu

import (
	"context"
	"errors"
	"fmt"

	"github.com/NVIDIA/go-nvml/pkg/dl"
	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

const (
	nvmlLibrary = "libnvidia-ml.so.1"
	// nvmlRetry is after how many probes a driver that could not be opened, or a card that failed, is tried afresh.
	nvmlRetry = 10
	// nvmlListEvery is after how many probes processes are listed although the card's memory has not changed.
	nvmlListEvery = 5
)

// nvmlSource measures through the driver's own library. It calls only functions that drivers of the last ten years have:
// one that is missing would end the whole program, not the call.
type nvmlSource struct {
	lib    nvml.Interface
	people *people

	open     bool  // the library is initialised
	openErr  error // why not, at the last try
	tried    int   // the probe of that try
	probes   int
	cards    []*nvmlCard
	counted  int   // cards that the driver had when they were looked for last
	found    error // those of them that could not be named
	memoryV2 bool  // the driver tells memory without what it keeps for itself
}

// nvmlCard is what is known of one card between probes.
type nvmlCard struct {
	device nvml.Device // nil if it could not be reached when cards were looked for
	failed nvml.Return // why it could not, or why the last reading failed
	gpu    GPU         // UUID, Index, Name

	procs      []Process
	listed     int    // the probe that listed procs, 0 for never
	listedUsed uint64 // memory used at that probe
}

// openNVML says why not if the library is not on this machine. It does not talk to the driver yet, since that may hang.
func openNVML() (Source, error) {
	library := dl.New(nvmlLibrary, dl.RTLD_LAZY|dl.RTLD_GLOBAL)
	if err := library.Open(); err != nil {
		return nil, fmt.Errorf("open library: %w", err)
	}
	if err := library.Close(); err != nil {
		return nil, fmt.Errorf("close library: %w", err)
	}
	return newNVML(nvml.New(nvml.WithLibraryPath(nvmlLibrary))), nil
}

func newNVML(lib nvml.Interface) *nvmlSource {
	return &nvmlSource{lib: lib, people: newPeople()}
}

// Name returns "nvml".
func (s *nvmlSource) Name() string { return "nvml" }

// Close lets go of the driver, so that its module can be unloaded.
func (s *nvmlSource) Close() error {
	if !s.open {
		return nil
	}
	s.open = false
	if ret := s.lib.Shutdown(); ret != nvml.SUCCESS {
		return nvmlError("shut down", ret)
	}
	return nil
}

// Probe reads all cards. It ignores ctx: nothing can interrupt the driver.
func (s *nvmlSource) Probe(context.Context) ([]GPU, error) {
	s.probes++
	if err := s.init(); err != nil {
		return nil, err
	}
	count, ret := s.lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		s.open = ret != nvml.ERROR_UNINITIALIZED
		return nil, nvmlError("count cards", ret)
	}
	if count != s.counted || s.anyFailed() && s.probes%nvmlRetry == 0 {
		s.find(count)
	}
	gpus := make([]GPU, 0, len(s.cards))
	errs := []error{s.found}
	for _, c := range s.cards {
		g := s.read(c)
		gpus = append(gpus, g)
		if c.failed != nvml.SUCCESS {
			errs = append(errs, nvmlError(fmt.Sprintf("gpu %d (%s)", g.Index, g.UUID), c.failed))
		}
	}
	return gpus, errors.Join(errs...)
}

// init opens the driver. One that refuses is tried again later: its module may be loaded after this program started.
func (s *nvmlSource) init() error {
	if s.open {
		return nil
	}
	if s.openErr != nil && s.probes-s.tried < nvmlRetry {
		return s.openErr
	}
	s.tried = s.probes
	if ret := s.lib.Init(); ret != nvml.SUCCESS {
		s.openErr = fmt.Errorf("%w; see whether nvidia-smi works", nvmlError("open the driver", ret))
		return s.openErr
	}
	s.open, s.openErr = true, nil
	s.memoryV2 = s.lib.Extensions().LookupSymbol("nvmlDeviceGetMemoryInfo_v2") == nil
	s.cards, s.counted = nil, 0
	return nil
}

func (s *nvmlSource) anyFailed() bool {
	if s.found != nil {
		return true
	}
	for _, c := range s.cards {
		if c.failed != nvml.SUCCESS {
			return true
		}
	}
	return false
}

// find looks for the cards afresh. One that does not tell its name now but did before stays under that name.
func (s *nvmlSource) find(count int) {
	before := make(map[int]*nvmlCard, len(s.cards))
	for _, c := range s.cards {
		before[c.gpu.Index] = c
	}
	s.cards = s.cards[:0:0]
	var errs []error
	for i := range count {
		c, ret := s.card(i)
		switch {
		case ret == nvml.SUCCESS:
			if old := before[i]; old != nil && old.gpu.UUID == c.gpu.UUID {
				c.procs, c.listed, c.listedUsed = old.procs, old.listed, old.listedUsed
			}
		case before[i] != nil:
			c = before[i]
			c.device, c.failed = nil, ret
		default:
			errs = append(errs, nvmlError(fmt.Sprintf("gpu %d", i), ret))
			continue
		}
		s.cards = append(s.cards, c)
	}
	s.counted, s.found = count, errors.Join(errs...)
}

func (s *nvmlSource) card(index int) (*nvmlCard, nvml.Return) {
	device, ret := s.lib.DeviceGetHandleByIndex(index)
	if ret != nvml.SUCCESS {
		return nil, ret
	}
	uuid, ret := device.GetUUID()
	if ret != nvml.SUCCESS {
		return nil, ret
	}
	name, ret := device.GetName()
	if ret != nvml.SUCCESS {
		name = "NVIDIA GPU"
	}
	return &nvmlCard{device: device, gpu: GPU{UUID: uuid, Index: index, Name: name}}, nvml.SUCCESS
}

// read measures one card. Without its memory nothing else is worth knowing; other values may be missing on a healthy card.
func (s *nvmlSource) read(c *nvmlCard) GPU {
	g := c.gpu
	if c.device == nil {
		g.State = nvmlState(c.failed)
		return g
	}
	var ret nvml.Return
	g.MemoryUsed, g.MemoryTotal, ret = s.memory(c.device)
	if g.State = nvmlState(ret); g.State != OK {
		c.failed = ret
		return g
	}
	c.failed = nvml.SUCCESS
	if use, ret := c.device.GetUtilizationRates(); c.has(ret) {
		g.Utilization = int(min(use.Gpu, 100))
	}
	if celsius, ret := c.device.GetTemperature(nvml.TEMPERATURE_GPU); c.has(ret) {
		g.Temperature = float64(celsius)
	}
	if milliwatts, ret := c.device.GetPowerUsage(); c.has(ret) {
		g.Power = float64(milliwatts) / 1000
	}
	if c.listed == 0 || s.probes-c.listed >= nvmlListEvery || g.MemoryUsed != c.listedUsed {
		s.list(c, g.MemoryUsed)
	}
	g.Processes = c.procs
	if c.failed != nvml.SUCCESS {
		g.State = nvmlState(c.failed)
	}
	return g
}

func (s *nvmlSource) memory(d nvml.Device) (used, total uint64, ret nvml.Return) {
	if s.memoryV2 {
		if m, ret := d.GetMemoryInfo_v2(); ret == nvml.SUCCESS {
			return m.Used, m.Total, ret
		}
	}
	m, ret := d.GetMemoryInfo()
	return m.Used, m.Total, ret
}

// list asks which programs compute on the card. They cannot without taking memory, so memory that has not changed
// means, for a few seconds, the same programs.
func (s *nvmlSource) list(c *nvmlCard, used uint64) {
	infos, ret := c.device.GetComputeRunningProcesses()
	if !c.has(ret) {
		return
	}
	c.procs = make([]Process, 0, len(infos))
	for _, p := range infos {
		memory := p.UsedGpuMemory
		if memory == nvmlUnknown {
			memory = 0
		}
		c.procs = append(c.procs, s.people.describe(int(p.Pid), memory))
	}
	c.listed, c.listedUsed = s.probes, used
}

// nvmlUnknown is the driver's word for a number that it does not tell.
const nvmlUnknown = ^uint64(0)

// has is true when a value that a healthy card may lack is there; it takes note if the lack means the card is gone.
func (c *nvmlCard) has(ret nvml.Return) bool {
	if ret == nvml.ERROR_GPU_IS_LOST || ret == nvml.ERROR_RESET_REQUIRED {
		c.failed = ret
	}
	return ret == nvml.SUCCESS
}

// nvmlState is what an answer about a card's memory says of the card. Not supported is OK: machines whose GPU shares the
// host's memory, and cards in MIG mode, do not tell.
func nvmlState(ret nvml.Return) State {
	switch ret {
	case nvml.SUCCESS, nvml.ERROR_NOT_SUPPORTED:
		return OK
	case nvml.ERROR_GPU_IS_LOST, nvml.ERROR_NOT_FOUND:
		return Lost
	case nvml.ERROR_TIMEOUT:
		return Suspect
	default:
		return Bad
	}
}

// nvmlError spells the answer out at once: the words come from the library, which may be closed, or hang, when somebody
// reads the error.
func nvmlError(doing string, ret nvml.Return) error {
	return errors.New("nvml: " + doing + ": " + ret.Error())
}
