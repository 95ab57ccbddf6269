package cluster

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

func TestLeadIsCalledOncePerTermAndCancelled(t *testing.T) {
	all := lab(t, 3)
	for _, m := range all {
		waitVoters(t, m, 3)
	}
	type call struct {
		machine string
		term    uint64
	}
	var mu sync.Mutex
	calls := map[call]int{}
	leading := 0
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for _, m := range all {
		seat := m.seat
		group.Go(func() {
			err := seat.Lead(ctx, func(ctx context.Context, term uint64) error {
				mu.Lock()
				calls[call{m.name, term}]++
				leading++
				mu.Unlock()
				<-ctx.Done()
				mu.Lock()
				leading--
				mu.Unlock()
				return nil
			})
			if err != nil {
				t.Errorf("lead on %s: %v", m.name, err)
			}
		})
	}
	terms := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(calls)
	}
	for round := 1; round <= 3; round++ {
		eventually(t, "somebody works", func() bool { return terms() >= round })
		leader, _ := leaderOf(t, all)
		if err := leader.seat.raft.LeadershipTransfer().Error(); err != nil {
			t.Logf("transfer: %v", err)
		}
	}
	eventually(t, "the last leader works", func() bool { return terms() >= 4 })
	eventually(t, "only one works", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return leading == 1
	})
	cancel()
	group.Wait()
	for c, n := range calls {
		if n != 1 {
			t.Errorf("%s was called %d times for term %d", c.machine, n, c.term)
		}
	}
}

func TestLeadReportsWhatItsFunctionFailsWith(t *testing.T) {
	m := newMachine(t, "solo")
	seat := m.start(found("lab"))
	broken := errors.New("broken")
	if err := seat.Lead(t.Context(), func(context.Context, uint64) error { return broken }); !errors.Is(err, broken) {
		t.Fatalf("lead gave %v", err)
	}
}

func TestABarrierIsSharedByThoseWhoWait(t *testing.T) {
	release, started := make(chan struct{}), make(chan struct{}, 100)
	var mu sync.Mutex
	commits := 0
	b := &barriers{commit: func() error {
		mu.Lock()
		commits++
		mu.Unlock()
		started <- struct{}{}
		<-release
		return nil
	}}
	first := b.join()
	<-started
	// These came after the first round was sent, so none of them may use it; they share the second.
	rounds := map[*round]bool{}
	for range 50 {
		rounds[b.join()] = true
	}
	if len(rounds) != 1 || rounds[first] {
		t.Fatalf("50 late readers share %d rounds (with the early one: %v)", len(rounds), rounds[first])
	}
	close(release)
	b.wg.Wait()
	if commits != 2 {
		t.Errorf("%d barriers for 51 readers, want 2", commits)
	}
}

func TestClosedWithoutHavingRun(t *testing.T) {
	m := newMachine(t, "solo")
	m.start(found("lab"))
	m.stop()
	if err := m.open(again); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	var group sync.WaitGroup
	group.Go(func() { done <- errors.Join(m.seat.Close(), m.mesh.Close()) })
	select {
	case err := <-done:
		if err != nil {
			t.Fatalf("close: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("close hangs")
	}
	group.Wait()
}
