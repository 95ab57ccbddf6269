package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// leaseScenarios let leases end. A lease is 6 s, and 12.12 s of silence are needed before an attempt may go on elsewhere.
func leaseScenarios() []scenario {
	// Of 7 nodes 5 vote: 4 can be cut off at once, 2 of them voters. Of 4 nodes 3 vote, and one only works.
	seven := kind{nodes: 7, net: true, short: true}
	four, other := kind{series: "one", nodes: 4, net: true, short: true}, kind{series: "two", nodes: 4, net: true, short: true}
	return []scenario{
		{id: "F35", does: "workers cut off, healed at random after the requeue", figure: "cut to last sign of life", on: seven, run: cutWorkers},
		{id: "F36", does: "workers cut off, healed around the end of the lease and of the wait", figure: "heal to thawed or killed", on: seven, run: healAround},
		{id: "F37", does: "worker cut off the leader only", figure: "longest silence of its job", on: four, run: relayed},
		{id: "F38", does: "leader killed every 2 s while a worker is silent", figure: "last kill to the new attempt", on: four, run: changingLeaders},
		{id: "F39", does: "quorum lost for three leases", figure: "quorum to thawed", on: other, run: quorumLost},
		{id: "F40", does: "leader paused with renewals in its sockets, continued after the requeue", figure: "continued to old attempt killed", on: other, run: staleLeader},
		{id: "F40b", does: "a replaced attempt's node reports with its own key", figure: "slowest refusal", on: other, run: zombie},
	}
}

// isolate cuts a host off others, in both directions. What is under way is lost without a word.
func (m *member) isolate(ctx context.Context, from ...*member) error {
	var addrs []string
	for _, o := range from {
		addrs = append(addrs, o.host.addr)
	}
	set := "{ " + strings.Join(addrs, ", ") + " }"
	return m.nft(ctx, "add table inet fault; add chain inet fault in { type filter hook input priority 0; policy accept; }; "+
		"add chain inet fault out { type filter hook output priority 0; policy accept; }; "+
		"add rule inet fault in ip saddr "+set+" drop; add rule inet fault out ip daddr "+set+" drop")
}

// except gives the nodes without some.
func (l *lab) except(some ...*member) []*member {
	return slices.DeleteFunc(slices.Clone(l.nodes), func(m *member) bool { return slices.Contains(some, m) })
}

// jobsOn starts witnesses on one node that may go on anywhere: the others take no new work meanwhile.
func (b *bed) jobsOn(ctx context.Context, m *member, n int) (ids []uint64, err error) {
	c, err := b.everyone(m)
	if err != nil {
		return nil, err
	}
	for _, o := range b.l.except(m) {
		if err := c.Drain(ctx, o.name); err != nil {
			return nil, fmt.Errorf("place jobs on %s: %w", m.name, err)
		}
	}
	for i := range n {
		id, err := b.job(ctx, "cpu", 1200, i)
		if err == nil {
			err = b.seen(ctx, id)
		}
		if err != nil {
			return nil, fmt.Errorf("place jobs on %s: %w", m.name, err)
		}
		ids = append(ids, id)
	}
	for _, o := range b.l.except(m) {
		if err := c.Resume(ctx, o.name); err != nil {
			return nil, fmt.Errorf("place jobs on %s: %w", m.name, err)
		}
	}
	return ids, nil
}

// workers gives n nodes that do not lead, those without a vote first.
func (b *bed) workers(ctx context.Context, n int) ([]*member, error) {
	leads, others, err := b.l.leader(ctx)
	if err != nil {
		return nil, err
	}
	s, err := b.l.see(ctx, leads)
	if err != nil {
		return nil, fmt.Errorf("ask who votes: %w", err)
	}
	votes := map[string]bool{}
	for _, x := range s.Nodes {
		votes[x.Name] = x.Role != "learner"
	}
	slices.SortStableFunc(others, func(x, y *member) int {
		switch {
		case votes[x.name] == votes[y.name]:
			return 0
		case votes[y.name]:
			return -1
		}
		return 1
	})
	return others[:n], nil
}

// cutWorkers is F35.
func cutWorkers(ctx context.Context, b *bed, t times) (got outcome, err error) {
	b.requeues = true
	for i := 0; b.more(i, t.cuts); i++ {
		ws, err := b.workers(ctx, 4)
		if err != nil {
			return got, err
		}
		var away []*absence
		for _, w := range ws {
			a, err := b.newAbsence(ctx, w, 2)
			if err != nil {
				return got, err
			}
			away = append(away, a)
		}
		g, gctx := errgroup.WithContext(ctx)
		worst := make([]time.Duration, len(away))
		for k, a := range away {
			before, after := time.Duration(b.rnd.IntN(3000))*time.Millisecond, time.Duration(b.rnd.IntN(3000))*time.Millisecond
			g.Go(func() (err error) {
				worst[k], err = b.cutUntilRequeued(gctx, a, before, after)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return got, err
		}
		if err := b.l.waitWhole(ctx); err != nil {
			return got, err
		}
		if err := b.endJobs(ctx); err != nil {
			return got, err
		}
		for _, d := range worst {
			got.add(d)
		}
	}
	return got, nil
}

// cutUntilRequeued cuts a worker off after a while, and heals it a while after all its jobs have gone on elsewhere.
func (b *bed) cutUntilRequeued(ctx context.Context, a *absence, before, after time.Duration) (worst time.Duration, err error) {
	if err := pause(ctx, before); err != nil {
		return 0, err
	}
	if err := b.leave(ctx, a); err != nil {
		return 0, err
	}
	for _, id := range a.jobs {
		if err := b.requeued(ctx, a, id); err != nil {
			return 0, err
		}
	}
	if err := pause(ctx, after); err != nil {
		return 0, err
	}
	h, err := b.testimony.read()
	if err != nil {
		return 0, err
	}
	for _, id := range a.jobs {
		sign := a.lastSign(h, id)
		if worst = max(worst, sign); sign > b.frozenLimit() {
			return worst, fmt.Errorf("attempt %d of experiment %d executed %v after its worker was cut off, its lease is %v", a.attempts[id], id, sign, shortLease)
		}
		if syscall.Kill(a.pids[id], 0) != nil {
			return worst, fmt.Errorf("the process of experiment %d is gone, it was to be frozen", id)
		}
	}
	if err := b.comeBack(ctx, a); err != nil {
		return worst, err
	}
	for _, id := range a.jobs {
		if _, err := b.killed(ctx, a, id, a.healed); err != nil {
			return worst, err
		}
	}
	return worst, nil
}

// healAround is F36: the time of the heal is swept from 2 s before the end of the lease to 2 s after the wait.
func healAround(ctx context.Context, b *bed, t times) (got outcome, err error) {
	b.requeues = true
	const step = 50 * time.Millisecond
	steps := int((leaseWait + 4*time.Second - shortLease) / step)
	order := b.rnd.Perm(steps)
	for i := 0; b.more(i, t.heals); i++ {
		ws, err := b.workers(ctx, 4)
		if err != nil {
			return got, err
		}
		var away []*absence
		for _, w := range ws {
			a, err := b.newAbsence(ctx, w, 1)
			if err != nil {
				return got, err
			}
			away = append(away, a)
		}
		g, gctx := errgroup.WithContext(ctx)
		took := make([]time.Duration, len(away))
		for k, a := range away {
			// A quarter of the sweep for each worker, so that even one round has early and late ones.
			quarter := steps / len(away)
			length := shortLease - 2*time.Second + time.Duration(k*quarter+order[i%len(order)]%quarter)*step
			g.Go(func() (err error) {
				took[k], err = b.cutFor(gctx, a, length)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return got, err
		}
		if err := b.l.waitWhole(ctx); err != nil {
			return got, err
		}
		if err := b.endJobs(ctx); err != nil {
			return got, err
		}
		for _, d := range took {
			got.add(d)
		}
	}
	return got, nil
}

// cutFor cuts a worker off for a time. Afterwards its jobs go on in the same process, or that is killed and they go on
// elsewhere.
func (b *bed) cutFor(ctx context.Context, a *absence, length time.Duration) (worst time.Duration, err error) {
	if err := b.leave(ctx, a); err != nil {
		return 0, err
	}
	if err := pause(ctx, length); err != nil {
		return 0, err
	}
	if err := b.comeBack(ctx, a); err != nil {
		return 0, err
	}
	for _, id := range a.jobs {
		d, err := b.decided(ctx, a, id)
		if err != nil {
			return worst, fmt.Errorf("healed after %v: %w", length, err)
		}
		worst = max(worst, d)
	}
	return worst, nil
}

// decided waits until a healed worker's job goes on here or elsewhere, and gives how long the worker took to thaw or kill it.
func (b *bed) decided(ctx context.Context, a *absence, id uint64) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, leaseWait+20*time.Second*b.slack, errors.New("that is too long"))
	defer cancel()
	err = until(ctx, fmt.Sprintf("experiment %d to go on", id), func() (bool, error) {
		h, err := b.testimony.read()
		if err != nil {
			return false, err
		}
		last := h.newest(id)
		switch {
		case last.attempt > a.attempts[id]:
			took, err = b.killed(ctx, a, id, a.healed)
			return true, err
		case time.Duration(last.at) > a.healed+time.Second && last.pid != a.pids[id]:
			return false, fmt.Errorf("experiment %d went on as process %d, it was %d", id, last.pid, a.pids[id])
		case time.Duration(last.at) > a.healed+time.Second:
			first := h.of(id, last.attempt).since(int64(a.healed))[0]
			took = time.Duration(first.at) - a.healed
			return true, nil
		}
		return false, pause(ctx, 50*time.Millisecond)
	})
	return took, err
}

// relayed is F37: renewals go through the other members.
func relayed(ctx context.Context, b *bed, _ times) (got outcome, err error) {
	ws, err := b.workers(ctx, 1)
	if err != nil {
		return got, err
	}
	a, err := b.newAbsence(ctx, ws[0], 2)
	if err != nil {
		return got, err
	}
	leads, _, err := b.l.leader(ctx)
	if err != nil {
		return got, err
	}
	if err := a.m.isolate(ctx, leads); err != nil {
		return got, err
	}
	if err := pause(ctx, 5*shortLease/2); err != nil {
		return got, err
	}
	h, err := b.testimony.read()
	if err != nil {
		return got, err
	}
	for _, id := range a.jobs {
		gap := h.of(id, a.attempts[id]).longestGap()
		got.add(gap)
		if gap > 2*time.Second {
			return got, fmt.Errorf("experiment %d stood still for %v although other members were reached", id, gap)
		}
	}
	return got, a.m.hear(ctx)
}

// changingLeaders is F38: no leader of the first 16 s leads long enough to give an attempt up.
func changingLeaders(ctx context.Context, b *bed, _ times) (got outcome, err error) {
	b.requeues = true
	ws, err := b.workers(ctx, 1)
	if err != nil {
		return got, err
	}
	a, err := b.newAbsence(ctx, ws[0], 2)
	if err != nil {
		return got, err
	}
	if err := b.leave(ctx, a); err != nil {
		return got, err
	}
	var last time.Duration
	for changes := 0; last < a.cut+leaseWait+4*time.Second || changes < 4; changes++ {
		leads, _, err := b.leaderAmong(ctx, b.l.except(a.m))
		if err != nil {
			return got, err
		}
		if last, err = sinceBoot(); err != nil {
			return got, err
		}
		if err := leads.kill(); err != nil {
			return got, err
		}
		if err := b.restart(leads); err != nil {
			return got, err
		}
		if err := pause(ctx, 2*time.Second); err != nil {
			return got, err
		}
	}
	for _, id := range a.jobs {
		late := *a
		late.cut = last + shortLease/5 // no leader that came after the last kill may count from before it
		if err := b.requeued(ctx, &late, id); err != nil {
			return got, err
		}
		h, err := b.testimony.read()
		if err != nil {
			return got, err
		}
		for _, s := range h {
			if s.experiment == id && s.attempt > a.attempts[id] {
				got.add(time.Duration(s.at) - last)
				break
			}
		}
	}
	if err := b.comeBack(ctx, a); err != nil {
		return got, err
	}
	for _, id := range a.jobs {
		if _, err := b.killed(ctx, a, id, a.healed); err != nil {
			return got, err
		}
	}
	return got, nil
}

// leaderAmong waits for a leader among some nodes.
func (b *bed) leaderAmong(ctx context.Context, some []*member) (leads *member, others []*member, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, leaderLimit, errors.New("nobody does"))
	defer cancel()
	err = until(ctx, "somebody to lead", func() (bool, error) {
		leads, others = b.l.led(ctx, some)
		return leads != nil, nil
	})
	return leads, others, err
}

// quorumLost is F39. Everything runs on in the same processes afterwards, which the checks see.
func quorumLost(ctx context.Context, b *bed, _ times) (got outcome, err error) {
	if err := b.aJobEverywhere(ctx); err != nil {
		return got, err
	}
	ws, err := b.workers(ctx, 3) // the one that does not vote, and two that do
	if err != nil {
		return got, err
	}
	gone := ws[1:]
	for _, m := range gone {
		if err := m.kill(); err != nil {
			return got, err
		}
	}
	lost, err := sinceBoot()
	if err != nil {
		return got, err
	}
	if err := pause(ctx, 3*shortLease); err != nil {
		return got, err
	}
	h, err := b.testimony.read()
	if err != nil {
		return got, err
	}
	for _, id := range b.witnesses {
		if sign := time.Duration(h.newest(id).at) - lost; sign > b.frozenLimit() {
			return got, fmt.Errorf("experiment %d executed %v after the quorum was lost, its lease is %v", id, sign, shortLease)
		}
	}
	for _, m := range gone {
		if err := b.restart(m); err != nil {
			return got, err
		}
	}
	if _, _, err := b.l.leader(ctx); err != nil {
		return got, err
	}
	led, err := sinceBoot()
	if err != nil {
		return got, err
	}
	for _, id := range b.witnesses {
		d, err := b.thawed(ctx, id, led)
		if err != nil {
			return got, err
		}
		got.add(d)
	}
	// The new leader's wait passes: nothing is given up late either.
	return got, pause(ctx, leaseWait+2*time.Second)
}

// thawed waits until a job testifies after a moment and gives how long that took.
func (b *bed) thawed(ctx context.Context, id uint64, from time.Duration) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second*b.slack, errors.New("10 s are promised"))
	defer cancel()
	err = until(ctx, fmt.Sprintf("experiment %d to be thawed", id), func() (bool, error) {
		h, err := b.testimony.read()
		last := h.newest(id)
		took = time.Duration(last.at) - from
		return took > 0, errors.Join(err, pause(ctx, 20*time.Millisecond))
	})
	return took, err
}

// staleLeader is F40: the worker reaches only the leader that is paused, so its renewals wait there when that goes on.
func staleLeader(ctx context.Context, b *bed, _ times) (got outcome, err error) {
	b.requeues = true
	ws, err := b.workers(ctx, 1)
	if err != nil {
		return got, err
	}
	a, err := b.newAbsence(ctx, ws[0], 2)
	if err != nil {
		return got, err
	}
	leads, _, err := b.l.leader(ctx)
	if err != nil {
		return got, err
	}
	if err := a.m.isolate(ctx, b.l.except(a.m, leads)...); err != nil {
		return got, err
	}
	if a.cut, err = sinceBoot(); err != nil {
		return got, err
	}
	if err := leads.started.Load().Signal(syscall.SIGSTOP); err != nil {
		return got, fmt.Errorf("pause %s: %w", leads.name, err)
	}
	goOn := func() error { return leads.started.Load().Signal(syscall.SIGCONT) }
	defer func() { err = errors.Join(err, goOn()) }()
	for _, id := range a.jobs {
		if err := b.requeued(ctx, a, id); err != nil {
			return got, err
		}
	}
	on, err := sinceBoot()
	if err != nil {
		return got, err
	}
	if err := goOn(); err != nil {
		return got, fmt.Errorf("let %s go on: %w", leads.name, err)
	}
	if err := pause(ctx, 3*time.Second); err != nil {
		return got, err
	}
	h, err := b.testimony.read()
	if err != nil {
		return got, err
	}
	for _, id := range a.jobs {
		if late := h.of(id, a.attempts[id]).since(int64(on)); len(late) > 0 {
			return got, fmt.Errorf("attempt %d of experiment %d executed after the paused leader went on", a.attempts[id], id)
		}
	}
	if err := b.comeBack(ctx, a); err != nil {
		return got, err
	}
	for _, id := range a.jobs {
		d, err := b.killed(ctx, a, id, on)
		if err != nil {
			return got, err
		}
		got.add(d)
	}
	return got, nil
}
