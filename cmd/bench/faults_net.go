package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// netScenarios cut hosts off each other. This program reaches all of them throughout.
func netScenarios() []scenario {
	return []scenario{
		{id: "F19", does: "leader cut off from all others", figure: "cut to next acknowledged submit", on: kind{nodes: 3, net: true}, run: leaderAlone},
		{id: "F18", does: "5 nodes split 3/2, leader on either side", figure: "cut to next acknowledged submit", on: kind{nodes: 5, net: true}, run: splitFive},
		{id: "F21", does: "leader and one follower cut, both reach the third", figure: "slowest submit", on: kind{nodes: 3, net: true}, run: cutPair},
		{id: "F20", does: "leader hears nothing but is heard, and the reverse", figure: "slowest submit", on: kind{nodes: 3, net: true}, run: oneWay},
	}
}

// deafen makes a host lose, without a word, all that comes from others.
func (m *member) deafen(ctx context.Context, from ...*member) error {
	var addrs []string
	for _, o := range from {
		addrs = append(addrs, o.host.addr)
	}
	return m.nft(ctx, "add table inet fault; add chain inet fault in { type filter hook input priority 0; policy accept; }; "+
		"add rule inet fault in ip saddr { "+strings.Join(addrs, ", ")+" } drop")
}

// hear undoes deafen.
func (m *member) hear(ctx context.Context) error {
	return m.nft(ctx, "add table inet fault; delete table inet fault")
}

func (m *member) nft(ctx context.Context, rules string) error {
	out, err := exec.CommandContext(ctx, "ip", "netns", "exec", m.host.space, "nft", rules).CombinedOutput()
	if err != nil {
		return fmt.Errorf("nft on %s: %w: %s", m.name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// split cuts every host of one side off every host of the other.
func split(ctx context.Context, one, other []*member) error {
	var all []error
	for _, m := range one {
		all = append(all, m.deafen(ctx, other...))
	}
	for _, m := range other {
		all = append(all, m.deafen(ctx, one...))
	}
	return errors.Join(all...)
}

func (b *bed) heal(ctx context.Context) func() error { return func() error { return b.healAll(ctx) } }

func (b *bed) healAll(ctx context.Context) error {
	var all []error
	for _, m := range b.l.nodes {
		all = append(all, m.hear(ctx))
	}
	return errors.Join(all...)
}

// leaderAlone is F19.
func leaderAlone(ctx context.Context, b *bed, t times) (got outcome, err error) {
	err = b.minority(ctx, 0, true, t.partition, &got)
	return got, err
}

// splitFive is F18.
func splitFive(ctx context.Context, b *bed, t times) (got outcome, err error) {
	for _, withFew := range []bool{true, false} {
		if err := b.minority(ctx, 1, withFew, t.partition, &got); err != nil {
			return got, err
		}
		if err := b.steady(ctx); err != nil {
			return got, err
		}
	}
	return got, nil
}

// answerLimit is how long anybody may wait for an answer, also for a bad one.
const answerLimit = 10 * time.Second

// minority cuts a few nodes, the leader among them or not, off the rest. Nothing may be accepted there, refusals come in
// time, and the rest goes on.
func (b *bed) minority(ctx context.Context, followers int, withLeader bool, length time.Duration, got *outcome) error {
	if len(b.witnesses) == 0 {
		if err := b.aJobEverywhere(ctx); err != nil {
			return err
		}
	}
	leads, others, err := b.l.leader(ctx)
	if err != nil {
		return err
	}
	few, rest := append([]*member{leads}, others[:followers]...), others[followers:]
	if !withLeader {
		few, rest = others[:followers+1], append([]*member{leads}, others[followers+1:]...)
	}
	c, err := b.l.client(rest[0], rest[1:]...)
	if err != nil {
		return err
	}
	if err := split(ctx, few, rest); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, m := range few {
		g.Go(func() error { return b.refuses(gctx, m, length) })
	}
	g.Go(func() error {
		d, err := b.gap(gctx, c)
		got.add(d)
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if err := b.healAll(ctx); err != nil {
		return err
	}
	return b.within(got.worst, 3*time.Second, "the majority's gap")
}

// refuses submits to a node for a while; each must be refused, and in time.
func (b *bed) refuses(ctx context.Context, m *member, length time.Duration) error {
	c, err := b.l.once(m)
	if err != nil {
		return err
	}
	var worst time.Duration
	defer func() { b.line("  %s: the slowest refusal of %s took %s ms", b.id, m.name, number(ms(worst))) }()
	for end := time.Now().Add(length); time.Now().Before(end); {
		began := time.Now()
		if id, err := b.try(ctx, c); err == nil {
			return fmt.Errorf("%s accepted experiment %d while it was cut off", m.name, id)
		}
		worst = max(worst, time.Since(began))
		if err := atMost(time.Since(began), answerLimit+500*time.Millisecond, "the time to a refusal of "+m.name); err != nil {
			return err
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// cutPair is F21.
func cutPair(ctx context.Context, b *bed, t times) (got outcome, err error) {
	if err := b.aJobEverywhere(ctx); err != nil {
		return got, err
	}
	leads, others, err := b.l.leader(ctx)
	if err != nil {
		return got, err
	}
	cut := func() error { return split(ctx, []*member{leads}, others[:1]) }
	err = b.troubled(ctx, trouble{cut: cut, heal: b.heal(ctx), ask: others[1], length: t.partition, changes: 1, slowest: 5 * time.Second}, &got)
	return got, err
}

// oneWay is F20.
func oneWay(ctx context.Context, b *bed, t times) (got outcome, err error) {
	if err := b.aJobEverywhere(ctx); err != nil {
		return got, err
	}
	for _, deaf := range []bool{true, false} {
		leads, others, err := b.l.leader(ctx)
		if err != nil {
			return got, err
		}
		cut := func() error {
			if deaf {
				return leads.deafen(ctx, others...)
			}
			return errors.Join(others[0].deafen(ctx, leads), others[1].deafen(ctx, leads))
		}
		if err := b.troubled(ctx, trouble{cut: cut, heal: b.heal(ctx), ask: others[0], length: t.partition, changes: 2, slowest: 5 * time.Second}, &got); err != nil {
			return got, err
		}
		if err := b.steady(ctx); err != nil {
			return got, err
		}
	}
	return got, nil
}

// trouble is a network that works in part.
type trouble struct {
	cut     func() error
	ask     *member // whom clients ask first
	length  time.Duration
	changes int // of the leader, at most
	heal    func() error
	slowest time.Duration // a submission may be
}

// troubled makes trouble, submits all the while, counts the leaders, and heals.
func (b *bed) troubled(ctx context.Context, t trouble, got *outcome) error {
	c, err := b.everyone(t.ask)
	if err != nil {
		return err
	}
	if err := t.cut(); err != nil {
		return err
	}
	during, stop := context.WithTimeout(ctx, t.length)
	defer stop()
	var mu sync.Mutex
	leaders := map[uint64]string{} // by term
	g, gctx := errgroup.WithContext(ctx)
	for _, m := range b.l.nodes {
		g.Go(func() error {
			for during.Err() == nil {
				if s, err := b.l.see(during, m); err == nil && s.Leader != nil {
					mu.Lock()
					leaders[s.Term] = s.Leader.Name
					mu.Unlock()
				}
				_ = pause(during, 50*time.Millisecond) // its end ends the loop
			}
			return nil
		})
	}
	var worst time.Duration
	g.Go(func() error {
		for during.Err() == nil {
			d, err := b.gap(gctx, c)
			if err != nil {
				return err
			}
			worst = max(worst, d)
			_ = pause(during, 50*time.Millisecond) // its end ends the loop
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return err
	}
	got.add(worst)
	if err := t.heal(); err != nil {
		return err
	}
	if len(leaders) > t.changes+1 {
		return fmt.Errorf("there were %d leaders by term in %v: %v, at most %d changes are promised", len(leaders), t.length, leaders, t.changes)
	}
	return b.within(worst, t.slowest, "the slowest submission")
}
