package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/deveronica/cvlab/cluster"
)

// diary notes who ended when.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) note(line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, line)
}

// loop ends a while after it was told to, so that an order which only seems right shows.
func (d *diary) loop(name string, takes time.Duration) loop {
	return loop{name, func(ctx context.Context) error {
		<-ctx.Done()
		<-time.After(takes)
		d.note(name)
		return ctx.Err()
	}}
}

func TestStagesEndFromTheTop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &diary{}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		err := runStages(ctx,
			[]loop{d.loop("mesh", time.Second)},
			[]loop{d.loop("cluster", 10*time.Second)},
			[]loop{d.loop("worker", time.Minute), d.loop("HTTP", time.Second)})
		if err != nil {
			t.Error(err)
		}
		if want := []string{"HTTP", "worker", "cluster", "mesh"}; !slices.Equal(d.lines, want) {
			t.Errorf("ended %v, want %v", d.lines, want)
		}
	})
}

func TestFailureEndsAllInOrder(t *testing.T) {
	boom := errors.New("boom")
	for _, c := range []struct {
		name  string
		stage int
		fails func(ctx context.Context) error
		want  string
	}{
		{"the lowest fails", 0, func(context.Context) error { return boom }, "failing: boom"},
		{"a middle one fails", 1, func(context.Context) error { return boom }, "failing: boom"},
		{"the highest fails", 2, func(context.Context) error { return boom }, "failing: boom"},
		{"one ends by itself", 1, func(context.Context) error { return nil }, "failing: ended by itself"},
		{"one gives up by itself", 1, func(context.Context) error { return context.Canceled }, "failing: context canceled"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &diary{}
				stages := [][]loop{{d.loop("mesh", time.Second)}, {d.loop("cluster", 10*time.Second)}, {d.loop("worker", time.Minute)}}
				stages[c.stage] = append(stages[c.stage], loop{"failing", func(ctx context.Context) error {
					<-time.After(time.Second)
					return c.fails(ctx)
				}})
				err := runStages(t.Context(), stages...)
				if err == nil || err.Error() != c.want {
					t.Errorf("got %v, want %s", err, c.want)
				}
				// What stands beside or below a failed part is told to end at once; nothing ends before what stands on it.
				if i := slices.Index(d.lines, "mesh"); i != len(d.lines)-1 && c.stage > 0 || len(d.lines) != 3 {
					t.Errorf("ended %v", d.lines)
				}
			})
		})
	}
	t.Run("an error while ending is told", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			err := runStages(ctx, []loop{{"mesh", func(ctx context.Context) error { <-ctx.Done(); return boom }}})
			if !errors.Is(err, boom) || !strings.Contains(err.Error(), "mesh") {
				t.Errorf("got %v", err)
			}
		})
	})
}

func TestAHungDiskEndsTheNodeAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := make(chan struct{})
		writes := func(context.Context) error { <-disk; return nil }
		d := &diary{}
		began := time.Now()
		err := runStages(t.Context(),
			[]loop{d.loop("mesh", 0)},
			[]loop{{"cluster", func(context.Context) error {
				<-time.After(time.Second)
				return fmt.Errorf("run: %w", cluster.ErrDiskHangs)
			}}, {"beside", writes}},
			[]loop{{"worker", writes}})
		if !errors.Is(err, cluster.ErrDiskHangs) || !strings.HasPrefix(err.Error(), "cluster: run: the disk does not answer") {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("it took %v", took)
		}
		if !slices.Equal(d.lines, []string{"mesh"}) {
			t.Errorf("ended %v, want the mesh", d.lines)
		}
		var c closers
		c.add("lock", func() error { d.note("lock"); return nil })
		c.add("node.json", func() error { <-disk; return nil })
		if err := c.closeHung(); !errors.Is(err, errLeftBehind) || !strings.Contains(err.Error(), "node.json") {
			t.Errorf("closing gave %v", err)
		}
		if !slices.Contains(d.lines, "lock") {
			t.Error("what could be closed was not")
		}
		close(disk)
	})
}

func TestClosers(t *testing.T) {
	d := &diary{}
	var c closers
	for _, name := range []string{"lock", "port", "seat"} {
		c.add(name, func() error {
			d.note(name)
			if name == "seat" {
				return nil
			}
			return errors.New("is stuck")
		})
	}
	err := c.closeAll()
	if !slices.Equal(d.lines, []string{"seat", "port", "lock"}) {
		t.Errorf("closed %v", d.lines)
	}
	if err == nil || err.Error() != "close port: is stuck\nclose lock: is stuck" {
		t.Errorf("got %v", err)
	}
	if err := c.closeAll(); err != nil || len(d.lines) != 3 {
		t.Errorf("a second time: %v, %v", err, d.lines)
	}
}
