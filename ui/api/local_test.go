package api

import (
	"net/http"
	"testing"

	"github.com/deveronica/cvlab/fsm"
)

// The programs of a machine reach their node with its own token before any leader could grant it, and only that token.
func TestLocalTokenBeforeItIsGranted(t *testing.T) {
	l := newLab(t)
	own := fsm.Access{ID: "node-x", Kind: fsm.AccessUser, User: "root", Role: fsm.Admin, Secret: secretOf("cvu_local")}
	l.srv.o.Local = &own
	if w := l.ask("GET", "/api/queue", "cvu_local", ""); w.Code != http.StatusOK {
		t.Errorf("the machine's own token: %d %s", w.Code, w.Body)
	}
	if w := l.ask("GET", "/api/queue", "cvu_locax", ""); w.Code != http.StatusUnauthorized {
		t.Errorf("another token: %d", w.Code)
	}
	own.Kind = fsm.AccessSession
	if w := l.ask("GET", "/api/queue", "cvu_local", ""); w.Code != http.StatusUnauthorized {
		t.Errorf("a session's secret sent as a user's token: %d", w.Code)
	}
}
