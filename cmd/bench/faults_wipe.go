package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// refusedWithin bounds how long a join may try that cannot succeed: the joiner's own limit is 15 s.
const refusedWithin = 25 * time.Second

// wipeAtWorst is F54 at the worst moment: what was acknowledged is on the leader and on the voter that is wiped, and the
// leader dies before the wiped one is back. The third is alone with less than was acknowledged: it must not lead, the
// wiped one must not help it to, and when the leader is back nothing is lost.
func wipeAtWorst(ctx context.Context, b *bed, _ times) (got outcome, err error) {
	leads, others, err := b.l.leader(ctx)
	if err != nil {
		return got, err
	}
	wiped, behind := others[0], others[1]
	old, err := b.idOf(ctx, leads, wiped)
	if err != nil {
		return got, err
	}
	if err := behind.kill(); err != nil {
		return got, err
	}
	c, err := b.everyone(leads)
	if err != nil {
		return got, err
	}
	if _, err := b.submit(ctx, c, held()); err != nil {
		return got, err
	}
	if err := b.token(ctx, leads, wiped); err != nil { // which the third does not know either
		return got, err
	}
	if err := errors.Join(wiped.kill(), leads.kill()); err != nil {
		return got, err
	}
	if err := emptyDir(wiped.dir); err != nil {
		return got, err
	}
	if err := b.restart(behind); err != nil {
		return got, err
	}
	if err := b.refusedJoin(ctx, wiped, behind); err != nil {
		return got, err
	}
	began := time.Now()
	if err := b.restart(leads); err != nil {
		return got, err
	}
	if err := b.l.waitLed(ctx, leads); err != nil {
		return got, err
	}
	if err := b.l.launch(wiped, "join", behind.mesh, "--token-file", wiped.dir+".token"); err != nil {
		return got, err
	}
	if err := b.forgotten(ctx, leads, wiped, old); err != nil {
		return got, err
	}
	got.add(time.Since(began))
	return got, b.l.waitWhole(ctx)
}

// refusedJoin lets a wiped node join through one that is alone, and wants a sentence that says why it cannot, while the
// other one leads nobody.
func (b *bed) refusedJoin(ctx context.Context, wiped, alone *member) error {
	ctx, cancel := context.WithTimeout(ctx, refusedWithin)
	defer cancel()
	err := until(ctx, alone.name+" to answer", func() (bool, error) {
		_, err := b.l.see(ctx, alone)
		return err == nil, nil
	})
	if err != nil {
		return err
	}
	before, err := os.ReadFile(wiped.log())
	if err != nil {
		return fmt.Errorf("read the log of %s: %w", wiped.name, err)
	}
	if err := b.l.launch(wiped, "join", alone.mesh, "--token-file", wiped.dir+".token"); err != nil {
		return err
	}
	err = until(ctx, wiped.name+" to give up", func() (bool, error) {
		s, err := b.l.see(ctx, alone)
		if err == nil && s.Leader != nil && s.Leader.ID == s.Answered.ID {
			return false, fmt.Errorf("%s leads, with a vote of the wiped %s", alone.name, wiped.name)
		}
		return wiped.ended(), nil
	})
	if err != nil {
		return err
	}
	text, err := os.ReadFile(wiped.log())
	if err != nil {
		return fmt.Errorf("read the log of %s: %w", wiped.name, err)
	}
	if said := string(text[len(before):]); !strings.Contains(said, "no leader") {
		return fmt.Errorf("%s did not say that there is no leader, but: %s", wiped.name, said)
	}
	return nil
}

// forgotten waits until a wiped node's new self votes under its plain name and the old self is no member any more.
func (b *bed) forgotten(ctx context.Context, ask, m *member, old string) error {
	ctx, cancel := context.WithTimeout(ctx, healLimit)
	defer cancel()
	return until(ctx, m.name+"'s new self to be in the place of the old one", func() (bool, error) {
		if m.ended() {
			return false, fmt.Errorf("%s has ended by itself", m.name)
		}
		s, err := b.l.see(ctx, ask)
		if err != nil {
			return false, nil
		}
		votes := false
		for _, n := range s.Nodes {
			if n.ID == old {
				return false, nil
			}
			votes = votes || n.HTTP == m.http && n.Name == m.name && n.Role != "learner"
		}
		return votes, nil
	})
}
