package cluster

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestWantedVoters(t *testing.T) {
	want := []int{1, 1, 1, 3, 3, 5, 5, 5, 5}
	for n, w := range want {
		if got := wantedVoters(n); got != w {
			t.Errorf("V(%d) = %d, want %d", n, got, w)
		}
	}
	if got := wantedVoters(100); got != 5 {
		t.Errorf("V(100) = %d, want 5", got)
	}
}

// TestChooseVoters reads stories: a title, one machine a line, "->", and the changes that must come out. A machine is
// its ID and words: member, server, voter, leader, steady=D, away=D, replaced, leaving. Without away it is alive.
func TestChooseVoters(t *testing.T) {
	files, err := filepath.Glob("testdata/voters/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, file := range files {
		for _, s := range readStories(t, file) {
			t.Run(s.title, func(t *testing.T) {
				rule := voterRule{Steady: 2 * time.Second, Away: time.Minute}
				var got []string
				for _, c := range rule.chooseVoters(s.all) {
					got = append(got, c.Do+" "+c.ID)
				}
				if diff := cmp.Diff(got, s.want); diff != "" {
					t.Errorf("got (-) want (+):\n%s", diff)
				}
			})
		}
	}
}

type story struct {
	title string
	all   []standing
	want  []string
}

func readStories(t *testing.T, file string) []story {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var stories []story
	for in := bufio.NewScanner(f); in.Scan(); {
		line := strings.TrimSpace(in.Text())
		if title, ok := strings.CutPrefix(line, "# "); ok {
			stories = append(stories, story{title: title})
			continue
		}
		if line == "" {
			continue
		}
		s := &stories[len(stories)-1]
		if outcome, ok := strings.CutPrefix(line, "->"); ok {
			if outcome = strings.TrimSpace(outcome); outcome != "" {
				s.want = append(s.want, outcome)
			}
			continue
		}
		st, err := parseStanding(line)
		if err != nil {
			t.Fatalf("%s: %q: %v", file, line, err)
		}
		s.all = append(s.all, st)
	}
	return stories
}

func parseStanding(line string) (standing, error) {
	words := strings.Fields(line)
	s := standing{ID: words[0], Alive: true}
	for _, w := range words[1:] {
		name, value, _ := strings.Cut(w, "=")
		var d time.Duration
		if value != "" {
			var err error
			if d, err = time.ParseDuration(value); err != nil {
				return s, err
			}
		}
		switch name {
		case "member":
			s.Member = true
		case "server":
			s.Server = true
		case "voter":
			s.Server, s.Voter = true, true
		case "leader":
			s.Server, s.Voter, s.Leader = true, true, true
		case "steady":
			s.Steady = d
		case "away":
			s.Alive, s.Away = false, d
		case "replaced":
			s.Replaced = true
		case "leaving":
			s.Leaving = true
		default:
			return s, fmt.Errorf("word %q", w)
		}
	}
	return s, nil
}

// Whatever the changes, carried out one after the other they settle, and never at two voters or at none.
func TestChooseVotersSettles(t *testing.T) {
	rule := voterRule{Steady: 2 * time.Second, Away: time.Minute}
	for n := 1; n <= 9; n++ {
		for deadMask := range 1 << (n - 1) {
			all := make([]standing, n)
			for i := range all {
				all[i] = standing{ID: fmt.Sprint(i), Member: true, Server: i == 0, Voter: i == 0, Leader: i == 0, Alive: true, Steady: time.Hour}
				if i > 0 && deadMask>>(i-1)&1 == 1 {
					all[i].Alive, all[i].Steady, all[i].Away = false, 0, time.Hour
				}
			}
			rounds := 0
			for ; rounds < 50; rounds++ {
				changes := rule.chooseVoters(all)
				if len(changes) == 0 {
					break
				}
				for _, c := range changes {
					perform(all, c)
				}
				if v := countVoters(all); v%2 == 0 {
					t.Fatalf("%d machines, dead %b: a round ends at %d voters", n, deadMask, v)
				}
			}
			if rounds == 50 {
				t.Fatalf("%d machines, dead %b: never settles", n, deadMask)
			}
		}
	}
}

func perform(all []standing, c change) {
	for i := range all {
		if all[i].ID != c.ID {
			continue
		}
		switch c.Do {
		case addNonvoter:
			all[i].Server = true
		case promote:
			all[i].Server, all[i].Voter = true, true
		case demote:
			all[i].Voter = false
		case removeServer:
			all[i].Server, all[i].Voter = false, false
		}
	}
}

func countVoters(all []standing) int {
	n := 0
	for _, s := range all {
		if s.Voter {
			n++
		}
	}
	return n
}

func TestTheLineOfSuccessors(t *testing.T) {
	for _, c := range []struct {
		id   string
		turn int
		ok   bool
	}{{"a", 0, true}, {"c", 1, true}, {"e", 2, true}, {"b", 0, false}, {"x", 0, false}} {
		turn, ok := turnOf(c.id, "b", []string{"e", "a", "b", "c"})
		if ok != c.ok || ok && turn != c.turn {
			t.Errorf("turn of %s: %d, %v; want %d, %v", c.id, turn, ok, c.turn, c.ok)
		}
	}
}
