package cluster

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

// lines is a log that can be read while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// with gives the first line that has all these words.
func (l *lines) with(words ...string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
next:
	for line := range strings.Lines(l.text.String()) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		return line
	}
	return ""
}

// handMade sends an entry to another node as any program with a member's key may.
func handMade(t *testing.T, from, to *machine, by string, hops int, c fsm.Command) (fsm.Result, error) {
	t.Helper()
	data, err := fsm.Encode(fsm.Entry{By: by, At: time.Now(), Command: c})
	if err != nil {
		t.Fatal(err)
	}
	f := newForwarder(from.seat.forward.dial) // not the seat's own, which speaks to leaders only
	defer f.keepOnly("nobody")
	a, err := f.call(t.Context(), to.seat.ID(), forwardRequest{Op: opPropose, Hops: hops, Entry: data})
	return a.Result, err
}

// S18: whoever holds a member's key may report only about that member, and only what the facts can believe. Nothing changes
// by the rest, and the log of the leader says who tried.
func TestReportsInAnothersNameAreRefused(t *testing.T) {
	logged := &lines{}
	leader := newMachine(t, "m0")
	leader.start(func(o *Options) {
		found("lab")(o)
		o.Self = func() fsm.Node { return fsm.Node{Name: "m0", CPUSlots: 4, BootID: "boot-0"} }
		o.Logger = slog.New(slog.NewJSONHandler(logged, nil))
	})
	other := newMachine(t, "m1")
	other.start(func(o *Options) {
		joining(leader.addr, newToken(t, leader, 1))(o)
		o.Self = func() fsm.Node { return fsm.Node{Name: "m1", CPUSlots: 4, BootID: "boot-1"} }
	})
	eventually(t, "both are described", func() bool {
		n := leader.seat.State().View().Node(other.seat.ID())
		return n != nil && n.BootID == "boot-1" && other.seat.State().View().Node(other.seat.ID()) != nil
	})
	must := func(by string, c fsm.Command) fsm.Result {
		t.Helper()
		r, err := leader.seat.Propose(t.Context(), fsm.Entry{By: by, Command: c})
		if err != nil || r.Refused() {
			t.Fatalf("%s: %+v, %v", c.Kind(), r, err)
		}
		return r
	}
	attempt := func(m *machine) fsm.Token {
		t.Helper()
		id := must("ana", &fsm.Submit{Spec: fsm.Spec{Project: "p", Command: []string{"train"}, Device: fsm.Device{Kind: fsm.DeviceCPU}}}).Experiments[0]
		return must("leader", &fsm.Assign{Experiment: id, Node: m.seat.ID()}).Token
	}
	me, victim := other.seat.ID(), leader.seat.ID()
	theirs, mine, ended := attempt(leader), attempt(other), attempt(other)
	must(victim, &fsm.Start{Token: theirs, Node: victim, BootID: "boot-0"})
	for _, token := range []fsm.Token{mine, ended} {
		if r, err := handMade(t, other, leader, me, 1, &fsm.Start{Token: token, Node: me, BootID: "boot-1"}); err != nil || r.Refused() {
			t.Fatalf("its own start: %+v, %v", r, err)
		}
	}
	if r, err := handMade(t, other, leader, me, 1, &fsm.Finish{Token: ended, Node: me, Class: fsm.ClassCompleted}); err != nil || r.Refused() {
		t.Fatalf("its own end: %+v, %v", r, err)
	}
	unknown := fsm.Token{Epoch: 1, Index: 99999}
	digest := leader.seat.State().View().Digest()
	for _, c := range []struct {
		name string
		by   string
		c    fsm.Command
		code fsm.Code
	}{
		{"the end of another node's attempt, as that node", victim, &fsm.Finish{Token: theirs, Node: victim, Class: fsm.ClassCompleted}, fsm.Forbidden},
		{"the end of another node's attempt, in its own name", me, &fsm.Finish{Token: theirs, Node: victim, Class: fsm.ClassCompleted}, fsm.Forbidden},
		{"the end of another node's attempt, as its own", me, &fsm.Finish{Token: theirs, Node: me, Class: fsm.ClassCompleted}, fsm.Forbidden},
		{"its own attempt, in another's name", victim, &fsm.Finish{Token: mine, Node: me, Class: fsm.ClassCompleted}, fsm.Forbidden},
		{"a start for another node", victim, &fsm.Start{Token: theirs, Node: victim, BootID: "boot-0"}, fsm.Forbidden},
		{"a checkpoint for another node", victim, &fsm.Publish{Token: theirs, Node: victim, Seq: 1, Path: "x", Files: 1, Digest: strings.Repeat("ab", 32)}, fsm.Forbidden},
		{"an attempt that another node would run", victim, &fsm.Adopt{Token: unknown, Experiment: 1, Number: 9, Node: victim, BootID: "boot-0"}, fsm.Forbidden},
		{"another node's boot, which would end what runs there", victim, &fsm.Update{Node: fsm.Node{ID: victim, Name: "m0", BootID: "boot-9"}}, fsm.Forbidden},
		{"a start by another boot", me, &fsm.Start{Token: mine, Node: me, BootID: "boot-0"}, fsm.Conflict},
		{"a token that never was", me, &fsm.Finish{Token: unknown, Node: me, Class: fsm.ClassCompleted}, fsm.NotFound},
		{"the start of a finished attempt", me, &fsm.Start{Token: ended, Node: me, BootID: "boot-1"}, fsm.Conflict},
		{"another end of a finished attempt", me, &fsm.Finish{Token: ended, Node: me, Class: fsm.ClassUserError}, fsm.Conflict},
		{"a checkpoint of a finished attempt", me, &fsm.Publish{Token: ended, Node: me, Seq: 1, Path: "x", Files: 1, Digest: strings.Repeat("ab", 32)}, fsm.Conflict},
		{"an attempt of now as one of the past", me, &fsm.Adopt{Token: unknown, Experiment: 1, Number: 9, Node: me, BootID: "boot-1"}, fsm.Conflict},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := handMade(t, other, leader, c.by, 1, c.c)
			if err != nil || r.Code != c.code {
				t.Errorf("answered %+v, %v; want %q", r, err, c.code)
			}
			if leader.seat.State().View().Digest() != digest {
				t.Error("the facts have changed")
			}
			_, token := speaker(c.c)
			if logged.with(`"msg":"refused report"`, `"from":"`+me+`"`, `"name":"m1"`, `"report":"`+c.c.Kind()+`"`, string(c.code), token.String()) == "" {
				t.Errorf("no line of the log says who tried")
			}
		})
	}
	// One who claims to pass it on for somebody else is not believed either.
	if r, err := handMade(t, other, leader, victim, 2, &fsm.Finish{Token: theirs, Node: victim, Class: fsm.ClassCompleted}); !errors.Is(err, ErrNoLeader) {
		t.Errorf("a relayed report: %+v, %v", r, err)
	}
	if leader.seat.State().View().Digest() != digest {
		t.Error("a relayed report has changed the facts")
	}
	if r, err := handMade(t, other, leader, me, 1, &fsm.Finish{Token: mine, Node: me, Class: fsm.ClassCompleted}); err != nil || r.Refused() {
		t.Errorf("in the end its own report is taken: %+v, %v", r, err)
	}
}

// Reports are not passed on by a node that does not lead, so that the leader always sees who sends them.
func TestReportIsNotRelayed(t *testing.T) {
	all := lab(t, 3)
	waitVoters(t, all[0], 3)
	_, others := leaderOf(t, all)
	from, relay := others[0], others[1]
	c := &fsm.Update{Node: fsm.Node{ID: from.seat.ID(), Name: "renamed"}}
	if r, err := handMade(t, from, relay, from.seat.ID(), 1, c); !errors.Is(err, ErrNoLeader) || strings.Contains(err.Error(), "comes from its node itself") {
		t.Errorf("answered %+v, %v", r, err) // the second: by the leader, to whom it was passed on
	}
	// What a person asks is passed on as before.
	if r, err := handMade(t, from, relay, "ana", 1, &fsm.Drain{Node: from.seat.ID(), On: true}); err != nil || r.Refused() {
		t.Errorf("answered %+v, %v", r, err)
	}
}
