package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/ui/api"
)

// storeScenarios pause or hit nodes while they write, or take away what they have written.
func storeScenarios() []scenario {
	three := kind{nodes: 3}
	writes, sweeps := kind{series: "writes", nodes: 3}, kind{series: "sweeps", nodes: 3}
	return []scenario{
		{id: "F03", does: "leader paused, then continued", figure: "to next acknowledged submit", on: three, run: pauseLeader},
		{id: "F48", does: "a node killed during writes", figure: "return until all are whole", on: writes, run: killWriter},
		{id: "F69", does: "jobs on CPU slots while the leader is killed", figure: "first submit to last end", on: sweeps, run: sweepThrough},
		{id: "F54", does: "voter wiped and back on its address while the others hold the entry", figure: "wiped to voting again", on: sweeps, run: wipeVoter},
		{id: "F54b", does: "voter wiped that holds an entry with the leader alone, and the leader dies", figure: "leader's return to all voting again", on: three, run: wipeAtWorst},
	}
}

// killWriter is F48.
func killWriter(ctx context.Context, b *bed, t times) (got outcome, err error) {
	if err := b.aJobEverywhere(ctx); err != nil {
		return got, err
	}
	for i := 0; b.more(i, t.writeKills); i++ {
		victim := b.l.nodes[b.rnd.IntN(len(b.l.nodes))]
		err := b.writing(ctx, func(ctx context.Context) error {
			if err := pause(ctx, time.Duration(100+b.rnd.IntN(400))*time.Millisecond); err != nil {
				return err
			}
			if err := victim.kill(); err != nil {
				return err
			}
			return pause(ctx, 200*time.Millisecond)
		})
		if err != nil {
			return got, err
		}
		began := time.Now()
		if err := b.restart(victim); err != nil {
			return got, err
		}
		if err := b.l.waitWhole(ctx); err != nil {
			return got, err
		}
		got.add(time.Since(began))
		if err := b.sameEverywhere(ctx); err != nil {
			return got, err
		}
	}
	return got, nil
}

// sameEverywhere compares the nodes' lists of experiments when nobody writes.
func (b *bed) sameEverywhere(ctx context.Context) error {
	var first []named
	for i, m := range b.l.nodes {
		listed, err := b.list(ctx, m)
		if err != nil {
			return err
		}
		if i == 0 {
			first = listed
		} else if !slices.Equal(first, listed) {
			return fmt.Errorf("%s lists %d experiments that are not the %d of %s", m.name, len(listed), len(first), b.l.nodes[0].name)
		}
	}
	return nil
}

// sweepThrough is F69.
func sweepThrough(ctx context.Context, b *bed, t times) (got outcome, err error) {
	c, err := b.everyone(b.l.nodes[0])
	if err != nil {
		return got, err
	}
	began := time.Now()
	none := 0
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i := range t.sweep {
		if i > 0 && i%(t.sweep/(t.sweepKills+1)) == 0 {
			if err := b.killAndRestart(ctx); err != nil {
				return got, errors.Join(err, g.Wait())
			}
		}
		g.Go(func() error {
			argv := []string{b.self, "witness", b.file, "0", strconv.Itoa(i % 2)}
			id, err := b.submit(gctx, c, api.AddRequest{Command: argv, GPUs: &none, Retries: &none})
			if err != nil {
				return err
			}
			b.mu.Lock()
			defer b.mu.Unlock()
			b.witnesses = append(b.witnesses, id)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return got, err
	}
	if err := b.waitEnded(ctx, b.witnesses...); err != nil {
		return got, err
	}
	got.add(time.Since(began))
	return got, nil
}

// killAndRestart kills the leader and starts it again a moment later.
func (b *bed) killAndRestart(ctx context.Context) error {
	leads, _, err := b.l.leader(ctx)
	if err != nil {
		return err
	}
	if err := leads.kill(); err != nil {
		return err
	}
	if err := pause(ctx, 200*time.Millisecond); err != nil {
		return err
	}
	return b.restart(leads)
}

// wipeVoter is F54: what was acknowledged while the voter was away is on the two others.
func wipeVoter(ctx context.Context, b *bed, _ times) (got outcome, err error) {
	leads, others, err := b.l.leader(ctx)
	if err != nil {
		return got, err
	}
	err = b.wipeWhileOthersHold(ctx, leads, others[0], &got)
	return got, err
}

func (b *bed) wipeWhileOthersHold(ctx context.Context, leads, wiped *member, got *outcome) error {
	old, err := b.idOf(ctx, leads, wiped)
	if err != nil {
		return err
	}
	if err := wiped.kill(); err != nil {
		return err
	}
	c, err := b.everyone(leads)
	if err != nil {
		return err
	}
	if _, err := b.submit(ctx, c, held()); err != nil {
		return err
	}
	began := time.Now()
	if err := b.wipe(ctx, leads, wiped); err != nil {
		return err
	}
	if err := b.l.launch(wiped, "join", leads.mesh, "--token-file", wiped.dir+".token"); err != nil {
		return err
	}
	if err := b.forgotten(ctx, leads, wiped, old); err != nil {
		return err
	}
	got.add(time.Since(began))
	return b.l.waitWhole(ctx)
}

// wipe takes everything from a dead node and gives it a token to join with.
func (b *bed) wipe(ctx context.Context, ask, m *member) error {
	if err := emptyDir(m.dir); err != nil {
		return err
	}
	return b.token(ctx, ask, m)
}

func emptyDir(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("wipe: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("wipe: %w", err)
	}
	return nil
}

func (b *bed) token(ctx context.Context, ask, m *member) error {
	c, err := b.l.client(ask)
	if err != nil {
		return err
	}
	token, err := c.CreateToken(ctx, api.TokenRequest{Kind: fsm.AccessJoin, Uses: 1})
	if err != nil {
		return fmt.Errorf("make a join token: %w", err)
	}
	if err := os.WriteFile(m.dir+".token", []byte(token.Token), 0o600); err != nil {
		return fmt.Errorf("hand out the join token: %w", err)
	}
	return nil
}

// idOf gives the ID under which a node is known.
func (b *bed) idOf(ctx context.Context, ask, m *member) (string, error) {
	s, err := b.l.see(ctx, ask)
	if err != nil {
		return "", fmt.Errorf("ask for the ID of %s: %w", m.name, err)
	}
	for _, n := range s.Nodes {
		if n.HTTP == m.http {
			return n.ID, nil
		}
	}
	return "", fmt.Errorf("ask for the ID of %s: it is not listed", m.name)
}
