package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/deveronica/cvlab/ui/api"
)

// steady is G8: within 30 s all nodes are whole and ready, and then leader and term stay for 3 s.
func (b *bed) steady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, healLimit+steadyFor, errors.New("30 s have passed"))
	defer cancel()
	var term uint64
	since := time.Now()
	err := until(ctx, "one leader, all ready, and a steady term", func() (bool, error) {
		s, err := b.l.see(ctx, b.l.nodes[0])
		well := err == nil && b.l.whole(ctx)
		for _, m := range b.l.nodes {
			if m.ended() {
				return false, fmt.Errorf("%s has ended by itself", m.name)
			}
			well = well && b.ready(ctx, m)
		}
		if !well || s.Term != term {
			term, since = s.Term, time.Now()
			return false, nil
		}
		return time.Since(since) >= steadyFor, pause(ctx, 100*time.Millisecond)
	})
	if err != nil {
		return fmt.Errorf("G8: %w", err)
	}
	return nil
}

// check ends the witnesses and makes all checks.
func (b *bed) check(ctx context.Context) error {
	if err := b.steady(ctx); err != nil {
		return err
	}
	if err := b.endJobs(ctx); err != nil {
		return err
	}
	if err := b.l.waitWhole(ctx); err != nil {
		return err
	}
	h, err := b.testimony.read()
	if err != nil {
		return err
	}
	all := []error{h.checkAttempts(), b.checkOps(), b.sameFacts(ctx), b.noBrokenRule(), b.noLeak(ctx)}
	for _, m := range b.l.nodes {
		listed, err := b.list(ctx, m)
		all = append(all, err, checkKeys(m.name, b.acknowledged, listed))
	}
	for _, id := range b.witnesses {
		all = append(all, b.checkJob(ctx, h, id))
	}
	return errors.Join(all...)
}

// endJobs lets all witnesses end by themselves, and waits until that is recorded.
func (b *bed) endJobs(ctx context.Context) error {
	if err := os.WriteFile(b.file+".stop", nil, 0o600); err != nil {
		return fmt.Errorf("end the jobs: %w", err)
	}
	if err := b.waitEnded(ctx, b.witnesses...); err != nil {
		return err
	}
	if err := os.Remove(b.file + ".stop"); err != nil {
		return fmt.Errorf("end the jobs: %w", err)
	}
	return nil
}

// waitEnded waits until experiments have ended, as some node says.
func (b *bed) waitEnded(ctx context.Context, ids ...uint64) error {
	ctx, cancel := context.WithTimeout(ctx, jobsLimit)
	defer cancel()
	c, err := b.everyone(b.l.nodes[0])
	if err != nil {
		return err
	}
	for _, id := range ids {
		err := until(ctx, fmt.Sprintf("experiment %d to be recorded as ended", id), func() (bool, error) {
			d, err := c.Get(ctx, id)
			return err == nil && d.Status.Ended(), nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// checkJob checks one witness: the attempt recorded last ran last, and is the only one that ran unless faults may cost some;
// G3 and G4. A node that did not run it is asked for the output.
func (b *bed) checkJob(ctx context.Context, h history, id uint64) error {
	d, err := b.detail(ctx, b.l.nodes[0], id)
	if err != nil {
		return err
	}
	ran := h.attempts(id)
	if b.requeues && len(ran) > 0 {
		ran = ran[len(ran)-1:]
	}
	if !slices.Equal(ran, []int{d.Attempt}) {
		return fmt.Errorf("experiment %d: attempts %v were seen to run, no fault here may cost one that runs; recorded is:%s", id, h.attempts(id), story(d))
	}
	if d.Attempt != 1 && !b.requeues {
		b.line("  experiment %d ran once, but as attempt %d:%s", id, d.Attempt, story(d))
	}
	for _, m := range b.l.nodes {
		if m.name == d.Node && len(b.l.nodes) > 1 {
			continue
		}
		c, err := b.l.once(m)
		if err != nil {
			return err
		}
		output, err := b.output(ctx, c, id)
		return errors.Join(err, h.checkExit(id, d.Attempt, d.ExitCode), h.checkOutput(id, d.Attempt, output))
	}
	return nil
}

// detail gives one experiment as a node knows it.
func (b *bed) detail(ctx context.Context, m *member, id uint64) (api.Detail, error) {
	c, err := b.l.once(m)
	if err != nil {
		return api.Detail{}, err
	}
	d, err := c.Get(ctx, id)
	if err != nil {
		return d, fmt.Errorf("look at experiment %d on %s: %w", id, m.name, err)
	}
	return d, nil
}

// story tells what is recorded of an experiment's attempts.
func story(d api.Detail) string {
	var text strings.Builder
	for _, a := range d.Attempts {
		fmt.Fprintf(&text, " attempt %d on %s, token %s, %s: %s;", a.Number, a.Node, a.Token, a.Class, a.Sentence)
	}
	return text.String()
}

func (b *bed) output(ctx context.Context, c *api.Client, id uint64) (string, error) {
	r, err := c.Logs(ctx, id, api.LogOptions{})
	if err != nil {
		return "", fmt.Errorf("read the output of experiment %d: %w", id, err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		return "", fmt.Errorf("read the output of experiment %d: %w", id, err)
	}
	return string(text), nil
}

// list gives all experiments as one node knows them.
func (b *bed) list(ctx context.Context, m *member) ([]named, error) {
	c, err := b.l.once(m)
	if err != nil {
		return nil, err
	}
	var all []named
	q := api.QueueQuery{Sort: "id", Limit: 1000}
	for {
		page, err := c.Queue(ctx, q)
		if err != nil {
			return nil, fmt.Errorf("list the experiments on %s: %w", m.name, err)
		}
		for _, e := range page.Experiments {
			all = append(all, named{id: e.ID, name: e.Name})
		}
		if page.Next == "" {
			return all, nil
		}
		q.Cursor = page.Next
	}
}
