package leader

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/deveronica/cvlab/executor/supervisor"
	"github.com/deveronica/cvlab/fsm"
)

// The simulation runs the two cores of the lease protocol, reign here and supervisor.Lease there, on five machines against
// everything that may go wrong between them: leaders that change, are cut off with others or stand still for minutes and
// wake up as leaders of the past; messages that are lost, doubled, or arrive when all have forgotten them; proposals that
// somebody else offers again; clocks of machines that differ by a hundredth. Consensus itself is assumed (A1): one log, and an
// entry enters it only through the newest leader, with a majority. One experiment runs and never ends.
//
// The property: no two attempts execute at the same moment. The rules that carry it can be switched off one by one, and then
// the simulation must find two that do, or it would prove nothing.

// rules are switched off by name.
type rules struct {
	noCommit bool // R4: answer from the own view, without an entry that is younger than the question
	noMark   bool // R5: do not mark what is being expired
	noReign  bool // the log takes an Expire of an older reign, and old reigns answer
	noSent   bool // R6: count a lease from the answer instead of from the question
	noWait   bool // R5: expire when the lease is over here, without the margins
}

const (
	simF      = 300 * time.Second
	simK      = 20 * time.Second
	simRenew  = 30 * time.Second
	simTick   = 7 * time.Second
	simLength = 4000 * time.Second
	simNodes  = 5
)

type event struct {
	at   time.Duration
	seq  int
	node int // whose daemon does it; -1: nobody's, it happens
	do   func()
}

type agenda []event

func (a agenda) Len() int { return len(a) }
func (a agenda) Less(i, j int) bool {
	return a[i].at < a[j].at || a[i].at == a[j].at && a[i].seq < a[j].seq
}
func (a agenda) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)   { *a = append(*a, x.(event)) }
func (a *agenda) Pop() any {
	old := *a
	e := old[len(old)-1]
	*a = old[:len(old)-1]
	return e
}

// try is one attempt: its life in the log, by index, and its life on its machine.
type try struct {
	token                     fsm.Token
	node                      int
	assigned, started, closed uint64

	held     bool // in the worker's hands: renewed
	start    time.Duration
	launched bool // a supervisor stands over it
	revoked  bool
	executes bool
	stopping int // the number of the freeze that is under way
	lease    supervisor.Lease
}

type simNode struct {
	rate   float64 // of its clocks
	boot   time.Duration
	group  int
	until  time.Duration // its daemon stands still until then
	term   int           // it believes that it leads this one; 0: none
	view   uint64        // its replica, if it does not lead really
	reign  *reign
	leader int // whom it takes for the leader
}

type sim struct {
	rules
	*rand.Rand
	now     time.Duration
	seq     int
	agenda  agenda
	nodes   [simNodes]*simNode
	term    int
	leader  int
	index   uint64
	reigns  []uint64
	tries   []*try
	split   int
	overlap string
}

func newSim(seed uint64, r rules) *sim {
	s := &sim{rules: r, Rand: rand.New(rand.NewPCG(seed, 1)), leader: -1}
	for i := range s.nodes {
		s.nodes[i] = &simNode{rate: 0.99 + 0.02*s.Float64(), boot: s.upTo(1000 * time.Second)}
	}
	return s
}

func (s *sim) upTo(d time.Duration) time.Duration { return time.Duration(s.Float64() * float64(d)) }
func (s *sim) chance(p float64) bool              { return s.Float64() < p }
func (s *sim) name(i int) string                  { return fmt.Sprintf("n%d", i) }

func (s *sim) after(d time.Duration, node int, do func()) {
	s.seq++
	heap.Push(&s.agenda, event{s.now + d, s.seq, node, do})
}

// mono is the leader's clock and since the worker's, of one machine.
func (s *sim) mono(i int) time.Time {
	return time.Unix(0, 0).Add(time.Duration(float64(s.now) * s.nodes[i].rate))
}

func (s *sim) since(i int) time.Duration {
	return s.nodes[i].boot + time.Duration(float64(s.now)*s.nodes[i].rate)
}

// delay is of one message or commit: mostly short, seldom so long that all have forgotten it.
func (s *sim) delay() time.Duration {
	switch {
	case s.chance(0.03):
		return s.upTo(2 * simF)
	case s.chance(0.25):
		return s.upTo(10 * time.Second)
	}
	return s.upTo(time.Second)
}

// send lets do happen at another machine, perhaps, perhaps twice.
func (s *sim) send(from, to int, do func()) {
	for range 1 + map[bool]int{true: 1}[s.chance(0.03)] {
		if s.nodes[from].group == s.nodes[to].group && !s.chance(0.05) {
			s.after(s.delay(), to, do)
		}
	}
}

func (s *sim) run() string {
	s.elect()
	s.after(s.upTo(simF), -1, s.disturb)
	for i := range s.nodes {
		s.after(s.upTo(simRenew), i, func() { s.renew(i) })
	}
	for len(s.agenda) > 0 && s.overlap == "" {
		e := heap.Pop(&s.agenda).(event)
		if e.at > simLength {
			break
		}
		s.now = e.at
		if e.node >= 0 && s.nodes[e.node].until > s.now {
			s.after(s.nodes[e.node].until-s.now+s.upTo(time.Second), e.node, e.do)
			continue
		}
		e.do()
	}
	return s.overlap
}

// disturb is one thing that goes wrong, and the next one later.
func (s *sim) disturb() {
	switch s.IntN(4) {
	case 0, 1: // the net falls into two parts, the leader perhaps in the smaller one
		s.split++
		mine := s.split
		for range 1 + s.IntN(2) {
			s.nodes[s.IntN(simNodes)].group = s.split
		}
		if s.chance(0.5) {
			s.nodes[s.leader].group = s.split
		}
		s.after(s.upTo(3*simF), -1, func() {
			if s.split == mine {
				for _, n := range s.nodes {
					n.group = 0
				}
			}
		})
	case 2: // a daemon stands still
		i := s.IntN(simNodes)
		if s.chance(0.5) {
			i = s.leader
		}
		s.nodes[i].until = s.now + s.upTo(2*simF)
	case 3:
		s.elect()
	}
	if !s.majority(s.leader) || s.nodes[s.leader].until > s.now {
		s.after(time.Second+s.upTo(3*time.Second), -1, s.elect)
	}
	s.after(s.upTo(2*simF), -1, s.disturb)
}

func (s *sim) majority(i int) bool {
	n := 0
	for _, o := range s.nodes {
		if o.group == s.nodes[i].group {
			n++
		}
	}
	return n > simNodes/2
}

// elect makes another machine the leader if a majority can. The old one hears of it late, or when the net is whole again.
func (s *sim) elect() {
	if s.leader >= 0 && s.chance(0.3) && s.majority(s.leader) && s.nodes[s.leader].until <= s.now {
		return
	}
	i := s.IntN(simNodes)
	if !s.majority(i) || s.nodes[i].until > s.now || i == s.leader {
		s.after(s.upTo(3*time.Second), -1, s.elect)
		return
	}
	if s.leader >= 0 {
		s.nodes[s.leader].view = s.index
		s.learn(s.leader, s.nodes[s.leader].term)
	}
	s.term++
	s.leader = i
	s.nodes[i].term, s.nodes[i].reign = s.term, nil
	for j := range s.nodes {
		s.after(s.upTo(5*time.Second), j, func() {
			if s.nodes[j].group == s.nodes[i].group {
				s.nodes[j].leader = i
			}
		})
	}
	s.begin(i, s.term)
}

// learn ends a leadership at the one who has it, when it can hear of it.
func (s *sim) learn(i, term int) {
	s.after(s.upTo(5*time.Second), i, func() {
		switch n := s.nodes[i]; {
		case n.term != term:
		case s.nodes[s.leader].group != n.group:
			s.learn(i, term)
		default:
			n.term, n.reign = 0, nil
		}
	})
}

// commit appends an entry for the leader of a term; late is for what is offered again by whoever leads then.
func (s *sim) commit(i, term int, late bool, do func(ok bool)) {
	s.after(s.delay(), -1, func() {
		ok := s.term == term && s.majority(i) || late && s.majority(s.leader)
		if ok {
			s.index++
		}
		do(ok)
	})
}

func (s *sim) begin(i, term int) {
	s.commit(i, term, false, func(ok bool) {
		if !ok {
			if s.nodes[i].term == term {
				s.after(time.Second, i, func() { s.begin(i, term) })
			}
			return
		}
		index := s.index
		s.reigns = append(s.reigns, index)
		s.after(s.upTo(time.Second), i, func() {
			if s.nodes[i].term == term {
				s.nodes[i].reign = newReign(index, LeaseTimes{Length: simF, Margin: simK}, s.mono(i))
				if s.noWait {
					s.nodes[i].reign.times.Margin = -slack - simF/50
				}
				s.tick(i, s.nodes[i].reign, term)
			}
		})
	})
}

// sees gives how much of the log a machine's replica has.
func (s *sim) sees(i int) uint64 {
	if i == s.leader && s.nodes[i].term == s.term {
		return s.index
	}
	return s.nodes[i].view
}

// attempt is an attempt as of a log index.
func (s *sim) attempt(t *try, at uint64) *fsm.Attempt {
	a := &fsm.Attempt{Token: t.token, Node: s.name(t.node), State: fsm.AttemptAssigned, Lease: fsm.Duration(simF)}
	switch {
	case t.assigned > at:
		return nil
	case t.closed > 0 && t.closed <= at:
		a.State = fsm.AttemptEnded
	case t.started > 0 && t.started <= at:
		a.State = fsm.AttemptStarted
	}
	return a
}

func (s *sim) reignAt(at uint64) uint64 {
	newest := uint64(0)
	for _, r := range s.reigns {
		if r <= at {
			newest = max(newest, r)
		}
	}
	return newest
}

// tick is the leader's loop: expire what is overdue, assign what waits.
func (s *sim) tick(i int, r *reign, term int) {
	if s.nodes[i].reign != r || s.reignAt(s.sees(i)) > r.index && !s.noReign {
		return
	}
	var open []*fsm.Attempt
	for _, t := range s.tries {
		if a := s.attempt(t, s.sees(i)); a != nil && a.Open() {
			open = append(open, a)
		}
	}
	for _, c := range r.overdue(open, s.mono(i)) {
		s.commit(i, term, true, func(ok bool) {
			if ok {
				s.expire(c)
			}
		})
	}
	if s.noMark {
		clear(r.revoking)
	}
	for _, a := range open {
		if a.State == fsm.AttemptAssigned && s.chance(0.1) { // its node was silent for seconds
			s.commit(i, term, true, func(ok bool) {
				if ok {
					s.withdraw(a.Token)
				}
			})
		}
	}
	if len(open) == 0 {
		s.commit(i, term, true, func(ok bool) {
			if ok {
				s.assign()
			}
		})
	}
	s.after(simTick, i, func() { s.tick(i, r, term) })
}

// expire, withdraw and assign are the state machine's.
func (s *sim) expire(c *fsm.Expire) {
	for _, t := range s.tries {
		if t.token == c.Token && t.closed == 0 && t.started > 0 && (c.Reign == s.reignAt(s.index) || s.noReign) {
			t.closed = s.index
		}
	}
}

func (s *sim) withdraw(token fsm.Token) {
	for _, t := range s.tries {
		if t.token == token && t.closed == 0 && t.started == 0 {
			t.closed = s.index
		}
	}
}

func (s *sim) assign() {
	if n := len(s.tries); n > 0 && s.tries[n-1].closed == 0 {
		return
	}
	t := &try{token: fsm.Token{Epoch: 1, Index: s.index}, node: s.IntN(simNodes), assigned: s.index}
	s.tries = append(s.tries, t)
	s.after(s.delay(), t.node, func() { s.take(t) })
}
