package cluster

import (
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// Steps of a change on the leader that Options.At is told of.
const (
	StepAppended  = "appended"  // it is on the leader's own disk, and was sent to nobody
	StepCommitted = "committed" // it is on a majority's disks and applied here, and nobody was answered
)

// steppedLog tells when the leader has written changes, before raft sends them on.
type steppedLog struct {
	raft.LogStore
	at     func(step string)
	server atomic.Pointer[raft.Raft] // nil while raft starts
}

// StoreLogs implements raft.LogStore.
func (s *steppedLog) StoreLogs(logs []*raft.Log) error {
	err := s.LogStore.StoreLogs(logs)
	server := s.server.Load()
	if s.at == nil || err != nil || server == nil || server.State() != raft.Leader {
		return err
	}
	for _, l := range logs {
		if l.Type == raft.LogCommand {
			s.at(StepAppended)
		}
	}
	return nil
}

// reached tells Options.At, if anybody wants to know.
func (s *Seat) reached(step string) {
	if s.o.At != nil {
		s.o.At(step)
	}
}
