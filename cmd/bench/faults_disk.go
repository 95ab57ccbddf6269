package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/deveronica/cvlab/node"
	"github.com/deveronica/cvlab/ui/api"
)

// diskScenarios let disks hang, slow down and run full.
func diskScenarios() []scenario {
	faulty, small := kind{nodes: 3, disks: faultyDisks}, kind{nodes: 3, disks: smallDisks}
	return []scenario{
		{id: "F41", does: "leader's fsync hangs", figure: "hang to next acknowledged submit", on: faulty, run: leaderDiskHangs},
		{id: "F42", does: "follower's disk hangs, then works", figure: "mended to caught up", on: faulty, run: followerDiskHangs},
		{id: "F43", does: "each fsync takes 200 ms more, on one voter, then on all", figure: "slowest submit", on: faulty, run: slowDisks},
		{id: "F44", does: "leader's disk full, then freed", figure: "full to next acknowledged submit", on: small, run: leaderDiskFull},
		{id: "F45", does: "disks of two of three voters full, then freed", figure: "slowest answer", on: small, run: twoDisksFull},
		{id: "F46", does: "the disk of a job's output full, then freed", figure: "freed to exit recorded", on: small, run: outputDiskFull},
	}
}

// care is how somebody looks after nodes that end by themselves, as systemd does.
type care struct {
	pause   time.Duration // before the node is started again
	setting string        // hidden, for the node that is started again
}

// systemd is what the unit that cvlab installs does.
func systemd() care { return care{pause: time.Second} }

// inCare looks after the nodes while f runs. It gives how often a node was started again.
func (b *bed) inCare(ctx context.Context, how care, f func(context.Context) error) (restarts int, err error) {
	g, ctx := errgroup.WithContext(ctx)
	caring, stop := context.WithCancel(ctx)
	for _, m := range b.l.nodes {
		g.Go(func() error {
			for caring.Err() == nil {
				if m.ended() {
					_ = pause(caring, how.pause) // its end ends the loop, after the node was started
					if err := b.rebirth(m, how.setting); err != nil {
						return err
					}
					b.mu.Lock()
					restarts++
					b.mu.Unlock()
				}
				_ = pause(caring, 20*time.Millisecond)
			}
			return nil
		})
	}
	g.Go(func() error {
		defer stop()
		return f(ctx)
	})
	return restarts, g.Wait()
}

// wholeAgain waits until all nodes are well, also when some end by themselves and come back meanwhile.
func (b *bed) wholeAgain(ctx context.Context, limit time.Duration) (time.Duration, error) {
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, limit*b.slack, fmt.Errorf("%v are promised", limit))
	defer cancel()
	err := until(ctx, "all nodes to be whole again", func() (bool, error) { return b.l.whole(ctx), nil })
	return time.Since(began), err
}

// leaderDiskHangs is F41.
func leaderDiskHangs(ctx context.Context, b *bed, _ times) (got outcome, err error) {
	if err := b.aJobEverywhere(ctx); err != nil {
		return got, err
	}
	leads, others, err := b.l.leader(ctx)
	if err != nil {
		return got, err
	}
	disk := b.l.o.disks.of(leads)
	_, err = b.inCare(ctx, systemd(), func(ctx context.Context) error {
		c, err := b.l.client(others[0], others[1])
		if err != nil {
			return err
		}
		disk.fault(faults{hang: true})
		defer disk.fault(faults{})
		d, err := b.gap(ctx, c)
		if err != nil {
			return err
		}
		got.add(d)
		if err := b.within(d, 5*time.Second, "the time to a new leader's acknowledgement"); err != nil {
			return err
		}
		if err := pause(ctx, b.outage(30*time.Second)-d); err != nil {
			return err
		}
		disk.fault(faults{})
		_, err = b.wholeAgain(ctx, healLimit)
		return err
	})
	return got, err
}

// outage is how long a fault of the matrix lasts: as written in the long form, a third of it in the short one.
func (b *bed) outage(d time.Duration) time.Duration {
	if b.end.IsZero() {
		return d / 3
	}
	return d
}

// followerDiskHangs is F42. The leader is not touched.
func followerDiskHangs(ctx context.Context, b *bed, _ times) (got outcome, err error) {
	leads, others, err := b.l.leader(ctx)
	if err != nil {
		return got, err
	}
	disk := b.l.o.disks.of(others[0])
	_, err = b.inCare(ctx, systemd(), func(ctx context.Context) error {
		disk.fault(faults{hang: true})
		defer disk.fault(faults{})
		during, stop := context.WithTimeout(ctx, b.outage(30*time.Second))
		defer stop()
		if err := b.write(ctx, during, leads); err != nil {
			return err
		}
		disk.fault(faults{})
		d, err := b.wholeAgain(ctx, 5*time.Second)
		got.add(d)
		return err
	})
	if err != nil {
		return got, err
	}
	if now, _, err := b.l.leader(ctx); err != nil || now != leads {
		return got, errors.Join(err, fmt.Errorf("%s does not lead any more, its own disk was well", leads.name))
	}
	return got, nil
}

// slowDisks is F43.
func slowDisks(ctx context.Context, b *bed, _ times) (got outcome, err error) {
	for _, all := range []bool{false, true} {
		leads, others, err := b.l.leader(ctx)
		if err != nil {
			return got, err
		}
		slow := others[:1]
		if all {
			slow = b.l.nodes
		}
		cut := func() error {
			for _, m := range slow {
				b.l.o.disks.of(m).fault(faults{slow: 200 * time.Millisecond})
			}
			return nil
		}
		heal := func() error { b.l.o.disks.mend(); return nil }
		t := trouble{cut: cut, heal: heal, ask: leads, length: b.outage(24 * time.Second), changes: 1, slowest: 1500 * time.Millisecond}
		if err := errors.Join(b.troubled(ctx, t, &got), heal()); err != nil {
			return got, err
		}
		if err := b.l.waitWhole(ctx); err != nil {
			return got, err
		}
	}
	return got, nil
}

// leaderDiskFull is F44.
func leaderDiskFull(ctx context.Context, b *bed, _ times) (got outcome, err error) {
	if err := b.aJobEverywhere(ctx); err != nil {
		return got, err
	}
	leads, others, err := b.l.leader(ctx)
	if err != nil {
		return got, err
	}
	restarts, err := b.inCare(ctx, systemd(), func(ctx context.Context) error {
		c, err := b.l.client(others[0], others[1], leads)
		if err != nil {
			return err
		}
		filler, err := b.l.o.disks.of(leads).fill()
		if err != nil {
			return err
		}
		defer os.Remove(filler) // also after an error
		began := time.Now()
		// An idle leader may not notice; submissions make it write until its disk gives way.
		err = until(ctx, "another node to lead", func() (bool, error) {
			if _, err := b.submit(ctx, c, held()); err != nil {
				return false, err
			}
			now, _ := b.l.led(ctx, others)
			return now != nil && now != leads, nil
		})
		if err != nil {
			return err
		}
		got.add(time.Since(began))
		if err := b.within(got.worst, 5*time.Second, "the time to another leader's acknowledgement"); err != nil {
			return err
		}
		if err := pause(ctx, 3*time.Second); err != nil {
			return err
		}
		if err := os.Remove(filler); err != nil {
			return fmt.Errorf("free the disk: %w", err)
		}
		_, err = b.wholeAgain(ctx, 30*time.Second)
		return err
	})
	if restarts > 3 {
		err = errors.Join(err, fmt.Errorf("a node ended by itself %d times while a disk was full", restarts))
	}
	return got, err
}

// twoDisksFull is F45: a write gets an answer that says whose disks are full.
func twoDisksFull(ctx context.Context, b *bed, _ times) (got outcome, err error) {
	if err := b.aJobEverywhere(ctx); err != nil {
		return got, err
	}
	c, err := b.everyone(b.l.nodes[0])
	if err != nil {
		return got, err
	}
	for range 20 {
		if _, err := b.submit(ctx, c, held()); err != nil {
			return got, err
		}
	}
	full := b.l.nodes[1:]
	_, err = b.inCare(ctx, systemd(), func(ctx context.Context) error {
		for _, m := range full {
			filler, err := b.l.o.disks.of(m).fill()
			if err != nil {
				return err
			}
			defer os.Remove(filler)
		}
		if err := b.namedRefusal(ctx, full, &got); err != nil {
			return err
		}
		for _, m := range full {
			if err := os.Remove(b.l.o.disks.of(m).dir + "/filler"); err != nil {
				return fmt.Errorf("free a disk: %w", err)
			}
		}
		_, err := b.wholeAgain(ctx, 30*time.Second)
		return err
	})
	return got, err
}

// namedRefusal submits until a refusal by the node whose disk is well names the nodes whose disks are full. Nothing may
// hang meanwhile, whoever is asked.
func (b *bed) namedRefusal(ctx context.Context, full []*member, got *outcome) error {
	began := time.Now()
	limit := 5 * time.Second * b.slack
	answer := ""
	for time.Since(began) < limit+answerLimit {
		var mu sync.Mutex
		g, gctx := errgroup.WithContext(ctx)
		for _, m := range b.l.nodes {
			g.Go(func() error {
				asked := time.Now()
				status, detail, err := b.post(gctx, m)
				d := time.Since(asked)
				mu.Lock()
				defer mu.Unlock()
				got.worst = max(got.worst, d)
				if d > answerLimit+time.Second*b.slack {
					return fmt.Errorf("%s took %v to answer", m.name, d)
				}
				if err == nil && m == b.l.nodes[0] && (status == http.StatusInsufficientStorage || status == http.StatusServiceUnavailable) {
					answer = detail
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		if strings.Contains(answer, full[0].name) && strings.Contains(answer, full[1].name) {
			got.faults++
			return b.within(time.Since(began), 5*time.Second, "the time to a refusal that names the full disks")
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("no refusal named %s and %s, whose disks are full; the last one was %q", full[0].name, full[1].name, answer)
}

// post submits once, without repeats, and gives the answer as it came. An acknowledgement counts.
func (b *bed) post(ctx context.Context, m *member) (status int, detail string, err error) {
	key := b.newKey()
	client, _ := b.newClient()
	called, id := time.Now(), uint64(0)
	defer func() {
		b.ops.record(client, wish{opSubmit, key}, called, reply{unknown: id == 0, known: known{id: id}})
	}()
	body, err := json.Marshal(api.AddRequest{Key: key, Name: key, Command: []string{"true"}, Hold: true})
	if err != nil {
		return 0, "", fmt.Errorf("submit to %s: %w", m.name, err)
	}
	token, err := node.ReadToken(m.dir)
	if err != nil {
		return 0, "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+m.http+"/api/queue/add", bytes.NewReader(body))
	if err != nil {
		return 0, "", fmt.Errorf("submit to %s: %w", m.name, err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := b.l.asker().Do(req)
	if err != nil {
		return 0, "", fmt.Errorf("submit to %s: %w", m.name, err)
	}
	defer resp.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(resp.Body); err != nil {
		return 0, "", fmt.Errorf("submit to %s: %w", m.name, err)
	}
	var added api.Added
	if resp.StatusCode == http.StatusCreated && json.Unmarshal(text.Bytes(), &added) == nil {
		id, err = b.acknowledge(key, added)
	}
	return resp.StatusCode, text.String(), err
}

// outputDiskFull is F46: a job goes on printing while the disk of its output is full, and its end is recorded.
func outputDiskFull(ctx context.Context, b *bed, _ times) (got outcome, err error) {
	_, others, err := b.l.leader(ctx)
	if err != nil {
		return got, err
	}
	worker := others[0]
	c, err := b.everyone(worker)
	if err != nil {
		return got, err
	}
	id, err := b.jobBy(ctx, c, worker.name, 6, 5, "4000") // no room that happens to be left holds that
	if err != nil {
		return got, err
	}
	if err := b.seen(ctx, id); err != nil {
		return got, err
	}
	_, err = b.inCare(ctx, systemd(), func(ctx context.Context) error {
		filler, err := b.l.o.disks.of(worker).fill()
		if err != nil {
			return err
		}
		defer os.Remove(filler)
		h, err := b.testimony.read()
		if err != nil {
			return err
		}
		pid := h.newest(id).pid
		err = until(ctx, "the job to end", func() (bool, error) {
			return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH), pause(ctx, 50*time.Millisecond)
		})
		if err != nil {
			return err
		}
		h, err = b.testimony.read()
		if err != nil {
			return err
		}
		if last := h.newest(id); !last.last {
			return fmt.Errorf("experiment %d did not go on to its end while the disk of its output was full", id)
		}
		if err := os.Remove(filler); err != nil {
			return fmt.Errorf("free the disk: %w", err)
		}
		began := time.Now()
		if err := b.waitEnded(ctx, id); err != nil {
			return err
		}
		got.add(time.Since(began))
		_, err = b.wholeAgain(ctx, 30*time.Second)
		return err
	})
	return got, err
}
