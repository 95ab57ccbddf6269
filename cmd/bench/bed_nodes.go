package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// holdings are what the daemons of a cluster hold together. Who leads holds more than the others, so only the sum stays.
type holdings struct {
	goroutines, files int
	each              []string // by node, for people
}

// String says it for people.
func (h holdings) String() string {
	return fmt.Sprintf("%d and %d (%s)", h.goroutines, h.files, strings.Join(h.each, ", "))
}

// holdings asks all nodes.
func (b *bed) holdings(ctx context.Context) (holdings, error) {
	b.l.asker().CloseIdleConnections()
	var sum holdings
	for _, m := range b.l.nodes {
		c, err := b.l.once(m)
		if err != nil {
			return sum, err
		}
		r, err := c.Replica(ctx)
		if err != nil {
			return sum, fmt.Errorf("ask %s what it holds: %w", m.name, err)
		}
		files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", m.started.Load().Pid))
		if err != nil {
			return sum, fmt.Errorf("count the files of %s: %w", m.name, err)
		}
		sum.each = append(sum.each, fmt.Sprintf("%s %d %d", m.name, r.Goroutines, len(files)))
		sum.goroutines += r.Goroutines
		sum.files += len(files)
	}
	return sum, nil
}

// begin waits until the cluster is whole and takes note of what it holds.
func (b *bed) begin(ctx context.Context) (err error) {
	if err := b.l.waitWhole(ctx); err != nil {
		return err
	}
	if err := b.warmUp(ctx); err != nil {
		return err
	}
	b.before, err = b.holdings(ctx)
	return err
}

// warmUp asks every node many things at once that it must ask the leader for: the connections that nodes keep between
// themselves are there before they are counted.
func (b *bed) warmUp(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, m := range b.l.nodes {
		for range 24 {
			g.Go(func() error {
				_, _, err := b.get(ctx, m, "/api/cluster?consistent=1")
				return err
			})
		}
	}
	return g.Wait()
}

// noLeak is the second part of G8: within 30 s the nodes hold no more than before, but for 5 % or 5 each (times slack: pools between nodes fill and drain).
func (b *bed) noLeak(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, healLimit, errors.New("30 s have passed"))
	defer cancel()
	var now holdings
	few := 5 * int(b.slack) * len(b.l.nodes)
	err := until(ctx, "the nodes to hold no more than before", func() (_ bool, err error) {
		now, err = b.holdings(ctx)
		if err != nil || notMore(b.before.goroutines, now.goroutines, few) && notMore(b.before.files, now.files, few) {
			return err == nil, err
		}
		return false, pause(ctx, 500*time.Millisecond)
	})
	if err != nil {
		return fmt.Errorf("G8: goroutines and open files of all nodes were %v, they are %v: %w", b.before, now, err)
	}
	return nil
}

func notMore(before, after, few int) bool { return after <= before+max(before/20, few) }

// sameFacts is G6: at an equal index all copies of the facts have one digest.
func (b *bed) sameFacts(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, healLimit, errors.New("30 s have passed"))
	defer cancel()
	var wrong error
	err := until(ctx, "all nodes to be at one index", func() (bool, error) {
		first, same, err := b.compare(ctx)
		if err != nil {
			return false, pause(ctx, 100*time.Millisecond)
		}
		if same == nil {
			return true, nil
		}
		// An entry may have come between index and digest, so only a difference that stays is one.
		again, still, err := b.compare(ctx)
		if err == nil && still != nil && again == first {
			wrong = still
			return true, nil
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("G6: %w", err)
	}
	return wrong
}

var errNotTogether = errors.New("the nodes are at different indexes")

// compare gives the index that all nodes are at, and what is wrong there.
func (b *bed) compare(ctx context.Context) (index uint64, wrong, err error) {
	digest := ""
	for i, m := range b.l.nodes {
		c, err := b.l.once(m)
		if err != nil {
			return 0, nil, err
		}
		r, err := c.Replica(ctx)
		if err != nil {
			return 0, nil, err
		}
		switch {
		case i == 0:
			index, digest = r.Index, r.Digest
		case r.Index != index:
			return 0, nil, errNotTogether
		case r.Digest != digest:
			wrong = fmt.Errorf("G6: at index %d the facts of %s have another digest than those of %s", index, m.name, b.l.nodes[0].name)
		}
	}
	return index, wrong, nil
}

// noBrokenRule is G7 as far as it is seen from outside: no node has said that a rule of the facts was broken, or crashed.
// The rules themselves are tested with the facts.
func (b *bed) noBrokenRule() error {
	var all []error
	for _, m := range b.l.nodes {
		text, err := os.ReadFile(m.log())
		if err != nil {
			return fmt.Errorf("G7: %w", err)
		}
		lines := bufio.NewScanner(bytes.NewReader(text))
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			if line := lines.Text(); brokenRule(line) {
				all = append(all, fmt.Errorf("G7: %s said: %s", m.name, line))
			}
		}
		all = append(all, lines.Err())
	}
	return errors.Join(all...)
}

func brokenRule(line string) bool {
	return strings.Contains(strings.ToLower(line), "invariant") || strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:")
}
