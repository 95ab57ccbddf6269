package cluster

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

// leaderlessLimit is how long there is no leader before a proposal gives up early; an election takes less.
const leaderlessLimit = 4 * time.Second

// names gives what people call these nodes.
func (s *Seat) names(ids []string) []string {
	v := s.replica.state.View()
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = id
		if n := v.Node(id); n != nil {
			list[i] = n.Name
		}
	}
	slices.Sort(list)
	return list
}

// enumerate writes "a", "a and b", "a, b and c".
func enumerate(list []string) string {
	if len(list) < 2 {
		return strings.Join(list, "")
	}
	return strings.Join(list[:len(list)-1], ", ") + " and " + list[len(list)-1]
}

func verb(list []string, one, many string) string {
	if len(list) == 1 {
		return one
	}
	return many
}

// diskSentence says which of these nodes have no room, in words for people; "" if all have.
func (s *Seat) diskSentence(ids []string) string {
	var full, low []string
	for _, id := range ids {
		switch s.diskOf(id) {
		case DiskFull:
			full = append(full, id)
		case DiskLow:
			low = append(low, id)
		}
	}
	var parts []string
	for _, x := range []struct {
		ids  []string
		word string
	}{{full, "out of"}, {low, "almost out of"}} {
		if list := s.names(x.ids); len(list) > 0 {
			parts = append(parts, fmt.Sprintf("%s %s %s disk space", enumerate(list), verb(list, "is", "are"), x.word))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return strings.Join(parts, " and ") + "; free some there"
}

// Crowded says why no new experiments are taken now, naming the machines: too few voters have disk space for them. "" when
// enough have.
func (s *Seat) Crowded() string {
	all, short := voters(s.raft.servers()), 0
	for _, id := range all {
		if s.diskOf(id).short() {
			short++
		}
	}
	if len(all)-short > len(all)/2 {
		return ""
	}
	return s.diskSentence(all)
}

// DiskNote names the members that have no room, in one sentence; "" when all have.
func (s *Seat) DiskNote() string {
	var ids []string
	for n := range s.replica.state.View().Nodes() {
		ids = append(ids, n.ID)
	}
	return s.diskSentence(ids)
}

// Trouble says why nothing can be decided now, naming the machines; "" when changes can be made, as far as this node
// knows.
func (s *Seat) Trouble() string {
	if reason := s.stall.reason(); reason != nil {
		return reason.Error()
	}
	if _, known := s.Leader(); !known {
		return s.leaderlessSentence()
	}
	return ""
}

func (s *Seat) leaderlessSentence() string {
	return s.sentence("the cluster has no leader", "a majority of the voters must answer")
}

func (s *Seat) stallSentence() string {
	return s.sentence(fmt.Sprintf("nothing was committed for %v", stallLimit), "")
}

// sentence adds to what happened who is the reason: who has no room, who does not answer, who answers and takes nothing.
func (s *Seat) sentence(what, otherwise string) string {
	all := voters(s.raft.servers())
	var silent, stuck, rest []string
	for _, m := range s.Members() {
		switch {
		case !slices.Contains(all, m.ID) || m.ID == s.id || s.diskOf(m.ID).short():
		case m.Alive != Alive:
			silent = append(silent, m.ID)
		case m.Stuck:
			stuck = append(stuck, m.ID)
		default:
			rest = append(rest, m.ID)
		}
	}
	reasons := []string{}
	if note := s.diskSentence(all); note != "" {
		reasons = append(reasons, note)
	}
	if list := s.names(silent); len(list) > 0 {
		reasons = append(reasons, fmt.Sprintf("%s %s not answer", enumerate(list), verb(list, "does", "do")))
	}
	if list := s.names(stuck); len(list) > 0 {
		reasons = append(reasons, fmt.Sprintf("%s %s no entries", enumerate(list), verb(list, "takes", "take")))
	}
	if list := s.names(rest); len(reasons) == 0 && otherwise == "" && len(list) > 0 {
		otherwise = fmt.Sprintf("%s %s", enumerate(list), verb(list, "does not confirm it", "do not confirm it"))
	}
	if len(reasons) == 0 && otherwise != "" {
		reasons = append(reasons, otherwise)
	}
	if len(reasons) == 0 {
		return what
	}
	return what + ": " + strings.Join(reasons, "; ")
}

// refusesForRoom refuses a new experiment while too few voters have room for what follows from it. Starts, ends and cancels
// go through as long as anything does. A repeat of a submission that was taken gets its answer.
func (s *Seat) refusesForRoom(e fsm.Entry) error {
	if _, submits := e.Command.(*fsm.Submit); !submits || s.replica.state.View().Answered(e.By, e.Key) {
		return nil
	}
	why := s.Crowded()
	if why == "" {
		return nil
	}
	if _, known := s.Leader(); !known {
		return &TroubleError{Kind: ErrNoLeader, Sentence: s.leaderlessSentence()}
	}
	return &TroubleError{Kind: ErrNoRoom, Sentence: why}
}
