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
}

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
// shrinks: a voter that is away keeps its vote until a stand-by has taken over.
func (r voterRule) chooseVoters(all []standing) []change {
	all = slices.SortedFunc(slices.Values(all), func(a, b standing) int { return cmp.Compare(a.ID, b.ID) })
	if c := removals(all); c != nil {
		return c
	}
	if c := additions(all); c != nil {
		return c
	}
	members, votes := 0, 0
	var standby []standing
	for _, s := range all {
		switch {
		case s.Voter:
			votes++
		case s.Server && s.Alive && s.Steady >= r.Steady:
			standby = append(standby, s)
		}
		if s.Member {
			members++
		}
	}
	// Longest steady first, so that a machine that comes and goes is chosen last.
	slices.SortStableFunc(standby, func(a, b standing) int { return cmp.Compare(b.Steady, a.Steady) })
	if votes%2 == 0 || votes < wantedVoters(members) {
		return r.grow(votes, wantedVoters(members), all, standby)
	}
	if votes > wantedVoters(members) {
		return demotion(all)
	}
	return r.replacement(all, standby)
}

// removals takes servers out that are no members any more: one at a time, and the leader only after another leads.
func removals(all []standing) []change {
	for _, s := range all {
		if s.Member || !s.Server {
			continue
		}
		if s.Leader {
			return []change{{handOff, s.ID}}
		}
		return []change{{removeServer, s.ID}}
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
		return demotion(all)
	}
	return r.replacement(all, standby)
}

// demotion takes the vote of one that is not the leader: of the one longest away, else of the one steady for the
// shortest time.
func demotion(all []standing) []change {
	var worst *standing
	for i, s := range all {
		if !s.Voter || s.Leader {
			continue
		}
		if worst == nil || cmp.Or(cmp.Compare(s.Away, worst.Away), cmp.Compare(worst.Steady, s.Steady)) > 0 {
			worst = &all[i]
		}
	}
	if worst == nil {
		return nil
	}
	return []change{{demote, worst.ID}}
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
