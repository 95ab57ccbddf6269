package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/deveronica/cvlab/cluster"
	"github.com/deveronica/cvlab/executor/supervisor"
	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/node/worker"
)

// processScenarios end processes at the worst step, and supervisors.
func processScenarios() []scenario {
	on, other := kind{series: "steps", nodes: 3}, kind{series: "supervisors", nodes: 3}
	return []scenario{
		{id: "F02", does: "leader dies between append and replication, and between commit and answer", figure: "slowest submit", on: on, run: dyingLeader},
		{id: "F09", does: "daemon dies at each step of an attempt, back after 0.3 s", figure: "death to exit recorded", on: on, run: dyingWorker},
		{id: "F06", does: "supervisor killed", figure: "kill to no process", on: other, run: killSupervisor},
		{id: "F08", does: "daemon and supervisor killed together", figure: "kill to no process", on: other, run: killBoth},
		{id: "F16", does: "everything killed at once, back with another boot ID", figure: "node back to attempt closed", on: other, run: powerCut},
	}
}

// rebirth starts a node again with a hidden setting, until the next restart only.
func (b *bed) rebirth(m *member, setting string) error {
	if !m.ended() {
		if err := m.kill(); err != nil {
			return err
		}
	}
	if setting == "" {
		return b.restart(m)
	}
	m.env = []string{setting}
	defer func() { m.env = nil }()
	return b.restart(m)
}

func failpoint(step string, count int) string {
	return "CVLAB_TEST_FAILPOINT=" + step + ":" + strconv.Itoa(count)
}

// dyingLeader is F02. Every node dies as leader with its 6th change; each key is sent until it is acknowledged, and then
// once more.
func dyingLeader(ctx context.Context, b *bed, t times) (got outcome, err error) {
	if err := b.aJobEverywhere(ctx); err != nil {
		return got, err
	}
	for _, step := range []string{cluster.StepAppended, cluster.StepCommitted} {
		for _, m := range b.l.nodes {
			if err := b.rebirth(m, failpoint(step, 6)); err != nil {
				return got, err
			}
			if err := b.l.waitLed(ctx, m); err != nil && !m.ended() {
				return got, err
			}
		}
		deaths, err := b.inCare(ctx, care{pause: 100 * time.Millisecond, setting: failpoint(step, 6)}, func(ctx context.Context) error {
			return b.sendTwice(ctx, t.keys/2, &got)
		})
		if err != nil {
			return got, fmt.Errorf("leaders that die when a change is %s: %w", step, err)
		}
		if deaths < t.keys/20 {
			return got, fmt.Errorf("only %d leaders died when a change was %s", deaths, step)
		}
		for _, m := range b.l.nodes {
			if err := b.rebirth(m, "CVLAB_TEST_FAILPOINT="); err != nil {
				return got, err
			}
		}
		if err := b.l.waitWhole(ctx); err != nil {
			return got, err
		}
	}
	return got, nil
}

// sendTwice submits under n keys, some at a time, each until it is acknowledged and then once more.
func (b *bed) sendTwice(ctx context.Context, n int, got *outcome) error {
	c, err := b.everyone(b.l.nodes[0])
	if err != nil {
		return err
	}
	client, _ := b.newClient()
	for range n {
		r := held()
		r.Key = b.newKey()
		r.Name = r.Key
		began := time.Now()
		for range 2 {
			if _, err := b.insist(ctx, client, c, r); err != nil { // a second number for the key is an error
				return err
			}
		}
		got.add(time.Since(began))
	}
	return nil
}

// dyingWorker is F09. The job runs once, or the attempt is replaced; never two, never none for a minute.
func dyingWorker(ctx context.Context, b *bed, _ times) (got outcome, err error) {
	b.requeues = true
	for i, step := range worker.Steps() {
		m := b.l.nodes[i%len(b.l.nodes)]
		if err := b.dieAt(ctx, m, step, i, &got); err != nil {
			return got, fmt.Errorf("%s dies when its attempt is %s: %w", m.name, step, err)
		}
	}
	return got, nil
}

func (b *bed) dieAt(ctx context.Context, m *member, step string, code int, got *outcome) error {
	// Armed when it is well: a replica that catches up passes through the past, where old attempts are open.
	armed := b.file + "-armed-" + step
	if err := b.rebirth(m, failpoint(step, 1)+":"+armed); err != nil {
		return err
	}
	if err := errors.Join(b.l.waitWhole(ctx), b.allClosed(ctx, m)); err != nil {
		return err
	}
	if err := os.WriteFile(armed, nil, 0o600); err != nil {
		return fmt.Errorf("arm the failpoint: %w", err)
	}
	id, err := b.job(ctx, m.name, 0.5, code)
	if err != nil {
		return err
	}
	dying, cancel := context.WithTimeoutCause(ctx, seenLimit, errors.New("it lives on"))
	defer cancel()
	if err := until(dying, "the daemon to die", func() (bool, error) { return m.ended(), nil }); err != nil {
		return err
	}
	died := time.Now()
	if err := pause(ctx, 300*time.Millisecond); err != nil {
		return err
	}
	if err := b.restart(m); err != nil {
		return err
	}
	if err := b.waitEnded(ctx, id); err != nil { // within a minute
		return err
	}
	got.add(time.Since(died))
	h, err := b.testimony.read()
	if err != nil {
		return err
	}
	if ran := h.attempts(id); len(ran) != 1 {
		return fmt.Errorf("experiment %d ran %d times", id, len(ran))
	}
	return nil
}

// allClosed waits until a node has closed the records of all its attempts.
func (b *bed) allClosed(ctx context.Context, m *member) error {
	ctx, cancel := context.WithTimeoutCause(ctx, healLimit, errors.New("30 s have passed"))
	defer cancel()
	return until(ctx, "all records of "+m.name+" to be closed", func() (bool, error) {
		dirs, err := filepath.Glob(filepath.Join(m.dir, "attempts", "[0-9]*"))
		return !slices.ContainsFunc(dirs, func(d string) bool { return !supervisor.Buried(d) }), err
	})
}

// killSupervisor is F06.
func killSupervisor(ctx context.Context, b *bed, _ times) (got outcome, err error) {
	return b.lose(ctx, func(*member) error { return nil })
}

// killBoth is F08.
func killBoth(ctx context.Context, b *bed, _ times) (got outcome, err error) {
	return b.lose(ctx, func(m *member) error { return m.kill() })
}

// lose kills the supervisor of a job, after something was done to its node, and wants the job gone and requeued once.
func (b *bed) lose(ctx context.Context, first func(*member) error) (got outcome, err error) {
	b.requeues = true
	_, others, err := b.l.leader(ctx)
	if err != nil {
		return got, err
	}
	m := others[0]
	id, err := b.job(ctx, m.name, 1200, 3)
	if err != nil {
		return got, err
	}
	if err := b.seen(ctx, id); err != nil {
		return got, err
	}
	h, err := b.testimony.read()
	if err != nil {
		return got, err
	}
	pid := h.newest(id).pid
	if err := first(m); err != nil {
		return got, err
	}
	began := time.Now()
	if err := b.killSupervisors(m); err != nil {
		return got, err
	}
	if err := b.noProcess(ctx, pid); err != nil {
		return got, err
	}
	got.add(time.Since(began))
	if m.ended() {
		if err := b.restart(m); err != nil {
			return got, err
		}
	}
	return got, b.requeuedOnce(ctx, id, fsm.ClassSupervisorLost)
}

// killSupervisors kills all supervisors of a node.
func (b *bed) killSupervisors(m *member) error {
	pids, err := supervisors(m.dir)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := signalSupervisor(pid, m.dir, unix.SIGKILL); err != nil {
			return err
		}
	}
	return nil
}

// noProcess waits until a job's process is gone.
func (b *bed) noProcess(ctx context.Context, pid int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Second*b.slack, errors.New("5 s are promised"))
	defer cancel()
	return until(ctx, fmt.Sprintf("process %d of the job to be gone", pid), func() (bool, error) {
		return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH), nil
	})
}

// requeuedOnce waits until a second attempt runs after a first one that ended as one of the classes.
func (b *bed) requeuedOnce(ctx context.Context, id uint64, classes ...fsm.Class) error {
	ctx, cancel := context.WithTimeoutCause(ctx, jobsLimit, errors.New("a minute has passed"))
	defer cancel()
	return until(ctx, fmt.Sprintf("experiment %d to run again", id), func() (bool, error) {
		h, err := b.testimony.read()
		if err != nil {
			return false, err
		}
		if h.newest(id).attempt < 2 {
			return false, pause(ctx, 50*time.Millisecond)
		}
		d, err := b.detail(ctx, b.l.nodes[0], id)
		if err != nil {
			return false, err
		}
		if len(d.Attempts) != 2 || !slices.Contains(classes, d.Attempts[0].Class) {
			return false, fmt.Errorf("experiment %d was to be requeued once, as one of %v:%s", id, classes, story(d))
		}
		return true, nil
	})
}

// powerCut is F16: nothing runs any more, and the machines say so by another boot ID.
func powerCut(ctx context.Context, b *bed, _ times) (got outcome, err error) {
	b.requeues = true
	if err := b.aJobEverywhere(ctx); err != nil {
		return got, err
	}
	var cut errgroup.Group
	for _, m := range b.l.nodes {
		cut.Go(m.kill)
	}
	if err := cut.Wait(); err != nil {
		return got, err
	}
	h, err := b.testimony.read()
	if err != nil {
		return got, err
	}
	for _, m := range b.l.nodes {
		if err := b.killSupervisors(m); err != nil {
			return got, err
		}
	}
	for _, id := range b.witnesses {
		if err := b.noProcess(ctx, h.newest(id).pid); err != nil {
			return got, err
		}
	}
	back := time.Now()
	for _, m := range b.l.nodes {
		if err := b.rebirth(m, "CVLAB_TEST_BOOT_ID=00000000-0000-4000-8000-0000000000"+strconv.Itoa(10+b.rnd.IntN(90))); err != nil {
			return got, err
		}
	}
	for _, id := range b.witnesses {
		if err := b.requeuedOnce(ctx, id, fsm.ClassNodeLost, fsm.ClassSupervisorLost); err != nil {
			return got, err
		}
		d, err := b.detail(ctx, b.l.nodes[0], id)
		if err != nil {
			return got, err
		}
		closed := d.Attempts[0].EndedAt.Sub(back)
		got.add(closed)
		if err := b.within(closed, 10*time.Second, "the time until a returned node's attempt was closed"); err != nil {
			return got, err
		}
	}
	return got, nil
}
