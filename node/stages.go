package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/deveronica/cvlab/cluster"
)

// loop is one long-lived part of the node. Its Run blocks until its context ends.
type loop struct {
	name string
	run  func(ctx context.Context) error
}

// runStages runs all loops until ctx ends or one of them fails. A later stage stands on the earlier ones: it is ended
// first and has returned before the next lower one is told to end, so that leadership can be handed over while the mesh
// still carries it.
func runStages(ctx context.Context, stages ...[]loop) error {
	if len(stages) == 0 {
		<-ctx.Done()
		return nil
	}
	base, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, failing := errgroup.WithContext(base)
	for _, l := range stages[0] {
		g.Go(func() error { return l.until(failing) })
	}
	upper, cancel := context.WithCancel(ctx)
	defer cancel()
	unlink := context.AfterFunc(failing, cancel)
	defer unlink()
	err := unlessHung(failing, func() error { return runStages(upper, stages[1:]...) })
	stop()
	if errors.Is(err, cluster.ErrDisk) {
		return errors.Join(err, bounded(hungLimit, g.Wait))
	}
	return errors.Join(err, unlessHung(failing, g.Wait))
}

// hungLimit is how long the parts of a node whose disk failed may take to end: one may be writing, for ever.
const hungLimit = time.Second

// unlessHung waits for f; not for long once a part has failed because of the disk.
func unlessHung(failing context.Context, f func() error) error {
	ended := make(chan error, 1)
	var left sync.WaitGroup
	left.Go(func() { ended <- f() })
	select {
	case err := <-ended:
		return err
	case <-failing.Done():
	}
	cause := context.Cause(failing)
	if !errors.Is(cause, cluster.ErrDisk) {
		return <-ended
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(hungLimit):
		return cause
	}
}

var errLeftBehind = errors.New("it did not end and is left behind")

// bounded runs f and waits for it, but not beyond a limit. What has not ended by then is left to the end of the process.
func bounded(limit time.Duration, f func() error) error {
	ended := make(chan error, 1)
	var left sync.WaitGroup
	left.Go(func() { ended <- f() })
	select {
	case err := <-ended:
		return err
	case <-time.After(limit):
		return errLeftBehind
	}
}

// until runs the loop; its end before ctx's end is an error, whatever it says.
func (l loop) until(ctx context.Context) error {
	err := l.run(ctx)
	switch {
	case ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)):
		return nil
	case err == nil:
		return fmt.Errorf("%s: ended by itself", l.name)
	}
	return fmt.Errorf("%s: %w", l.name, err)
}

// closers are what New has opened, each with a name, to be closed in reverse.
type closers struct {
	list []closer
}

type closer struct {
	name  string
	close func() error
}

func (c *closers) add(name string, close func() error) { c.list = append(c.list, closer{name, close}) }

// closeAll closes in reverse and joins the errors; a second call does nothing.
func (c *closers) closeAll() error {
	var errs []error
	for i := len(c.list) - 1; i >= 0; i-- {
		if err := c.list[i].close(); err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", c.list[i].name, err))
		}
	}
	c.list = nil
	return errors.Join(errs...)
}

// closeHung closes what can be closed without waiting for a disk that does not answer.
func (c *closers) closeHung() error {
	for i := range c.list {
		close := c.list[i].close
		c.list[i].close = func() error { return bounded(hungLimit/2, close) }
	}
	return c.closeAll()
}
