package node

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"
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
	err := runStages(upper, stages[1:]...)
	stop()
	return errors.Join(err, g.Wait())
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
