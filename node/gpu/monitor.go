package gpu

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

const (
	// interval is how often Run measures.
	interval = time.Second
	// deadline is how long a source may take before its GPUs are suspect.
	deadline = 3 * time.Second
)

// Monitor measures this machine's GPUs and the machine itself, and remembers the latest. All methods may be called from
// several goroutines. Create it with Open.
type Monitor struct {
	log   *slog.Logger
	guard *guard
	host  *host
	every int // Run asks the source each so many measurements

	mu        sync.Mutex
	changed   chan struct{} // closed at the next change of cards or states, then replaced
	inventory inventory
	reading   Reading
	taken     uint64 // the newest call into the source whose answer is in reading
	lastErr   string // the error that was logged last and still holds
}

// paced is a source that is costly to ask, so that Run asks it only each so many measurements.
type paced interface{ every() int }

func newMonitor(s Source, h *host, log *slog.Logger) *Monitor {
	m := &Monitor{
		log: log, guard: &guard{source: s, deadline: deadline}, host: h, every: 1,
		changed: make(chan struct{}),
		reading: Reading{Source: s.Name(), Host: Host{Cores: h.cores}},
	}
	if p, ok := s.(paced); ok {
		m.every = p.every()
	}
	return m
}

// Run measures at once and then once a second, until ctx ends; it returns nil then, even if the driver hangs. A source
// that is costly to ask (nvidia-smi) is asked every third second, the machine itself every second.
func (m *Monitor) Run(ctx context.Context) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for n := 0; ; n++ {
		if n%m.every == 0 {
			m.Measure(ctx)
		} else {
			m.measureHost(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Measure measures now and returns the result, after at most three seconds even if the driver hangs, or at once when it
// has been hanging for longer. Where ctx ends first, the result is what was known before.
func (m *Monitor) Measure(ctx context.Context) Reading {
	m.measureHost(ctx)
	gpus, number, err := m.guard.probe(ctx)
	if err != nil && (ctx.Err() != nil || errors.Is(err, errClosed)) {
		return m.Reading()
	}
	m.take(number, gpus, err)
	return m.Reading()
}

// Reading is the latest measurement, a copy. Before the first it has no GPUs.
func (m *Monitor) Reading() Reading {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reading.clone()
}

// Changed returns a channel that is closed at the next change after the call: when a GPU comes, is lost, or changes its
// state, name, or amount of memory. What is merely measured does not count. Fetch the channel before the Reading, then no
// change can be missed; fetch a new one after each change. Any number of callers may wait.
func (m *Monitor) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// Close lets go of the driver; call it when Run has returned. It waits a few seconds at most and says so when a call that
// hangs in the driver had to be left behind. Closing twice does nothing.
func (m *Monitor) Close() error { return m.guard.close() }

func (m *Monitor) measureHost(ctx context.Context) {
	h, err := m.host.measure(ctx)
	if err != nil {
		m.log.Debug("cannot measure all of this machine", "err", err)
	}
	m.mu.Lock()
	m.reading.Host = h
	m.mu.Unlock()
}

// take puts an answer into the reading. An answer older than the newest is dropped, since two callers may take theirs in either order.
func (m *Monitor) take(number uint64, gpus []GPU, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if number < m.taken {
		return
	}
	m.taken = number
	m.note(err)
	if gpus == nil && err != nil {
		m.inventory.silence()
	} else {
		m.inventory.answer(gpus)
	}
	before := m.reading.GPUs
	m.reading.GPUs = cloneGPUs(m.inventory.gpus)
	m.reading.Taken = time.Now()
	if sameCards(before, m.reading.GPUs) {
		return
	}
	m.logStates(before, m.reading.GPUs)
	close(m.changed)
	m.changed = make(chan struct{})
}

// note logs an error once, however many measurements it lasts, and its end.
func (m *Monitor) note(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text == m.lastErr {
		return
	}
	m.lastErr = text
	if err == nil {
		m.log.Info("gpu source answers again")
		return
	}
	m.log.Warn("gpu source does not answer well; GPUs that are suspect get no new work until it does", "err", err)
}

func (m *Monitor) logStates(before, after []GPU) {
	was := make(map[string]State, len(before))
	for _, g := range before {
		was[g.UUID] = g.State
	}
	for _, g := range after {
		old, known := was[g.UUID]
		switch {
		case !known:
			m.log.Info("gpu found", "gpu", g.UUID, "index", g.Index, "name", g.Name, "state", g.State)
		case old != g.State && g.State == OK:
			m.log.Info("gpu is well again", "gpu", g.UUID, "index", g.Index, "was", old)
		case old != g.State:
			m.log.Warn("gpu changed its state", "gpu", g.UUID, "index", g.Index, "state", g.State, "was", old)
		}
	}
}
