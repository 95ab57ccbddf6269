package api

import (
	"encoding/hex"
	"net/http"
	"runtime"
)

// Replica is one node's copy of the facts in a few bytes, and what its process holds, for those who test a cluster.
type Replica struct {
	// Index is the log index of the newest entry in the copy.
	Index uint64 `json:"index"`
	// Digest is a SHA-256 of all facts, in hexadecimal digits.
	Digest string `json:"digest"`
	// Goroutines is how many the process has.
	Goroutines int `json:"goroutines"`
}

func (s *Server) replica(w http.ResponseWriter, _ *http.Request) error {
	v := s.o.Cluster.State().View()
	digest := v.Digest()
	return answer(w, http.StatusOK, Replica{Index: v.Index(), Digest: hex.EncodeToString(digest[:]), Goroutines: runtime.NumGoroutine()})
}
