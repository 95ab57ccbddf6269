package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deveronica/cvlab/cluster"
	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/fsm/sched"
	"github.com/deveronica/cvlab/node/gpu"
	"github.com/deveronica/cvlab/ui/api"
	"github.com/deveronica/cvlab/ui/metrics"
)

// busyMachine is a reading with the longest figures a machine of n GPUs may have.
func busyMachine(n int) gpu.Reading {
	r := gpu.Reading{Host: gpu.Host{
		CPU: 100.0 / 3, Cores: 256, MemoryUsed: 2 << 40, MemoryTotal: 2<<40 + 1<<30, DiskFree: 99 << 40, DiskTotal: 100 << 40,
	}}
	for i := range n {
		r.GPUs = append(r.GPUs, gpu.GPU{
			UUID: fmt.Sprintf("GPU-%d", i), Index: i, Name: "NVIDIA H200", State: gpu.Suspect, MemoryUsed: 141 << 30, MemoryTotal: 143771 << 20,
			Utilization: 100, Temperature: 200.0 / 3, Power: 2099.0 / 3,
			Processes: []gpu.Process{
				{PID: 4194303, Name: "python3", User: "ana", MemoryUsed: 70 << 30}, {PID: 2, Name: "Xorg", User: "root"}, {PID: 3, Name: "third", User: "bob"},
			},
		})
	}
	return r
}

func all(string) bool  { return true }
func none(string) bool { return false }

func TestBeaconFitsAPacket(t *testing.T) {
	data, err := newBeacon(busyMachine(8), all).encode()
	if err != nil {
		t.Fatal(err)
	}
	if len(data) >= 1100 {
		t.Errorf("8 GPUs take %d bytes; a packet of gossip holds 1,100: %s", len(data), data)
	}
}

func TestBeaconRoundTrip(t *testing.T) {
	for _, c := range []struct {
		name string
		b    beacon
	}{
		{"nothing", newBeacon(gpu.Reading{}, none)},
		{"experiments only", newBeacon(busyMachine(8), all)},
		{"outsiders", newBeacon(busyMachine(2), none)},
		{"attempts", beacon{bearing: bearing{
			Frozen:   []frozenBeacon{{Token: fsm.Token{Epoch: 1, Index: 7}, Since: 1767323045, Lease: 300}},
			Strays:   []strayBeacon{{Token: fsm.Token{Epoch: 1, Index: 9}, Experiment: 3, Reason: "why"}},
			Warnings: []string{"look"},
		}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			data, err := c.b.encode()
			if err != nil {
				t.Fatal(err)
			}
			got, err := decodeBeacon(data)
			if err != nil || cmp.Diff(c.b, got, cmp.AllowUnexported(beacon{})) != "" {
				t.Errorf("%v\n%s", err, cmp.Diff(c.b, got, cmp.AllowUnexported(beacon{})))
			}
		})
	}
	b := newBeacon(busyMachine(1), none)
	if g := b.GPUs[0]; len(g.Foreign) != maxForeign || g.Foreign[0].User != "ana" || g.Celsius != 66.7 || g.Watt != 699.7 || b.CPU != 33.3 {
		t.Errorf("said %+v", b)
	}
	if g := newBeacon(busyMachine(1), all).GPUs[0]; g.Foreign != nil {
		t.Errorf("an experiment's own processes were called outsiders: %+v", g.Foreign)
	}
}

// FuzzDecodeBeacon: whatever a machine of another version says, the planner's and the pages' words can be made of it.
func FuzzDecodeBeacon(f *testing.F) {
	for _, seed := range []string{"", "{}", "null", `{"g":[{"i":0,"u":1,"t":2,"p":3,"s":"bad","f":[{"p":1,"u":"x"}]}],"c":5,"m":[1,2],"d":[9,3]}`, `{"g":[{"i":-1},{"i":0},{"i":0}]}`, `{"d":[5]}`} {
		f.Add([]byte(seed))
	}
	n := machine(nodeA, "a")
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := decodeBeacon(data)
		if err != nil {
			return
		}
		if h := b.schedHealth(&n, time.Second); len(h.GPUs) != len(n.GPUs) {
			t.Errorf("%d GPUs", len(h.GPUs))
		}
		d := device(fsm.New().View(), &n, cluster.Health{Node: nodeA, Payload: data}, true)
		if len(d.GPUs) != len(n.GPUs) {
			t.Errorf("%d cards", len(d.GPUs))
		}
		if again, err := b.encode(); err == nil {
			if _, err := decodeBeacon(again); err != nil {
				t.Errorf("what was encoded cannot be read: %v", err)
			}
		}
	})
}

func TestSchedHealth(t *testing.T) {
	n := machine(nodeA, "a")
	b := beacon{CPU: 50, GPUs: []gpuBeacon{{Index: 1, Used: 100, Total: 1000, Use: 7, Foreign: []procBeacon{{User: "ana"}, {User: "bob"}}}}}
	want := sched.Health{Node: nodeA, Heard: 2 * time.Second, CPU: 0.5, GPUs: []sched.GPUHealth{
		{UUID: "GPU-a0", State: sched.StateLost, MemoryTotal: 24 << 30}, // of the inventory, and not spoken of
		{UUID: "GPU-a1", State: sched.StateOK, MemoryUsed: 100 * mib, MemoryTotal: 1000 * mib, Utilization: 7, Foreign: true, ForeignUser: "ana"},
	}}
	if diff := cmp.Diff(want, b.schedHealth(&n, 2*time.Second)); diff != "" {
		t.Error(diff)
	}
	for state, word := range map[gpu.State]string{"": sched.StateOK, gpu.Suspect: sched.StateSuspect, gpu.Bad: sched.StateBad, gpu.Lost: sched.StateLost} {
		b := beacon{GPUs: []gpuBeacon{{Index: 0, State: state}}}
		if got := b.schedHealth(&n, 0).GPUs[0].State; got != word {
			t.Errorf("%q became %q, want %q", state, got, word)
		}
	}
}

func TestDevice(t *testing.T) {
	f := newFacts(t)
	n := f.View().Node(nodeA)
	payload, err := beacon{CPU: 12.5, Cores: 64, Mem: [2]uint64{1, 2}, Disk: [2]uint64{3, 10}, GPUs: []gpuBeacon{{Index: 0}, {Index: 1}}}.encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		age   time.Duration
		state string
	}{{0, "active"}, {activeFor, "active"}, {activeFor + 1, "stale"}, {silentFor, "stale"}, {silentFor + 1, "lost"}} {
		d := device(f.View(), n, cluster.Health{Node: nodeA, Payload: payload, Heard: c.age}, true)
		if d.State != c.state || d.LastHeard == nil || *d.LastHeard != c.age.Seconds() {
			t.Errorf("heard %s ago: %s, %v; want %s", c.age, d.State, d.LastHeard, c.state)
		}
		if d.CPU.Cores != 64 || d.CPU.Utilization != 12.5 || d.Memory != (api.Space{Used: mib, Total: 2 * mib}) || d.Disk != (api.Space{Used: 7 * mib, Total: 10 * mib}) {
			t.Errorf("figures %+v %+v %+v", d.CPU, d.Memory, d.Disk)
		}
	}
	for name, d := range map[string]api.Device{
		"never heard": device(f.View(), n, cluster.Health{}, false),
		"gibberish":   device(f.View(), n, cluster.Health{Node: nodeA, Payload: []byte("?"), Heard: time.Hour}, true),
	} {
		if d.State != "lost" || len(d.GPUs) != 2 || d.GPUs[0].State != "lost" || d.GPUs[0].MemoryTotal != 24<<30 || d.GPUs[0].Processes == nil {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

func TestCard(t *testing.T) {
	f := newFacts(t)
	f.assign(nodeA, "GPU-a0")
	outsider := []procBeacon{{PID: 7, User: "ana", Name: "python3", Used: 5}}
	n := f.View().Node(nodeA)
	for _, c := range []struct {
		name  string
		card  int
		said  *gpuBeacon
		state string
	}{
		{"free", 1, &gpuBeacon{Index: 1}, "idle"},
		{"held", 0, &gpuBeacon{Index: 0}, "busy"},
		{"somebody else's", 1, &gpuBeacon{Index: 1, Foreign: outsider}, "foreign"},
		{"held and somebody else's", 0, &gpuBeacon{Index: 0, Foreign: outsider}, "busy"},
		{"silent", 1, &gpuBeacon{Index: 1, State: gpu.Suspect}, "suspect"},
		{"held and broken", 0, &gpuBeacon{Index: 0, State: gpu.Bad}, "bad"},
		{"not spoken of", 1, nil, "lost"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b beacon
			if c.said != nil {
				c.said.Used, c.said.Total, c.said.Use, c.said.Celsius, c.said.Watt = 1, 2, 3, 4, 5
				b.GPUs = []gpuBeacon{*c.said}
			}
			got := card(f.View(), n.GPUs[c.card], b)
			if got.State != c.state || got.UUID != n.GPUs[c.card].UUID {
				t.Errorf("%s is %s, want %s", got.UUID, got.State, c.state)
			}
			if c.said != nil && (got.MemoryUsed != mib || got.MemoryTotal != 2*mib || got.Utilization != 3 || got.Temperature != 4 || got.Power != 5) {
				t.Errorf("figures %+v", got)
			}
			if c.said != nil && len(got.Processes) != len(c.said.Foreign) {
				t.Errorf("processes %+v", got.Processes)
			}
		})
	}
}

func TestOutlook(t *testing.T) {
	list := func(n int) []string { return strings.Fields("a b c d e f g")[:n] }
	for _, c := range []struct {
		voters, alive, nodes int
		want                 string
	}{
		{0, 0, 0, "nobody votes yet"},
		{1, 1, 1, "add two more"},
		{1, 1, 2, "a alone decides"},
		{1, 0, 2, "only 0 of 1 voters answer (none)"},
		{3, 3, 3, "any one machine may die"},
		{3, 2, 3, "if one more dies, nothing can be changed"},
		{3, 1, 3, "only 1 of 3 voters answer (a); nothing can be changed until 2 do"},
		{5, 5, 7, "any 2 machines may die"},
		{5, 4, 7, "any one machine may die"},
		{5, 3, 7, "if one more dies"},
		{5, 2, 7, "only 2 of 5 voters answer (a, b); nothing can be changed until 3 do"},
		{7, 7, 9, "any 3 machines may die"},
	} {
		if got := outlook(list(c.voters), list(c.alive), c.nodes); !strings.Contains(got, c.want) {
			t.Errorf("%d of %d voters, %d nodes: %q, want %q", c.alive, c.voters, c.nodes, got, c.want)
		}
	}
}

// mouth is the seat of a beaconer and the monitor that it listens to.
type mouth struct {
	mu                sync.Mutex
	sent, published   int
	changed, newsLead chan struct{}
	filled            chan struct{}
}

func (m *mouth) Disk() cluster.DiskState      { return cluster.DiskLow }
func (m *mouth) SyncTime() time.Duration      { return 12 * time.Millisecond }
func (m *mouth) DiskChanged() <-chan struct{} { m.mu.Lock(); defer m.mu.Unlock(); return m.filled }

func (m *mouth) SendBeacon([]byte) { m.mu.Lock(); defer m.mu.Unlock(); m.sent++ }
func (m *mouth) Publish([]byte)    { m.mu.Lock(); defer m.mu.Unlock(); m.published++ }

func (m *mouth) Reading() gpu.Reading { return busyMachine(1) }

func (m *mouth) Changed() <-chan struct{}       { m.mu.Lock(); defer m.mu.Unlock(); return m.changed }
func (m *mouth) LeaderChanged() <-chan struct{} { m.mu.Lock(); defer m.mu.Unlock(); return m.newsLead }

func (m *mouth) fire(c *chan struct{}) {
	m.mu.Lock()
	close(*c)
	*c = make(chan struct{})
	m.mu.Unlock()
	synctest.Wait()
}

func (m *mouth) want(t *testing.T, when string, sent, published int) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sent != sent || m.published != published {
		t.Errorf("%s: %d beacons and %d to all, want %d and %d", when, m.sent, m.published, sent, published)
	}
}

func TestBeaconsOnePerSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mouth{changed: make(chan struct{}), newsLead: make(chan struct{}), filled: make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		var frozen atomic.Bool
		said := func() bearing {
			if frozen.Load() {
				return bearing{Frozen: []frozenBeacon{{Token: fsm.Token{Epoch: 1, Index: 7}}}}
			}
			return bearing{}
		}
		wait := start(func() {
			if err := (&beaconer{seat: m, monitor: m, disk: m, held: none, far: func() map[uint64]metrics.Progress { return nil }, bearing: said, logger: quiet()}).Run(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("ended with %v", err)
			}
		})
		synctest.Wait()
		m.want(t, "at once", 1, 1)
		<-time.After(5*time.Second + time.Millisecond)
		m.want(t, "after five seconds", 6, 1)
		m.fire(&m.newsLead)
		m.want(t, "a new leader has heard nobody", 7, 1)
		m.fire(&m.changed)
		m.want(t, "a card broke", 8, 2)
		m.fire(&m.filled)
		m.want(t, "the disk became full", 9, 3)
		<-time.After(time.Minute)
		m.want(t, "a minute later", 69, 9)
		frozen.Store(true)
		<-time.After(time.Second)
		m.want(t, "an attempt froze", 70, 10)
		cancel()
		wait()
	})
}

func TestInventoryIsAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mouth{changed: make(chan struct{})}
		var announced atomic.Int32
		var well atomic.Bool
		a := &announcer{changed: m.Changed, logger: quiet(), announce: func(context.Context) error {
			if announced.Add(1); well.Load() {
				return nil
			}
			return errors.New("no majority")
		}}
		ctx, cancel := context.WithCancel(t.Context())
		wait := start(func() { _ = a.Run(ctx) })
		<-time.After(3*time.Second + time.Millisecond)
		well.Store(true)
		<-time.After(time.Hour)
		if n := announced.Load(); n != 5 {
			t.Errorf("tried %d times, want once a second until it was taken", n)
		}
		m.fire(&m.changed)
		if announced.Load() != 6 {
			t.Error("a change was not announced")
		}
		cancel()
		wait()
	})
}

func TestTheWordOnADiskTravelsInTheBeacon(t *testing.T) {
	payload, err := beacon{CPU: 3}.withDisk(&mouth{}).encode()
	if err != nil {
		t.Fatal(err)
	}
	b, err := decodeBeacon(payload)
	if err != nil || b.Room != cluster.DiskLow || b.Sync != 12 || diskOf(payload) != cluster.DiskLow {
		t.Errorf("%s is read as %+v, %v", payload, b, err)
	}
	// A node of an older version says nothing, and counts as one with room.
	for text, want := range map[string]cluster.DiskState{`{"c":3}`: cluster.DiskOK, `{`: "", ``: ""} {
		if got := diskOf([]byte(text)); got != want {
			t.Errorf("%q is read as %q, want %q", text, got, want)
		}
	}
}
