package fsm_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deveronica/cvlab/fsm"
)

func TestIdempotencyKeys(t *testing.T) {
	two, three := &fsm.Submit{Spec: sweep(2)}, &fsm.Submit{Spec: sweep(3)}
	for _, c := range []struct {
		name  string
		again fsm.Entry
		code  fsm.Code
		made  int // experiments there are afterwards
		same  bool
	}{
		{"same key, same request", fsm.Entry{By: "ana", Key: "k", Command: two}, fsm.OK, 2, true},
		{"same key, other body", fsm.Entry{By: "ana", Key: "k", Command: three}, fsm.Conflict, 2, false},
		{"same key, other kind", fsm.Entry{By: "ana", Key: "k", Command: &fsm.Cancel{Experiments: []uint64{1}}}, fsm.Conflict, 2, false},
		{"same key, other user", fsm.Entry{By: "bob", Key: "k", Command: two}, fsm.OK, 4, false},
		{"a user and a key that run together alike", fsm.Entry{By: "an", Key: "ak", Command: two}, fsm.OK, 4, false},
		{"other key", fsm.Entry{By: "ana", Key: "k2", Command: two}, fsm.OK, 4, false},
		{"no key", fsm.Entry{By: "ana", Command: two}, fsm.OK, 4, false},
	} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restart %t", c.name, restart), func(t *testing.T) {
				l := foundedLab(t)
				first := l.apply(fsm.Entry{By: "ana", Key: "k", Command: two})
				l.do(&fsm.Drain{Node: "a"}) // the log goes on in between
				if restart {
					l.state = restored(t, snapshot(t, l.state))
				}
				got := l.apply(c.again)
				if got.Code != c.code {
					t.Errorf("answers %+v, want %s", got, c.code)
				}
				if diff := cmp.Diff(first, got); (diff == "") != c.same {
					t.Errorf("same answer: %t, want %t\n%s", diff == "", c.same, diff)
				}
				made := 0
				for range l.state.View().Experiments() {
					made++
				}
				if made != c.made {
					t.Errorf("%d experiments, want %d", made, c.made)
				}
			})
		}
	}
}

// A key is kept for a week, and forgotten some time after: the table must not grow for ever.
func TestKeysExpire(t *testing.T) {
	l := foundedLab(t)
	send := func(key string, times int) fsm.Result {
		return l.apply(fsm.Entry{By: "ana", Key: key, Command: &fsm.Submit{Spec: sweep(times)}})
	}
	for i := range 5 {
		send(fmt.Sprintf("old-%d", i), 1)
	}
	l.now = l.now.Add(7*24*time.Hour - time.Second)
	send("new-0", 1)
	if r := send("old-0", 2); r.Code != fsm.Conflict {
		t.Errorf("within the week another request under the key gives %+v", r)
	}
	l.now = l.now.Add(2 * time.Second)
	send("new-1", 1)
	send("new-2", 1)
	for i := range 5 {
		if r := send(fmt.Sprintf("old-%d", i), 2); r.Code != fsm.OK {
			t.Errorf("a week later, key %d is still known: %+v", i, r)
		}
	}
	if r := send("new-0", 2); r.Code != fsm.Conflict {
		t.Errorf("a younger key was forgotten: %+v", r)
	}
}

// 200,000 keys at most: the 200,001st costs the oldest its place, within the same entry. The table is made to believe that
// it is that full.
func TestKeysAreFew(t *testing.T) {
	l := foundedLab(t)
	send := func(key string, on bool) fsm.Result {
		return l.apply(fsm.Entry{By: "ana", Key: key, Command: &fsm.Drain{Node: "a", On: on}})
	}
	for _, key := range []string{"1", "2", "3"} {
		send(key, true)
	}
	lines := strings.SplitAfter(string(snapshot(t, l.state)), "\n")
	if !strings.Contains(lines[1], `"keys":3}`) {
		t.Fatalf("the second line does not count the keys: %s", lines[1])
	}
	lines[1] = strings.Replace(lines[1], `"keys":3}`, `"keys":200000}`, 1)
	l.state = restored(t, sealed(lines[:len(lines)-2]))
	if r := send("1", false); r.Code != fsm.Conflict {
		t.Errorf("the first of 200,000 keys is forgotten: %+v", r)
	}
	send("one more", true)
	if r := send("2", false); r.Code != fsm.Conflict {
		t.Errorf("the second of 200,001 keys is forgotten: %+v", r)
	}
	if r := send("1", false); r.Code != fsm.OK {
		t.Errorf("the first of 200,001 keys is still known: %+v", r)
	}
}
