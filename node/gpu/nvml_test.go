//go:build cgo && linux && !nonvml

package gpu

import (
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxa100"
	"github.com/google/go-cmp/cmp"
)

// dgx is NVIDIA's own pretended machine of 8 cards, with the measurements that it leaves out.
func dgx(t *testing.T) (*dgxa100.Server, []*dgxa100.Device) {
	t.Helper()
	server := dgxa100.New()
	var devices []*dgxa100.Device
	for _, d := range server.Devices {
		device, ok := d.(*dgxa100.Device)
		if !ok {
			t.Fatalf("the mock server's devices are %T", d)
		}
		setMemory(device, 3*gib)
		device.GetUtilizationRatesFunc = func() (nvml.Utilization, nvml.Return) {
			return nvml.Utilization{Gpu: uint32(10 + device.Index), Memory: 5}, nvml.SUCCESS
		}
		device.GetTemperatureFunc = func(nvml.TemperatureSensors) (uint32, nvml.Return) { return 45, nvml.SUCCESS }
		device.GetPowerUsageFunc = func() (uint32, nvml.Return) { return 61500, nvml.SUCCESS }
		device.GetComputeRunningProcessesFunc = func() ([]nvml.ProcessInfo, nvml.Return) { return nil, nvml.SUCCESS }
		devices = append(devices, device)
	}
	return server, devices
}

func setMemory(d *dgxa100.Device, used uint64) {
	d.GetMemoryInfo_v2Func = func() (nvml.Memory_v2, nvml.Return) {
		return nvml.Memory_v2{Total: 40 * gib, Reserved: gib, Used: used, Free: 39*gib - used}, nvml.SUCCESS
	}
}

func breakMemory(d *dgxa100.Device, ret nvml.Return) {
	d.GetMemoryInfo_v2Func = func() (nvml.Memory_v2, nvml.Return) { return nvml.Memory_v2{}, ret }
	d.GetMemoryInfoFunc = func() (nvml.Memory, nvml.Return) { return nvml.Memory{}, ret }
}

func TestNVMLTellsOfEightCards(t *testing.T) {
	server, devices := dgx(t)
	devices[2].GetComputeRunningProcessesFunc = func() ([]nvml.ProcessInfo, nvml.Return) {
		return []nvml.ProcessInfo{
			{Pid: uint32(os.Getpid()), UsedGpuMemory: 2 * gib},
			{Pid: 1 << 30, UsedGpuMemory: ^uint64(0)}, // unseen, and the driver does not tell
		}, nvml.SUCCESS
	}
	s := newNVML(server)
	gpus, err := s.Probe(t.Context())
	if err != nil || len(gpus) != 8 {
		t.Fatalf("got %d cards, %v; want 8", len(gpus), err)
	}
	want := GPU{
		UUID: devices[2].UUID, Index: 2, Name: "Mock NVIDIA A100-SXM4-40GB", State: OK, MemoryUsed: 3 * gib,
		MemoryTotal: 40 * gib, Utilization: 12, Temperature: 45, Power: 61.5,
		Processes: []Process{newPeople().describe(os.Getpid(), 2*gib), {PID: 1 << 30}},
	}
	if diff := cmp.Diff(want, gpus[2]); diff != "" {
		t.Errorf("third card (-want +got):\n%s", diff)
	}
	if _, err := s.Probe(t.Context()); err != nil || len(devices[2].GetUUIDCalls()) != 1 {
		t.Errorf("second probe: %v, and the card was asked for its name %d times, want once", err, len(devices[2].GetUUIDCalls()))
	}
	if err := s.Close(); err != nil || len(server.ShutdownCalls()) != 1 {
		t.Errorf("close: %v after %d shutdowns", err, len(server.ShutdownCalls()))
	}
}

func TestNVMLOfAnOldDriverTellsMemoryTheOldWay(t *testing.T) {
	server, devices := dgx(t)
	server.LookupSymbolFunc = func(symbol string) error {
		if symbol == "nvmlDeviceGetMemoryInfo_v2" {
			return os.ErrNotExist
		}
		return nil
	}
	devices[0].GetMemoryInfo_v2Func = nil // calling it would panic, as a missing symbol ends a real process
	gpus, err := newNVML(server).Probe(t.Context())
	if err != nil || gpus[0].MemoryTotal != 40*gib {
		t.Errorf("got %+v, %v", gpus[0], err)
	}
}

func TestOneBadCardHidesNoOther(t *testing.T) {
	server, devices := dgx(t)
	m := monitorOf(newNVML(server), &logbook{})
	m.Measure(t.Context())

	breakMemory(devices[0], nvml.ERROR_GPU_IS_LOST)
	breakMemory(devices[1], nvml.ERROR_RESET_REQUIRED)
	breakMemory(devices[2], nvml.ERROR_UNKNOWN)
	breakMemory(devices[3], nvml.ERROR_TIMEOUT)
	breakMemory(devices[4], nvml.ERROR_NOT_SUPPORTED) // shares the host's memory
	devices[5].GetUtilizationRatesFunc = func() (nvml.Utilization, nvml.Return) { return nvml.Utilization{}, nvml.ERROR_NOT_SUPPORTED }
	devices[6].GetPowerUsageFunc = func() (uint32, nvml.Return) { return 0, nvml.ERROR_GPU_IS_LOST }
	got := m.Measure(t.Context()).GPUs

	var states []State
	for _, g := range got {
		states = append(states, g.State)
	}
	if diff := cmp.Diff([]State{Lost, Bad, Bad, Suspect, OK, OK, Lost, OK}, states); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
	if got[2].MemoryUsed != 3*gib || got[2].Name == "" {
		t.Errorf("bad card: got %+v, want its last values", got[2])
	}
	if got[5].Utilization != 0 || got[5].MemoryUsed != 3*gib {
		t.Errorf("card without a use counter: got %+v", got[5])
	}

	for _, d := range devices[:4] {
		setMemory(d, gib)
	}
	if got := m.Measure(t.Context()).GPUs; got[0].State != OK || got[2].State != OK || got[2].MemoryUsed != gib {
		t.Errorf("after they recovered: got %+v", got[:3])
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

func TestACardThatTheDriverNoLongerCountsIsLost(t *testing.T) {
	server, devices := dgx(t)
	m := monitorOf(newNVML(server), &logbook{})
	m.Measure(t.Context())
	server.DeviceGetCountFunc = func() (int, nvml.Return) { return 7, nvml.SUCCESS }
	server.DeviceGetHandleByIndexFunc = func(i int) (nvml.Device, nvml.Return) {
		if i >= 3 { // the fourth fell off the bus, the rest moved up
			i++
		}
		return devices[i], nvml.SUCCESS
	}
	got := m.Measure(t.Context()).GPUs
	if len(got) != 8 || got[3].UUID != devices[3].UUID || got[3].State != Lost {
		t.Fatalf("got %d cards, fourth %+v; want 8, the fourth lost", len(got), got[3])
	}
	if got[4].UUID != devices[4].UUID || got[4].State != OK || got[4].Index != 4 || got[4].Utilization != 14 {
		t.Errorf("fifth card: got %+v, want it well under its own index", got[4])
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

func TestACardThatIsBrokenFromTheStartIsTriedAgain(t *testing.T) {
	server, devices := dgx(t)
	broken := true
	server.DeviceGetHandleByIndexFunc = func(i int) (nvml.Device, nvml.Return) {
		if i == 1 && broken {
			return nil, nvml.ERROR_UNKNOWN
		}
		return devices[i], nvml.SUCCESS
	}
	s := newNVML(server)
	gpus, err := s.Probe(t.Context())
	if len(gpus) != 7 || err == nil || !strings.Contains(err.Error(), "gpu 1") {
		t.Fatalf("got %d cards, %v; want 7 and a word about gpu 1", len(gpus), err)
	}
	broken = false
	for range nvmlRetry {
		gpus, err = s.Probe(t.Context())
	}
	if len(gpus) != 8 || err != nil {
		t.Errorf("got %d cards, %v; want all 8", len(gpus), err)
	}

	// And one that stops telling its name stays under it.
	broken = true
	breakMemory(devices[1], nvml.ERROR_UNKNOWN)
	for range nvmlRetry {
		gpus, err = s.Probe(t.Context())
	}
	if len(gpus) != 8 || gpus[1].UUID != devices[1].UUID || gpus[1].State != Bad || err == nil {
		t.Errorf("got %d cards, second %+v, %v; want it bad under its name", len(gpus), gpus[1], err)
	}
}

func TestADriverThatIsLoadedLateIsFound(t *testing.T) {
	server, _ := dgx(t)
	ready := false
	server.InitFunc = func() nvml.Return {
		if !ready {
			return nvml.ERROR_DRIVER_NOT_LOADED
		}
		return nvml.SUCCESS
	}
	var log logbook
	m := monitorOf(newNVML(server), &log)
	changed := watch(m)
	for range 5 {
		if r := m.Measure(t.Context()); len(r.GPUs) != 0 || changed() {
			t.Fatalf("no driver: got %+v", r)
		}
	}
	if n := log.count("does not answer"); n != 1 || len(server.InitCalls()) != 1 {
		t.Errorf("got %d log lines and %d tries, want 1 and 1", n, len(server.InitCalls()))
	}
	ready = true
	for range nvmlRetry {
		m.Measure(t.Context())
	}
	if r := m.Reading(); len(r.GPUs) != 8 || !changed() {
		t.Errorf("driver is there: got %d cards, want 8 and a change", len(r.GPUs))
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

func TestNVMLThatLostItsSessionOpensItAgain(t *testing.T) {
	server, _ := dgx(t)
	count := server.DeviceGetCountFunc
	m := monitorOf(newNVML(server), &logbook{})
	m.Measure(t.Context())
	server.DeviceGetCountFunc = func() (int, nvml.Return) { return 0, nvml.ERROR_UNINITIALIZED }
	if got := m.Measure(t.Context()).GPUs[0].State; got != Suspect {
		t.Errorf("session lost: got %s, want suspect", got)
	}
	server.DeviceGetCountFunc = count
	if got := m.Measure(t.Context()).GPUs[0].State; got != OK || len(server.InitCalls()) != 2 {
		t.Errorf("got %s after %d times opening, want ok after 2", got, len(server.InitCalls()))
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

func TestNVMLHangingInTheKernelMakesAllCardsSuspect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, devices := dgx(t)
		m := monitorOf(newNVML(server), &logbook{})
		m.Measure(t.Context())
		release := make(chan struct{})
		devices[5].GetPowerUsageFunc = func() (uint32, nvml.Return) { <-release; return 1000, nvml.SUCCESS }
		stop := run(t, m)
		time.Sleep(time.Minute)
		for _, g := range m.Reading().GPUs {
			if g.State != Suspect || g.MemoryUsed != 3*gib || g.Name == "" {
				t.Errorf("got %+v, want the last values and suspect", g)
			}
		}
		if n := len(server.DeviceGetCountCalls()); n != 2 {
			t.Errorf("the driver was asked %d times, want 2", n)
		}
		close(release)
		time.Sleep(2 * time.Second)
		if g := m.Reading().GPUs[5]; g.State != OK || g.Power != 1 {
			t.Errorf("released: got %+v, want ok", g)
		}
		stop()
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestNVMLListsProcessesWhenMemoryMoves(t *testing.T) {
	server, devices := dgx(t)
	s := newNVML(server)
	listed := func() int { return len(devices[0].GetComputeRunningProcessesCalls()) }
	probe := func() {
		t.Helper()
		if _, err := s.Probe(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	probe()
	probe()
	if listed() != 1 {
		t.Errorf("memory is the same: listed %d times, want 1", listed())
	}
	setMemory(devices[0], 4*gib)
	probe()
	if listed() != 2 {
		t.Errorf("memory moved: listed %d times, want 2", listed())
	}
	for range nvmlListEvery {
		probe()
	}
	if listed() != 3 {
		t.Errorf("after a while: listed %d times, want 3", listed())
	}
}
