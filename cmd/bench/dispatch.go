package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/deveronica/cvlab/ui/api"
)

// dispatchPart measures how long a person waits until an idle cluster has started what they submit.
type dispatchPart struct {
	b    *bench
	n    int // submissions in each way
	slow bool
	on   string // where the jobs are to run: any, leader or follower
}

func (b *bench) dispatchCommand() *cobra.Command {
	p := dispatchPart{b: b}
	c := b.part("dispatch", "Submission to acknowledgement, and to the start of the process, on an idle cluster of three",
		func(ctx context.Context) error { return p.measure(ctx) })
	c.Flags().IntVar(&p.n, "n", 50, "submissions in each way: leader, follower, command line")
	c.Flags().BoolVar(&p.slow, "slow", false, "let some pauses be longer than 4 s, so that connections and caches have gone cold")
	c.Flags().StringVar(&p.on, "on", onAny, "where the jobs are to run: any (the planner decides), leader, follower")
	needPositive(c, "n", &p.n)
	needWord(c, "on", &p.on, onAny, onLeader, onFollower)
	return c
}

// Where jobs are to run.
const (
	onAny      = "any"
	onLeader   = "leader"
	onFollower = "follower"
)

// way is one way to submit: it returns when the submission is acknowledged.
type way struct {
	name   string
	submit func(context.Context, []string) error
}

func (p dispatchPart) measure(ctx context.Context) error {
	if err := p.calibrate(ctx); err != nil {
		return err
	}
	return p.b.withLab(ctx, 3, nil, func(l *lab) error {
		leads, others, err := l.leader(ctx)
		if err != nil {
			return err
		}
		device := map[string]string{onAny: "", onLeader: leads.name, onFollower: others[len(others)-1].name}[p.on]
		ways, err := p.ways(l, device, leads, others[0])
		if err != nil {
			return err
		}
		for _, w := range ways {
			p.b.r.figure(row{Part: "dispatch", Name: w.name + ": to acknowledgement", Unit: "ms"})
			p.b.r.figure(row{Part: "dispatch", Name: w.name + ": to process start", Unit: "ms", Bars: []bar{{Of: "median", Less: 50}}})
		}
		for i := range p.n {
			for k := range ways {
				w := ways[(i+k)%len(ways)] // in turns, and none always first
				if err := p.one(ctx, fmt.Sprintf("%d-%d", i, k), w, leads.name); err != nil {
					return err
				}
				rest := between(100*time.Millisecond, time.Second)
				if p.slow && (i*len(ways)+k)%10 == 9 {
					rest = between(4*time.Second, 6*time.Second)
				}
				if err := pause(ctx, rest); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (p dispatchPart) ways(l *lab, device string, leads, follows *member) ([]way, error) {
	toLeader, err1 := l.client(leads)
	toFollower, err2 := l.client(follows)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	add := func(c *api.Client) func(context.Context, []string) error {
		return func(ctx context.Context, argv []string) error {
			_, err := c.Add(ctx, api.AddRequest{Command: argv, Device: device})
			return err
		}
	}
	return []way{
		{"API, leader", add(toLeader)},
		{"API, follower", add(toFollower)},
		{"cvlab run on a follower", func(ctx context.Context, argv []string) error {
			args := []string{"run"}
			if device != "" {
				args = append(args, "--device", device)
			}
			c := exec.CommandContext(ctx, p.b.program, append(append(args, "--"), argv...)...)
			c.Env = append(cleanEnv(), "CVLAB_DATA_DIR="+follows.dir)
			if out, err := c.CombinedOutput(); err != nil {
				return fmt.Errorf("cvlab run: %w: %s", err, strings.TrimSpace(string(out)))
			}
			return nil
		}},
	}, nil
}

func (p dispatchPart) one(ctx context.Context, name string, w way, leads string) error {
	file := filepath.Join(p.b.dir, "dispatch-"+name)
	began := time.Now()
	if err := w.submit(ctx, []string{p.b.self, "stamp", file}); err != nil {
		return fmt.Errorf("submit (%s): %w", w.name, err)
	}
	acknowledged := time.Since(began)
	m, err := waitMark(ctx, file)
	if err != nil {
		return err
	}
	started := time.Duration(m.Start - began.UnixNano())
	where := onFollower
	if m.Node == leads {
		where = onLeader
	}
	p.b.r.add("dispatch", w.name+": to acknowledgement", ms(acknowledged))
	p.b.r.add("dispatch", w.name+": to process start", ms(started))
	p.b.r.add("dispatch", "of these, run by the "+where, ms(started))
	p.b.r.line("dispatch %-6s %-24s acknowledged %6.1f ms, process started %6.1f ms, on the %s", name, w.name, ms(acknowledged), ms(started), where)
	return nil
}

// waitMark waits for a job's mark. A minute is far more than any dispatch takes that is worth a number.
func waitMark(ctx context.Context, file string) (m mark, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err = until(ctx, "a job to write "+filepath.Base(file), func() (ok bool, err error) {
		m, ok, err = readMark(file)
		return ok, err
	})
	return m, err
}

// calibrate measures what the job's own start costs: it is part of every "process start" above, and of every gap.
func (p dispatchPart) calibrate(ctx context.Context) error {
	const name = "(the job's program, started by hand)"
	p.b.r.figure(row{Part: "dispatch", Name: name, Unit: "ms"})
	for i := range 20 {
		file := filepath.Join(p.b.dir, fmt.Sprintf("calibrate-%d", i))
		began := time.Now()
		if err := exec.CommandContext(ctx, p.b.self, "stamp", file).Run(); err != nil {
			return fmt.Errorf("start the job's program: %w", err)
		}
		m, err := waitMark(ctx, file)
		if err != nil {
			return err
		}
		p.b.r.add("dispatch", name, ms(time.Duration(m.Start-began.UnixNano())))
	}
	return nil
}
