package mesh

import (
	"context"
	"net"
	"slices"
	"sync"
	"time"
)

// gate bounds how many handshakes run at once. When it is full the next connection waits; a handshake that has had its
// patience and is still unfinished is cut to make room. Idle junk can therefore hold every place for patience at most,
// while a burst of real machines, done in milliseconds each, loses none.
type gate struct {
	places   chan struct{}
	patience time.Duration

	mu      sync.Mutex
	pending []arrival // oldest first
}

type arrival struct {
	conn net.Conn
	at   time.Time
}

func newGate(places int, patience time.Duration) *gate {
	return &gate{places: make(chan struct{}, places), patience: patience}
}

// enter waits for a place for conn. It returns the cause when ctx ends first.
func (g *gate) enter(ctx context.Context, conn net.Conn) error {
	for {
		late := time.NewTimer(g.untilLate())
		select {
		case g.places <- struct{}{}:
			late.Stop()
			g.mu.Lock()
			g.pending = append(g.pending, arrival{conn, time.Now()})
			g.mu.Unlock()
			return nil
		case <-late.C:
			g.cutLate()
		case <-ctx.Done():
			late.Stop()
			return context.Cause(ctx)
		}
	}
}

// leave gives the place of conn back.
func (g *gate) leave(conn net.Conn) {
	g.mu.Lock()
	g.pending = slices.DeleteFunc(g.pending, func(a arrival) bool { return a.conn == conn })
	g.mu.Unlock()
	<-g.places
}

func (g *gate) untilLate() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.pending) == 0 {
		return g.patience
	}
	return max(time.Until(g.pending[0].at.Add(g.patience)), time.Millisecond)
}

// cutLate closes the oldest handshake if it is late; whoever runs it then fails and leaves.
func (g *gate) cutLate() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.pending) > 0 && time.Since(g.pending[0].at) >= g.patience {
		g.pending[0].conn.Close()
		g.pending = slices.Delete(g.pending, 0, 1)
	}
}
