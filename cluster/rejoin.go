package cluster

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// rejoinTries bounds the lost members looked for in one tick: a lab with half its machines off stays calm.
	rejoinTries = 3
	// leaderless is how long a node waits for a leader, in heartbeats, before it asks other members who belongs to the
	// cluster. A node that was away may not know its leader as a member, or not know that it was removed itself.
	leaderless = 3
)

// keepTogether looks for lost members for ever. memberlist forgets the dead, so two halves that were cut apart longer
// than that would never find each other again by themselves.
func (s *Seat) keepTogether(ctx context.Context) error {
	s.rejoin(s.missing(), len(s.file.get().Peers)+rejoinTries)
	seen := time.Now()
	tick := time.NewTicker(s.o.Tuning.Heartbeat)
	defer tick.Stop()
	next := time.Now().Add(jitter(s.o.Tuning.Rejoin))
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := time.Now()
		if _, known := s.Leader(); known {
			seen = now
		} else if now.Sub(seen) > leaderless*s.o.Tuning.Heartbeat {
			seen = now
			if err := s.refresh(ctx); err != nil {
				return err
			}
			// A node that came back under another address believes everybody alive, and nobody finds it: the others
			// refuse its new address while they take its old self for alive. So it tells them again until they do not.
			s.rejoin(s.others(), rejoinTries)
		}
		if now.After(next) {
			next = now.Add(jitter(s.o.Tuning.Rejoin))
			s.rejoin(s.missing(), rejoinTries)
			s.gossip.health.forget(s.o.Roster.IsMember)
		}
	}
}

func jitter(d time.Duration) time.Duration { return d*3/4 + rand.N(d/2+1) }

// others lists the other members: from the registry, and from cluster.json as long as the replica is empty.
func (s *Seat) others() []peer {
	all := s.registered()
	if len(all) == 0 {
		all = s.file.get().Peers
	}
	return slices.DeleteFunc(slices.Clone(all), func(p peer) bool { return p.ID == s.id || p.Gossip == "" })
}

// missing lists the other members that gossip does not believe alive.
func (s *Seat) missing() []peer {
	return slices.DeleteFunc(s.others(), func(p peer) bool {
		m, known := s.gossip.member(p.ID)
		return known && m.alive
	})
}

func (s *Seat) rejoin(lost []peer, tries int) {
	rand.Shuffle(len(lost), func(i, j int) { lost[i], lost[j] = lost[j], lost[i] })
	for _, p := range lost[:min(tries, len(lost))] {
		// Whoever lives there now answers with all it knows; the label keeps other clusters out.
		if err := s.gossip.join(p); err != nil {
			s.log.Debug("look for lost member", "node", p.ID, "addr", p.Gossip, "error", err)
		}
	}
}

// savePeers keeps the way back to the others for the next start: until a leader is found, a starting node's replica is
// empty.
func (s *Seat) savePeers() {
	now := without(s.registered(), s.id)
	if len(now) == 0 || slices.Equal(now, s.file.get().Peers) {
		return
	}
	s.learnPeers(now)
}

func (s *Seat) learnPeers(peers []peer) {
	if err := s.file.update(func(f *clusterFile) { f.Peers = peers }); err != nil {
		s.log.Warn("save peers", "error", err)
		return
	}
	s.o.Roster.set(s.file.get())
}

// refresh asks one member after the other who belongs to the cluster, until one answers.
func (s *Seat) refresh(ctx context.Context) error {
	peers := slices.Clone(s.file.get().Peers)
	for _, p := range s.registered() {
		if !slices.ContainsFunc(peers, func(q peer) bool { return q.ID == p.ID }) {
			peers = append(peers, p)
		}
	}
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	for _, p := range peers {
		a, err := s.askMember(ctx, p.ID)
		if err != nil {
			s.log.Debug("ask member who belongs to the cluster", "node", p.ID, "error", err)
			continue
		}
		switch a.Status {
		case joinRemoved:
			return ErrRemoved
		case joinOutdated:
			return ErrOutdated
		case joinOK:
			if a.Epoch < s.file.get().Epoch {
				continue // it is the one that missed the recovery
			}
			if news := without(a.Peers, s.id); !slices.Equal(news, s.file.get().Peers) {
				s.learnPeers(news)
			}
			return nil
		}
	}
	return nil
}

func (s *Seat) askMember(ctx context.Context, id string) (joinAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.Tuning.RPC)
	defer cancel()
	if id == s.id {
		return joinAnswer{}, nil
	}
	conn, err := s.DialPeer(ctx, id, protocolJoin)
	if err != nil {
		return joinAnswer{}, err
	}
	defer conn.Close()
	return ask(ctx, conn, joinRequest{Op: opRefresh})
}
