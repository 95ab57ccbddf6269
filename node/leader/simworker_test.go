package leader

import (
	"fmt"
	"time"

	"github.com/deveronica/cvlab/executor/supervisor"
	"github.com/deveronica/cvlab/fsm"
)

// take is the worker with a new attempt: record, Start, launch.
func (s *sim) take(t *try) {
	t.held, t.start = true, s.since(t.node)
	s.askStart(t)
}

func (s *sim) askStart(t *try) {
	if t.launched || t.revoked {
		return
	}
	// Start goes to whoever leads, and is repeated until it was answered: both ways may fail.
	if s.majority(t.node) && s.chance(0.9) {
		s.after(s.delay(), -1, func() {
			if !s.majority(s.leader) {
				return
			}
			s.index++
			if t.closed > 0 {
				return // refused: it is dropped
			}
			if t.started == 0 {
				t.started = s.index
			}
			if s.majority(t.node) && s.chance(0.9) {
				s.after(s.delay(), t.node, func() { s.launch(t) })
			}
		})
	}
	s.after(s.upTo(10*time.Second), t.node, func() { s.askStart(t) })
}

// launch is Worker.mayLaunch, rule R3, and the supervisor's own look at its lease.
func (s *sim) launch(t *try) {
	if t.launched || t.revoked {
		return
	}
	l := supervisor.NewLease(simF, t.start, "")
	busy := false
	for _, o := range s.tries {
		busy = busy || o != t && o.node == t.node && o.launched && !o.revoked
	}
	if busy || l.Over(s.since(t.node)) {
		s.after(s.upTo(5*time.Second), t.node, func() { s.launch(t) })
		return
	}
	t.launched, t.lease = true, l
	s.execute(t)
	s.watch(t)
}

func (s *sim) execute(t *try) {
	t.executes = true
	for _, o := range s.tries {
		if o != t && o.executes {
			s.overlap = fmt.Sprintf("at %s attempts %s on n%d and %s on n%d both execute", s.now, o.token, o.node, t.token, t.node)
		}
	}
}

// watch is the supervisor, which needs no daemon: at the end of the lease the job stops within K.
func (s *sim) watch(t *try) {
	left := time.Duration(float64(t.lease.End()-s.since(t.node))/s.nodes[t.node].rate) + time.Millisecond
	s.after(max(left, 0), -1, func() {
		if t.revoked || t.lease.Frozen() {
			return
		}
		if t.lease.Step(s.since(t.node)) == supervisor.LeaseFreeze {
			t.stopping++
			mine := t.stopping
			s.after(s.upTo(simK), -1, func() {
				if t.stopping == mine {
					t.executes = false
				}
			})
		}
	})
}

// renew is the worker's loop on one machine.
func (s *sim) renew(i int) {
	s.after(simRenew, i, func() { s.renew(i) })
	var tokens []fsm.Token
	for _, t := range s.tries {
		if t.node == i && t.held && !t.revoked {
			tokens = append(tokens, t.token)
		}
	}
	if len(tokens) == 0 {
		return
	}
	sent, to := s.since(i), s.nodes[i].leader
	if s.chance(0.2) {
		to = s.IntN(simNodes) // a relay knows another leader
	}
	s.send(i, to, func() { s.question(i, to, tokens, sent) })
}

// question is Leader.Renew.
func (s *sim) question(from, at int, tokens []fsm.Token, sent time.Duration) {
	r, term := s.nodes[at].reign, s.nodes[at].term
	if r == nil {
		return
	}
	r.heard(s.name(from), s.mono(at))
	answer := func(view uint64) {
		current := s.reignAt(view)
		if s.noReign {
			current = r.index
		}
		verdict := r.answer(s.name(from), tokens, current, func(token fsm.Token) *fsm.Attempt {
			for _, t := range s.tries {
				if t.token == token {
					return s.attempt(t, view)
				}
			}
			return nil
		})
		s.send(at, from, func() { s.answered(verdict.Valid, verdict.Revoked, sent) })
	}
	if s.noCommit {
		answer(s.sees(at))
		return
	}
	// A barrier is offered to whoever leads, too.
	s.commit(at, term, s.chance(0.3), func(ok bool) {
		if view := s.index; ok {
			s.after(s.delay()/10, at, func() { answer(view) })
		}
	})
}

func (s *sim) answered(valid, revoked []fsm.Token, sent time.Duration) {
	for _, t := range s.tries {
		now := s.since(t.node)
		if s.noSent {
			sent = now
		}
		for _, v := range valid {
			if v != t.token || t.revoked {
				continue
			}
			t.start = max(t.start, sent)
			if t.launched && t.lease.Step(now) == supervisor.LeaseFreeze {
				t.executes = false
			}
			if t.launched && t.lease.Renew(sent, now) {
				t.stopping++
				s.execute(t)
			}
			if t.launched && !t.lease.Frozen() {
				s.watch(t)
			}
		}
		for _, v := range revoked {
			if v == t.token {
				t.revoked, t.executes = true, false
			}
		}
	}
}
