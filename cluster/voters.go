package cluster

import (
	"cmp"
	"slices"
	"time"
)

// maxVoters: five bear the loss of two; more only make every commit wait for more disks.
const maxVoters = 5

// caughtUp is how many entries a node may be behind and still become a voter.
const caughtUp = 500

// wantedVoters is V(n): 1, 1, 3, 3, 5, 5 … of n members. Never two, since with two the loss of either stops writes; never
// an even number, since the last one adds a machine that may fail and no failure that may be borne.
func wantedVoters(n int) int {
	if n < 1 {
		return 1
	}
	return min(n-(n+1)%2, maxVoters)
}

// standing is one server or member as the leader sees it.
type standing struct {
	ID       string
	Member   bool // registered and not removed
	Server   bool // in the consensus at all
	Voter    bool
	Leader   bool
	Alive    bool
	Away     time.Duration // how long it has not been alive; 0 if it is
	Steady   time.Duration // how long it has been alive and caught up; 0 if it is not
	Replaced bool          // another member proved to live at its address; it will not come back there
	Leaving  bool          // it asked to be let go, or somebody asks to remove it
}

// parts says whether a server is to lose its part in the consensus: it leaves, or is no member any more.
func (s standing) parts() bool { return s.Leaving || !s.Member }

// stands says whether a server votes and is to go on doing so.
func (s standing) stands() bool { return s.Voter && !s.parts() }

// change is one step of the consensus' membership.
type change struct {
	Do string
	ID string
}

// What a change does.
const (
	addNonvoter  = "add non-voter"
	promote      = "promote"
	demote       = "demote"
	removeServer = "remove"
	handOff      = "hand over leadership"
)

// voterRule are the times the rule goes by.
type voterRule struct {
	Steady time.Duration // before a node may vote
	Away   time.Duration // before a voter is replaced
}

// chooseVoters decides the next changes, to be made in order and stopped at the first that fails. It replaces and never
// shrinks: a voter that is away keeps its vote until a stand-by has taken over. Nothing is chosen after which the voters
// that are alive would be no majority: such a change could never be committed, nor anything after it.
func (r voterRule) chooseVoters(all []standing) []change {
	all = slices.SortedFunc(slices.Values(all), func(a, b standing) int { return cmp.Compare(a.ID, b.ID) })
	if c := removals(all); c != nil {
		return c
	}
	if c := additions(all); c != nil {
		return c
	}
	members, votes, parting := 0, 0, false
	var standby []standing
	for _, s := range all {
		switch {
		case s.Voter:
			votes++
			parting = parting || s.parts()
		case s.Server && s.Alive && s.Steady >= r.Steady && !s.parts():
			standby = append(standby, s)
		}
		if s.Member && !s.Leaving {
			members++
		}
	}
	// Longest steady first, so that a machine that comes and goes is chosen last.
	slices.SortStableFunc(standby, func(a, b standing) int { return cmp.Compare(b.Steady, a.Steady) })
	want := wantedVoters(members)
	var options [][]change
	switch {
	case parting:
		options = partings(all, standby, votes, want)
	case votes%2 == 0 || votes < want:
		options = [][]change{r.grow(votes, want, all, standby)}
	case votes > want:
		options = [][]change{demotions(all, 2)}
	default:
		options = [][]change{r.replacement(all, standby)}
	}
	for _, c := range options {
		if bearable(all, c) {
			return c
		}
	}
	return nil
}

// bearable says whether after each of the changes the voters that are alive are a majority.
func bearable(all []standing, changes []change) bool {
	votes, alive := map[string]bool{}, map[string]bool{}
	for _, s := range all {
		alive[s.ID] = s.Alive
		if s.Voter {
			votes[s.ID] = true
		}
	}
	for _, c := range changes {
		switch c.Do {
		case promote:
			votes[c.ID] = true
		case demote:
			delete(votes, c.ID)
		}
		answer := 0
		for id := range votes {
			if alive[id] {
				answer++
			}
		}
		if 2*answer <= len(votes) {
			return false
		}
	}
	return true
}

// removals takes servers without a vote out that are no members any more. One with a vote loses that first.
func removals(all []standing) []change {
	for _, s := range all {
		if !s.Member && s.Server && !s.Voter {
			return []change{{removeServer, s.ID}}
		}
	}
	return nil
}

// additions let every member follow the log. A non-voter cannot harm: its silence stops no commit.
func additions(all []standing) []change {
	var c []change
	for _, s := range all {
		if s.Member && !s.Server {
			c = append(c, change{addNonvoter, s.ID})
		}
	}
	return c
}

// partings are the ways in which a voter can go, the best first. A leader hands over before; where nobody else votes, a
// stand-by gets a vote for that. The number of votes stays odd: a stand-by comes in the place of the one that goes, or
// another one goes too.
func partings(all, standby []standing, votes, want int) [][]change {
	goes := all[slices.IndexFunc(all, func(s standing) bool { return s.Voter && s.parts() })]
	if lead := slices.IndexFunc(all, func(s standing) bool { return s.Leader }); lead >= 0 && all[lead].parts() {
		return succession(all, standby)
	}
	alone := []change{{demote, goes.ID}}
	if votes%2 == 0 {
		return [][]change{alone}
	}
	if len(standby) > 0 && votes-1 < want {
		return [][]change{{{promote, standby[0].ID}, {demote, goes.ID}}}
	}
	rest := slices.DeleteFunc(slices.Clone(all), func(s standing) bool { return s.ID == goes.ID })
	also := demotions(rest, 1)
	return [][]change{append(slices.Clone(alone), also...), append(slices.Clone(also), alone...)}
}

// succession makes another one the leader: a voter that is alive, the longest steady, else a stand-by.
func succession(all, standby []standing) [][]change {
	var heir *standing
	for i, s := range all {
		if s.stands() && s.Alive && !s.Leader && (heir == nil || s.Steady > heir.Steady) {
			heir = &all[i]
		}
	}
	switch {
	case heir != nil:
		return [][]change{{{handOff, heir.ID}}}
	case len(standby) > 0:
		return [][]change{{{promote, standby[0].ID}, {handOff, standby[0].ID}}}
	}
	return nil
}

// grow brings the number of voters up to the wanted one in steps that end at an odd number: two at a time, or one where
// an interrupted step left an even number behind. An even number that cannot grow gives one vote back.
func (r voterRule) grow(votes, want int, all, standby []standing) []change {
	need := 1 + votes%2
	if votes < want && len(standby) >= need {
		var c []change
		for _, s := range standby[:need] {
			c = append(c, change{promote, s.ID})
		}
		return c
	}
	if votes%2 == 0 {
		return demotions(all, 1)
	}
	return r.replacement(all, standby)
}

// demotions takes the votes of so many that do not lead: of those who leave, then of those longest away, else of those
// steady for the shortest time.
func demotions(all []standing, n int) []change {
	voters := slices.DeleteFunc(slices.Clone(all), func(s standing) bool { return !s.Voter || s.Leader })
	slices.SortStableFunc(voters, func(a, b standing) int {
		return cmp.Or(-cmpBool(a.parts(), b.parts()), cmp.Compare(b.Away, a.Away), cmp.Compare(a.Steady, b.Steady))
	})
	var c []change
	for _, s := range voters[:min(n, len(voters))] {
		c = append(c, change{demote, s.ID})
	}
	return c
}

// cmpBool orders false before true.
func cmpBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// replacement gives the vote of one that is away for too long to a stand-by.
func (r voterRule) replacement(all, standby []standing) []change {
	if len(standby) == 0 {
		return nil
	}
	for _, s := range all {
		if s.Voter && !s.Leader && !s.Alive && (s.Away >= r.Away || s.Replaced) {
			return []change{{promote, standby[0].ID}, {demote, s.ID}}
		}
	}
	return nil
}
