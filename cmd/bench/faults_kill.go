package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// killScenarios end processes; what the dead ran goes on.
func killScenarios() []scenario {
	return []scenario{
		{id: "F01", does: "leader killed", figure: "to next acknowledged submit", on: kind{nodes: 3}, run: killLeader},
		{id: "F05", does: "worker killed, back at once and later, a job ends meanwhile", figure: "return to exit recorded", on: kind{nodes: 3}, run: killWorker},
		{id: "F15", does: "all killed at once, restarted in random order", figure: "majority up to next acknowledged submit", on: kind{nodes: 3}, run: killAll},
	}
}

// killLeader is F01.
func killLeader(ctx context.Context, b *bed, t times) (got outcome, err error) {
	if err := b.aJobEverywhere(ctx); err != nil {
		return got, err
	}
	err = b.writing(ctx, func(ctx context.Context) error {
		for i := 0; b.more(i, t.leaderKills); i++ {
			if err := b.killLeaderOnce(ctx, &got); err != nil {
				return fmt.Errorf("kill %d: %w", i+1, err)
			}
		}
		return nil
	})
	if err != nil {
		return got, err
	}
	return got, b.within(got.worst, 5*time.Second, "the gap to the next acknowledged submission")
}

// killLeaderOnce kills the leader, waits for the next acknowledgement and for the next job to start, and mends the cluster.
func (b *bed) killLeaderOnce(ctx context.Context, got *outcome) error {
	leads, others, err := b.l.leader(ctx)
	if err != nil {
		return err
	}
	c, err := b.everyone(others[0])
	if err != nil {
		return err
	}
	if err := leads.kill(); err != nil {
		return err
	}
	began := time.Now()
	d, err := b.gap(ctx, c)
	if err != nil {
		return err
	}
	got.add(d)
	id, err := b.jobBy(ctx, c, "cpu", 0, 0)
	if err != nil {
		return err
	}
	if err := b.seen(ctx, id); err != nil {
		return err
	}
	if err := b.within(time.Since(began), 4*time.Second, "the time to the next job's start"); err != nil {
		return err
	}
	if err := b.restart(leads); err != nil {
		return err
	}
	return b.l.waitWholeBusy(ctx)
}

// atMost judges a figure.
func atMost(d, limit time.Duration, what string) error {
	if d > limit {
		return fmt.Errorf("%s was %v, at most %v is promised", what, d.Round(time.Millisecond), limit)
	}
	return nil
}

// killWorker is F05.
func killWorker(ctx context.Context, b *bed, t times) (got outcome, err error) {
	if err := b.aJobEverywhere(ctx); err != nil {
		return got, err
	}
	_, others, err := b.l.leader(ctx)
	if err != nil {
		return got, err
	}
	worker := others[0]
	for i, away := range t.aways {
		id, err := b.job(ctx, worker.name, 1, 7+i)
		if err != nil {
			return got, err
		}
		if err := b.seen(ctx, id); err != nil {
			return got, err
		}
		if err := worker.kill(); err != nil {
			return got, err
		}
		if err := pause(ctx, away); err != nil {
			return got, err
		}
		began := time.Now()
		if err := b.restart(worker); err != nil {
			return got, err
		}
		if err := b.waitEnded(ctx, id); err != nil {
			return got, err
		}
		got.add(time.Since(began))
		if err := b.l.waitWhole(ctx); err != nil {
			return got, err
		}
	}
	return got, nil
}

// killAll is F15. Clients are submitting when it happens.
func killAll(ctx context.Context, b *bed, t times) (got outcome, err error) {
	if err := b.aJobEverywhere(ctx); err != nil {
		return got, err
	}
	for i := 0; b.more(i, t.allKills); i++ {
		var up time.Time // when a majority had been started
		err := b.writing(ctx, func(ctx context.Context) error {
			if err := pause(ctx, 300*time.Millisecond); err != nil {
				return err
			}
			var all []error
			for _, m := range b.l.nodes {
				all = append(all, m.started.Load().Kill())
			}
			if err := errors.Join(all...); err != nil {
				return fmt.Errorf("kill all nodes: %w", err)
			}
			for _, m := range b.l.nodes {
				<-m.started.Load().done
			}
			for i, k := range b.rnd.Perm(len(b.l.nodes)) {
				if err := b.restart(b.l.nodes[k]); err != nil {
					return err
				}
				if i == len(b.l.nodes)/2 {
					up = time.Now()
				}
				if err := pause(ctx, time.Duration(b.rnd.IntN(300))*time.Millisecond); err != nil {
					return err
				}
			}
			c, err := b.everyone(b.l.nodes[0])
			if err != nil {
				return err
			}
			if _, err := b.submit(ctx, c, held()); err != nil {
				return err
			}
			got.add(time.Since(up))
			return nil
		})
		if err != nil {
			return got, err
		}
		if err := b.l.waitWhole(ctx); err != nil {
			return got, err
		}
	}
	return got, b.within(got.worst, 5*time.Second, "the time from a majority's start to an acknowledged submission")
}
