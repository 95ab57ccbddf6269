package api

import "net/http"

func (s *Server) joinOther(w http.ResponseWriter, r *http.Request) error {
	var q JoinRequest
	if err := readBody(r, &q, false); err != nil {
		return err
	}
	if q.Peer == "" || q.Token == "" {
		return problem(http.StatusUnprocessableEntity, "a peer and a join token are needed", "cvlab join PEER")
	}
	if err := s.o.Joins.JoinOther(r.Context(), q.Peer, q.Token); err != nil {
		return problem(http.StatusConflict, err.Error(), "")
	}
	return answer(w, http.StatusAccepted, messageAnswer{Message: "the node changes over to the cluster of " + q.Peer})
}
