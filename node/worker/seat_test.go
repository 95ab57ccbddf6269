package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/deveronica/cvlab/fsm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const here, elsewhere, boot = "NODEHERE", "NODEELSEWHERE", "boot-1"

var errAway = errors.New("the cluster does not answer")

// seat is a machine's seat over two replicas of one log: the leader's, which has every commit at once, and this machine's,
// which a test may hold back.
type seat struct {
	t      *testing.T
	leader *fsm.State
	own    *fsm.State

	mu      sync.Mutex
	log     [][]byte
	applied int            // entries that own has
	behind  bool           // own gets nothing new
	held    chan struct{}  // Commit waits until it is closed
	lost    int            // so many answers are lost after the commit
	away    bool           // nothing is committed
	tried   map[string]int // commits asked for, by kind
	story   *story
}

// newSeat founds a cluster of this machine with two GPUs and two CPU slots, and another one.
func newSeat(t *testing.T, s *story) *seat {
	t.Helper()
	c := &seat{t: t, leader: fsm.New(), own: fsm.New(), tried: map[string]int{}, story: s}
	c.must(&fsm.Found{Cluster: "c", Name: "lab", Node: fsm.Node{
		ID: here, Name: "here", CPUSlots: 2, GPUs: []fsm.GPU{{UUID: "GPU-0"}, {UUID: "GPU-1", Index: 1}},
	}})
	c.must(&fsm.Grant{Access: fsm.Access{ID: "j", Kind: fsm.AccessJoin, Secret: []byte("0123456789abcdef0123456789abcdef"), Uses: 1}})
	c.must(&fsm.Admit{Access: "j", Node: fsm.Node{ID: elsewhere, Name: "elsewhere", CPUSlots: 2}})
	return c
}

func (c *seat) ID() string        { return here }
func (c *seat) State() *fsm.State { return c.own }

// Commit implements Cluster.
func (c *seat) Commit(ctx context.Context, e fsm.Entry) (fsm.Result, error) {
	c.mu.Lock()
	c.tried[e.Command.Kind()]++
	held, away := c.held, c.away
	c.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
			return fsm.Result{}, ctx.Err()
		}
	}
	if away {
		return fsm.Result{}, errAway
	}
	r := c.apply(e)
	c.story.tell("%s %s", e.Command.Kind(), map[bool]string{false: "committed", true: "refused"}[r.Refused()])
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost > 0 {
		c.lost--
		return fsm.Result{}, errors.New("the answer was lost")
	}
	return r, nil
}

func (c *seat) apply(e fsm.Entry) fsm.Result {
	data, err := fsm.Encode(e)
	if err != nil {
		panic(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log = append(c.log, data)
	r, err := c.leader.Apply(uint64(len(c.log)), data)
	if err != nil {
		panic(err)
	}
	if !c.behind {
		c.followLocked()
	}
	return r
}

func (c *seat) followLocked() {
	for ; c.applied < len(c.log); c.applied++ {
		if _, err := c.own.Apply(uint64(c.applied+1), c.log[c.applied]); err != nil {
			panic(err)
		}
	}
}

// lag holds this machine's own replica back; follow lets it have everything again.
func (c *seat) lag() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.behind = true
}

func (c *seat) follow() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.behind = false
	c.followLocked()
}

// hold keeps the machine's commits back until release is called.
func (c *seat) hold() (release func()) {
	held := make(chan struct{})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = held
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.held = nil
		close(held)
	})
}

func (c *seat) setAway(away bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away = away
}

func (c *seat) loseAnswers(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = n
}

func (c *seat) triedTimes(kind string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tried[kind]
}

// must commits something that somebody else proposes.
func (c *seat) must(command fsm.Command) fsm.Result {
	c.t.Helper()
	r := c.apply(fsm.Entry{By: "ana", At: time.Now().UTC(), Command: command})
	if r.Refused() {
		c.t.Fatalf("%s refused: %s", command.Kind(), r.Message)
	}
	return r
}

func command() fsm.Spec {
	return fsm.Spec{Project: "p", Command: []string{"train"}, Device: fsm.Device{Kind: fsm.DeviceCPU}}
}

// assign submits one experiment and assigns it to this machine.
func (c *seat) assign(s fsm.Spec, gpus ...string) Order {
	c.t.Helper()
	id := c.must(&fsm.Submit{Spec: s}).Experiments[0]
	return c.assignAgain(id, gpus...)
}

func (c *seat) assignAgain(id uint64, gpus ...string) Order {
	c.t.Helper()
	return c.order(c.must(&fsm.Assign{Experiment: id, Node: here, GPUs: gpus}).Token)
}

// assignLeased is assign with a lease for the attempt.
func (c *seat) assignLeased(lease time.Duration) Order {
	c.t.Helper()
	id := c.must(&fsm.Submit{Spec: command()}).Experiments[0]
	return c.order(c.must(&fsm.Assign{Experiment: id, Node: here, Lease: fsm.Duration(lease)}).Token)
}

// order is the attempt as the leader knows it now.
func (c *seat) order(token fsm.Token) Order {
	v := c.leader.View()
	a := v.Attempt(token)
	e := v.Experiment(a.Experiment)
	return Order{Attempt: *a, Experiment: *e, Spec: *v.Spec(e)}
}

func (c *seat) experiment(id uint64) *fsm.Experiment { return c.leader.View().Experiment(id) }

// story is what happened, in order.
type story struct {
	mu    sync.Mutex
	lines []string
	slept time.Duration // what the machine's clock has and its timers have not
}

// boottime is the machine's clock of leases.
func (s *story) boottime() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Duration(time.Now().UnixNano()%int64(1e18)) + s.slept
}

// sleep suspends the machine.
func (s *story) sleep(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slept += d
}

func (s *story) tell(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, fmt.Sprintf(format, args...))
}

func (s *story) told() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.lines...)
}
