package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
)

// ErrConflict marks an error of the backend that is a refusal, to be told as it is.
var ErrConflict = errors.New("refused")

func (s *Server) leave(w http.ResponseWriter, r *http.Request) error {
	if err := s.o.Joins.Leave(r.Context(), callerOf(r).user); err != nil {
		if errors.Is(err, ErrConflict) {
			return problem(http.StatusConflict, strings.TrimPrefix(err.Error(), ErrConflict.Error()+": "), "")
		}
		return err
	}
	return answer(w, http.StatusOK, messageAnswer{Message: "this node has left the cluster and ends"})
}

// Leave gets the asked node out of its cluster; the node then ends. Nothing may run on it any more. It may be repeated.
func (c *Client) Leave(ctx context.Context) error {
	_, err := c.do(ctx, call{method: http.MethodPost, path: "/api/cluster/leave"})
	return err
}

// ErrOldServer is returned by Empty when the servers only know how to wait.
var ErrOldServer = errors.New("the nodes run an older cvlab that cannot give running experiments to other machines; " +
	"bring them to the same version, or wait without --now")

// Empty drains a node, and has what runs there stopped after a checkpoint, so that it goes on elsewhere.
func (c *Client) Empty(ctx context.Context, node string) error {
	var said messageAnswer
	body := map[string]bool{"now": true}
	if _, err := c.do(ctx, call{method: http.MethodPost, path: nodePath(node, "/drain"), body: body, out: &said}); err != nil {
		return err
	}
	if !strings.Contains(said.Message, "stopped") { // an older server leaves out what it does not know
		return ErrOldServer
	}
	return nil
}
