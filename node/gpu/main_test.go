package gpu

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scripted is a source whose answers a test decides, call by call.
type scripted struct {
	calls, running, most atomic.Int32
	closed               atomic.Bool
	answer               func(ctx context.Context, call int) ([]GPU, error)
}

func (s *scripted) Name() string { return "simulated" }

func (s *scripted) Probe(ctx context.Context) ([]GPU, error) {
	if n := s.running.Add(1); n > s.most.Load() {
		s.most.Store(n)
	}
	defer s.running.Add(-1)
	return s.answer(ctx, int(s.calls.Add(1)))
}

func (s *scripted) Close() error { s.closed.Store(true); return nil }

// logbook keeps what was logged, for tests that say how often something is said.
type logbook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logbook) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Count(l.buf.Bytes(), []byte(text))
}

func (l *logbook) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func card(index int, uuid string) GPU {
	return GPU{
		UUID: uuid, Index: index, Name: "Card", State: OK, MemoryUsed: 1 << 30, MemoryTotal: 8 << 30, Utilization: 40,
		Temperature: 50, Power: 100, Processes: []Process{{PID: 7, Name: "python", User: "ann", MemoryUsed: 1 << 30}},
	}
}

func states(gpus []GPU) map[string]State {
	out := map[string]State{}
	for _, g := range gpus {
		out[g.UUID] = g.State
	}
	return out
}
