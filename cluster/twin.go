package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// opWho asks which process answers.
const opWho = "who"

const (
	// twinLimit bounds what a starting node spends on looking for another process with its key. Members that are off must
	// not hold up a start.
	twinLimit = 700 * time.Millisecond
	// twinTick is how often a running node looks, twinMemory how long an alarm stands without being seen again.
	twinTick, twinMemory = 2 * time.Second, 30 * time.Second
	// twinAgain is how often an alarm is told again, to people and to the two.
	twinAgain = 10 * time.Second
)

// ErrTwin refuses to start a node whose key another live process uses: the data directory was copied. The second one never
// opens the log, or the two would vote twice.
var ErrTwin = errors.New("another machine uses this node's key")

// checkTwin looks for a live process with this node's key where this node was last, as it remembers and as the others do.
// This node's own port answers nobody yet.
func (s *Seat) checkTwin(ctx context.Context, f clusterFile) error {
	if s.o.trustTwins {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, twinLimit)
	defer cancel()
	places := map[string]bool{f.Mesh: true}
	for _, addr := range s.askWhereabouts(ctx, f) {
		places[addr] = true
	}
	delete(places, "")
	delete(places, s.mesh)
	for _, addr := range slices.Sorted(maps.Keys(places)) {
		conn, err := s.o.Mesh.Dial(ctx, s.id, addr, protocolJoin)
		if err != nil {
			continue
		}
		conn.Close()
		return fmt.Errorf("%w at %s: this data directory was copied, or the other is the copy. Give the copy an identity of its own, there, with: cvlab reset-identity",
			ErrTwin, addr)
	}
	return nil
}

// askWhereabouts asks some members where they know this node to be, and waits for the first answer.
func (s *Seat) askWhereabouts(ctx context.Context, f clusterFile) []string {
	peers := without(f.Peers, s.id)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	var places []string
	var asking sync.WaitGroup
	for _, p := range peers[:min(3, len(peers))] {
		asking.Go(func() {
			conn, err := s.o.Mesh.Dial(ctx, p.ID, p.Mesh, protocolJoin)
			if err != nil {
				return
			}
			defer conn.Close()
			a, err := ask(ctx, conn, joinRequest{Op: opRefresh})
			if err != nil || a.Status != joinOK {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, q := range a.Peers {
				if q.ID == s.id {
					places = append(places, q.Mesh)
				}
			}
			cancel()
		})
	}
	asking.Wait()
	return places
}

// twins keeps what a running node knows of keys that two machines use.
type twins struct {
	mu     sync.Mutex
	alarms map[string]twinAlarm // by node ID
	// conflicts are memberlist's hints, to be proven.
	conflicts chan conflict
}

type twinAlarm struct {
	text string
	at   time.Time
}

type conflict struct {
	id   string
	mesh [2]string
}

func newTwins() *twins {
	return &twins{alarms: map[string]twinAlarm{}, conflicts: make(chan conflict, 16)}
}

// hint never waits: it is called under memberlist's locks. What is dropped is seen again with the next exchange.
func (t *twins) hint(a, b *memberlist.Node) {
	c := conflict{id: a.Name}
	for i, n := range []*memberlist.Node{a, b} {
		var m meta
		if json.Unmarshal(n.Meta, &m) != nil {
			return
		}
		c.mesh[i] = m.Mesh
	}
	t.suspect(c)
}

func (t *twins) suspect(c conflict) {
	select {
	case t.conflicts <- c:
	default:
	}
}

// watchTwins proves hints that a second machine uses a node's key, and looks for its own by itself.
func (s *Seat) watchTwins(ctx context.Context) error {
	tick := time.NewTicker(twinTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case c := <-s.gossip.twins.conflicts:
			s.proveTwin(ctx, c)
		case <-tick.C:
			// A copy writes its own address into the registry when it is up.
			if n := s.replica.state.View().Node(s.id); n != nil && n.Mesh != s.mesh && n.Mesh != "" {
				s.proveTwin(ctx, conflict{id: s.id, mesh: [2]string{s.mesh, n.Mesh}})
			}
		}
	}
}

// proveTwin raises the alarm if two processes answer with one key. A node that has moved answers once.
func (s *Seat) proveTwin(ctx context.Context, c conflict) {
	if c.mesh[0] == c.mesh[1] {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.Tuning.RPC)
	defer cancel()
	var who [2]string
	for i, addr := range c.mesh {
		if c.id == s.id && addr == s.mesh {
			who[i] = s.instance
			continue
		}
		if who[i] = s.askWho(ctx, c.id, addr, ""); who[i] == "" {
			return
		}
	}
	if who[0] == who[1] {
		return
	}
	name := c.id
	if n := s.replica.state.View().Node(c.id); n != nil {
		name = n.Name
	}
	text := fmt.Sprintf("two machines use the key of node %s, at %s and at %s: a data directory was copied; stop the copy and run there: cvlab reset-identity", name, c.mesh[0], c.mesh[1])
	if !s.gossip.twins.raise(c.id, text, time.Now()) {
		return
	}
	s.log.Error("two machines use one key", "node", c.id, "problem", text)
	// Neither of the two hears of the other by gossip: a node's own name is nothing that others can tell it.
	for i, addr := range c.mesh {
		if c.id != s.id || addr != s.mesh {
			s.askWho(ctx, c.id, addr, c.mesh[1-i])
		}
	}
}

// askWho gives the process that answers as a node at an address, "" if none does; twin is told to it.
func (s *Seat) askWho(ctx context.Context, id, addr, twin string) string {
	conn, err := s.o.Mesh.Dial(ctx, id, addr, protocolJoin)
	if err != nil {
		return ""
	}
	defer conn.Close()
	a, err := ask(ctx, conn, joinRequest{Op: opWho, Twin: twin})
	if err != nil {
		return ""
	}
	return a.Instance
}

// raise says whether the alarm is to be told.
func (t *twins) raise(id, text string, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	old, known := t.alarms[id]
	news := !known || now.Sub(old.at) > twinAgain
	if news {
		t.alarms[id] = twinAlarm{text, now}
	}
	return news
}

// Problems says in sentences what is wrong with the cluster that somebody must look after.
func (s *Seat) Problems() []string {
	t := s.gossip.twins
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []string
	for _, id := range slices.Sorted(maps.Keys(t.alarms)) {
		if a := t.alarms[id]; time.Since(a.at) <= twinMemory {
			all = append(all, a.text)
		}
	}
	return all
}

// who answers opWho to anybody: it tells nothing but that this is one process and not another. A member may add where it
// has found a twin, which is proven before it is believed.
func (s *Seat) who(asker, twin string) joinAnswer {
	if twin != "" && s.o.Roster.IsMember(asker) {
		s.gossip.twins.suspect(conflict{id: s.id, mesh: [2]string{s.mesh, twin}})
	}
	return joinAnswer{Status: joinOK, Instance: s.instance}
}
