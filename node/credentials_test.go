package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

// grantor is a seat that applies what is proposed.
type grantor struct {
	*facts
	id       string
	away     atomic.Bool
	proposed atomic.Int32
}

func (g *grantor) ID() string        { return g.id }
func (g *grantor) State() *fsm.State { return g.facts.State }

func (g *grantor) Propose(_ context.Context, e fsm.Entry) (fsm.Result, error) {
	g.proposed.Add(1)
	if g.away.Load() {
		return fsm.Result{}, errors.New("no majority")
	}
	return g.apply(e), nil
}

func (g *grantor) access(token string) *fsm.Access {
	secret := sha256.Sum256([]byte(token))
	return g.View().AccessBySecret(secret[:])
}

func keep(t *testing.T, id, token string, do func(t *testing.T, g *grantor)) {
	synctest.Test(t, func(t *testing.T) {
		g := &grantor{facts: newFacts(t), id: id}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		c := &credentials{seat: g, own: ownAccess(id, token)}
		wait := start(func() { ended <- c.Run(ctx) })
		synctest.Wait()
		do(t, g)
		cancel()
		wait()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestTokenOfThisMachine(t *testing.T) {
	t.Run("is granted, and again when revoked", func(t *testing.T) {
		keep(t, nodeA, "cvu_secret", func(t *testing.T, g *grantor) {
			a := g.access("cvu_secret")
			if a == nil || a.Role != fsm.Admin || a.Kind != fsm.AccessUser || a.User == "" {
				t.Fatalf("granted %+v", a)
			}
			g.must(&fsm.Revoke{ID: a.ID})
			<-time.After(2 * time.Second)
			if g.access("cvu_secret") == nil {
				t.Error("not granted again")
			}
			before := g.proposed.Load()
			for range 100 {
				g.must(&fsm.Submit{Spec: fsm.Spec{Project: "p", Command: []string{"x"}, Device: fsm.Device{Kind: fsm.DeviceCPU}}})
				<-time.After(50 * time.Millisecond)
			}
			if n := g.proposed.Load() - before; n != 0 {
				t.Errorf("proposed %d times with nothing to grant", n)
			}
		})
	})
	t.Run("replaces the one of a lost file", func(t *testing.T) {
		keep(t, nodeA, "cvu_old", func(t *testing.T, g *grantor) {
			c := &credentials{seat: g, own: ownAccess(nodeA, "cvu_new")}
			if err := c.grant(t.Context()); err != nil {
				t.Fatal(err)
			}
			if g.access("cvu_old") != nil || g.access("cvu_new") == nil {
				t.Error("the old token opens still, or the new one does not")
			}
		})
	})
	t.Run("waits until there is a majority", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := &grantor{facts: newFacts(t), id: nodeA}
			g.away.Store(true)
			ctx, cancel := context.WithCancel(t.Context())
			wait := start(func() { _ = (&credentials{seat: g, own: ownAccess(nodeA, "cvu_x")}).Run(ctx) })
			<-time.After(10*time.Second + time.Millisecond)
			if n := g.proposed.Load(); n != 11 {
				t.Errorf("tried %d times in ten seconds", n)
			}
			g.away.Store(false)
			<-time.After(time.Second)
			if g.access("cvu_x") == nil {
				t.Error("not granted")
			}
			cancel()
			wait()
		})
	})
	t.Run("is not granted to a stranger", func(t *testing.T) {
		keep(t, nodeC, "cvu_c", func(t *testing.T, g *grantor) {
			<-time.After(time.Minute)
			if g.proposed.Load() != 0 {
				t.Error("a node that is no member asked for a token")
			}
		})
	})
	t.Run("is not granted to a removed node", func(t *testing.T) {
		keep(t, nodeB, "cvu_b", func(t *testing.T, g *grantor) {
			g.must(&fsm.Remove{Node: nodeB})
			if a := g.access("cvu_b"); a != nil {
				g.must(&fsm.Revoke{ID: a.ID})
			}
			<-time.After(time.Minute)
			if g.access("cvu_b") != nil {
				t.Error("a removed node let itself in again")
			}
		})
	})
}

func TestTokenFile(t *testing.T) {
	dir := t.TempDir()
	first, err := loadToken(dir, quiet())
	if err != nil || !strings.HasPrefix(first, "cvu_") || len(first) < 40 {
		t.Fatalf("made %q, %v", first, err)
	}
	path := filepath.Join(dir, "token")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v: others could act as this machine", info.Mode(), err)
	}
	if again, err := loadToken(dir, quiet()); err != nil || again != first {
		t.Errorf("then %q, %v", again, err)
	}
	// A flipped bit can make it something that no header can carry.
	for _, damaged := range []string{"\n", first[:9] + "\x02" + first[10:], first[:20], "x" + first} {
		if err := os.WriteFile(path, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if fresh, err := loadToken(dir, quiet()); err != nil || !wholeToken.MatchString(fresh) || fresh == first {
			t.Errorf("%q gave %q, %v", damaged, fresh, err)
		}
	}
	if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err := loadToken(dir, quiet()); err == nil {
		t.Error("what cannot be read was replaced")
	}
}
