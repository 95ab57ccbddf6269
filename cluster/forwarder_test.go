package cluster

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A dial to a leader that was cut off would hang for seconds and hold its place; it ends when another node leads, and
// calls that waited for their turn no longer go there.
func TestForwarderLeavesAFormerLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dialled := map[string]int{}
		var mu sync.Mutex
		f := newForwarder(func(ctx context.Context, node, _ string) (net.Conn, error) {
			mu.Lock()
			dialled[node]++
			mu.Unlock()
			<-ctx.Done()
			return nil, context.Cause(ctx)
		})
		f.keepOnly("old")
		began := time.Now()
		var calling sync.WaitGroup
		for range maxCalls + 10 { // ten of them wait for a place
			calling.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if _, err := f.call(ctx, "old", forwardRequest{}); err == nil {
					t.Error("a call to a node that never answers was answered")
				}
			})
		}
		synctest.Wait()
		f.keepOnly("new")
		calling.Wait()
		if took := time.Since(began); took != 0 {
			t.Errorf("the calls ended after %s, not with the leader's time", took)
		}
		if dialled["old"] != maxCalls {
			t.Errorf("the former leader was dialled %d times, want %d", dialled["old"], maxCalls)
		}
		f.keepOnly("")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := f.call(ctx, "new", forwardRequest{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with no known leader: %v", err)
		}
	})
}
