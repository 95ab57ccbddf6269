package gpu

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

var (
	errSilent = errors.New("no answer within the deadline")
	errClosed = errors.New("gpu monitor is closed")
)

// guard lets at most one call into a source be under way and never waits for it longer than the deadline. A call that
// hangs in the kernel cannot be ended, only left alone: its goroutine stays until the kernel lets go, and until then
// every further probe answers errSilent at once.
type guard struct {
	source   Source
	deadline time.Duration

	wg sync.WaitGroup

	mu      sync.Mutex
	current *call // the latest call, ended or not
	calls   uint64
	closed  bool
}

// call is one call into the source. gpus and err may be read once done is closed.
type call struct {
	number uint64 // from 1, in the order of their beginning
	done   chan struct{}
	cancel context.CancelFunc
	late   time.Time // from then on the call counts as hanging
	gpus   []GPU
	err    error
}

func (c *call) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// probe asks the source. The answer is of a call that began after probe did; number puts answers in order. The end of ctx
// ends the waiting; the source is told, but need not care.
func (g *guard) probe(ctx context.Context) (gpus []GPU, number uint64, err error) {
	for {
		c, mine, err := g.next(ctx)
		if err != nil {
			return nil, c.number, err
		}
		if err := c.wait(ctx); err != nil {
			return nil, c.number, err
		}
		if mine {
			return c.gpus, c.number, c.err
		}
	}
}

// next starts a call, or returns the one of another caller that has to end first. The call is never nil.
func (g *guard) next(ctx context.Context) (c *call, mine bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return &call{}, false, errClosed
	case g.current != nil && !g.current.ended():
		return g.current, false, nil // waiting for it ends at once if it is late
	}
	callCtx, cancel := context.WithTimeout(ctx, g.deadline)
	g.calls++
	c = &call{number: g.calls, done: make(chan struct{}), cancel: cancel, late: time.Now().Add(g.deadline)}
	g.current = c
	g.wg.Go(func() {
		defer close(c.done)
		defer cancel()
		c.gpus, c.err = g.source.Probe(callCtx)
	})
	return c, true, nil
}

// wait returns nil when the call has ended in time.
func (c *call) wait(ctx context.Context) error {
	timer := time.NewTimer(time.Until(c.late))
	defer timer.Stop()
	select {
	case <-c.done:
		return nil
	case <-timer.C:
		return errSilent
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// close waits at most the deadline for a call under way, then closes the source, at most the deadline again. A source
// that hangs is left open, since closing it would hang as well; its goroutine ends when the kernel lets go.
func (g *guard) close() error {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return nil
	}
	g.closed = true
	c := g.current
	g.mu.Unlock()

	if c != nil {
		c.cancel()
		if !within(c.done, g.deadline) {
			return fmt.Errorf("close gpu source %s: a call hangs in the driver and is left behind; it holds no job", g.source.Name())
		}
	}
	var err error
	done := make(chan struct{})
	g.wg.Go(func() {
		defer close(done)
		err = g.source.Close()
	})
	if !within(done, g.deadline) {
		return fmt.Errorf("close gpu source %s: the driver does not answer and is left behind; it holds no job", g.source.Name())
	}
	g.wg.Wait()
	if err != nil {
		return fmt.Errorf("close gpu source %s: %w", g.source.Name(), err)
	}
	return nil
}

func within(done <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}
