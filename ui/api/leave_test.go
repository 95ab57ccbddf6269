package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/deveronica/cvlab/cluster"
)

func TestLeaveSaysWhyNot(t *testing.T) {
	for _, c := range []struct {
		name   string
		err    error
		status int
		says   string
	}{
		{"it may", nil, http.StatusOK, "has left"},
		{"it must not", fmt.Errorf("%w: %w", ErrConflict, errors.New("3 experiments still run here")), http.StatusConflict, `"3 experiments still run here"`},
		{"not yet", fmt.Errorf("leave the cluster: %w", cluster.ErrVoteNeeded), http.StatusServiceUnavailable, "take over"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			l.leaveErr = c.err
			if w := l.ask("POST", "/api/cluster/leave", tokenBob, ""); w.Code != http.StatusForbidden {
				t.Errorf("a member, who is no admin, gets %d", w.Code)
			}
			w := l.ask("POST", "/api/cluster/leave", tokenAdmin, "")
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.says) {
				t.Errorf("status %d, %s; want %d and %s", w.Code, w.Body, c.status, c.says)
			}
		})
	}
}

// A server of before leaves out what it does not know of a request; that must not look like obedience.
func TestEmptyNoticesAnOldServer(t *testing.T) {
	for _, c := range []struct {
		message string
		want    error
	}{
		{"gpu1 gets no new work; what runs there goes on", ErrOldServer},
		{"gpu1 gets no new work; what runs there is stopped after a checkpoint and goes on elsewhere", nil},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var body struct{ Now bool }
			if err := json.NewDecoder(r.Body).Decode(&body); err != nil || !body.Now || r.URL.Path != "/api/devices/gpu1/drain" {
				t.Errorf("asked for %s with %+v, %v", r.URL, body, err)
			}
			fmt.Fprintf(w, `{"message": %q}`, c.message)
		}))
		l := newLab(t)
		if err := l.client(server.URL, tokenAdmin).Empty(t.Context(), "gpu1"); !errors.Is(err, c.want) {
			t.Errorf("told %q it gave %v, want %v", c.message, err, c.want)
		}
		server.Close()
	}
}
