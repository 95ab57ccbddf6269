package mesh

import (
	"net"
	"sync"
)

// queueLength is how many connections of one protocol may wait for its Accept.
const queueLength = 64

// queue is the listener of one protocol. A place is reserved before the dialler hears "ok", so that whoever was welcomed
// is served, and whoever is too many is told so.
type queue struct {
	addr   net.Addr
	places chan struct{} // one token per reserved place
	ready  chan *Conn    // never blocks: as long as places
	done   chan struct{}

	mu     sync.Mutex
	closed bool
}

func newQueue(addr net.Addr) *queue {
	return &queue{
		addr:   addr,
		places: make(chan struct{}, queueLength),
		ready:  make(chan *Conn, queueLength),
		done:   make(chan struct{}),
	}
}

// reserve takes a place, or reports that there is none. It is given back by Accept or by release.
func (q *queue) reserve() bool {
	select {
	case q.places <- struct{}{}:
		return true
	default:
		return false
	}
}

func (q *queue) release() { <-q.places }

// push hands over a connection that holds a place; false means that the listener is closed and c is still the caller's.
func (q *queue) push(c *Conn) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.ready <- c
	return true
}

// Accept returns the next connection, or net.ErrClosed after the listener or the mesh was closed.
func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.ready:
		q.release()
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

// Addr returns the address of the mesh port.
func (q *queue) Addr() net.Addr { return q.addr }

// Close makes Accept return, and closes what was waiting for it. Connections already accepted live on.
func (q *queue) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil
	}
	q.closed = true
	close(q.done)
	for len(q.ready) > 0 {
		select {
		case c := <-q.ready: // an Accept may take it first
			q.release()
			c.raw.Close()
			c.set.remove(c)
		default:
		}
	}
	return nil
}

func (q *queue) isClosed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed
}
