package api

import (
	"net/http"
	"strings"
	"testing"

	"github.com/deveronica/cvlab/cluster"
)

// P6: a cluster that cannot decide says so in a sentence that names the machines.
func TestTroubleIsToldByName(t *testing.T) {
	const sentence = "gpu2 and gpu3 are out of disk space; free some there"
	for _, c := range []struct {
		kind      error
		status    int
		retry     bool
		unchanged bool
	}{
		{cluster.ErrNoRoom, http.StatusInsufficientStorage, false, true},
		{cluster.ErrNoLeader, http.StatusServiceUnavailable, true, true},
		{cluster.ErrStalled, http.StatusServiceUnavailable, true, true},
		{cluster.ErrUnknown, http.StatusServiceUnavailable, true, false},
	} {
		l := newLab(t)
		l.before = func(int) error { return &cluster.TroubleError{Kind: c.kind, Sentence: sentence} }
		w := l.ask("POST", "/api/queue/add", tokenAna, `{"config":"project: cats\n"}`, "Idempotency-Key: k1")
		e := decoded[Error](t, w)
		if w.Code != c.status || !strings.HasPrefix(e.Detail, sentence) || (w.Header().Get("Retry-After") != "") != c.retry {
			t.Errorf("%v: status %d, Retry-After %q: %s", c.kind, w.Code, w.Header().Get("Retry-After"), w.Body)
		}
		if strings.Contains(e.Detail, "nothing was changed") != c.unchanged || e.OutcomeUnknown() == c.unchanged {
			t.Errorf("%v: %+v", c.kind, e)
		}
		if e.OutcomeUnknown() && e.Key != "k1" {
			t.Errorf("%v: a repeat needs the key, got %q", c.kind, e.Key)
		}
	}
}

// Anybody may ask whether a node is ready, so the machines of the lab are not named to them.
func TestReadinessOfAStalledLeader(t *testing.T) {
	l := newLab(t)
	l.trouble = "nothing was committed for 4s: gpu2 does not answer"
	w := l.ask("GET", "/readyz", "", "")
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "commits nothing") || strings.Contains(w.Body.String(), "gpu2") {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
	if s := decoded[ClusterStatus](t, l.ask("GET", "/api/cluster", tokenViewer, "")); s.Trouble != l.trouble {
		t.Errorf("the cluster's trouble is %q", s.Trouble)
	}
	l.trouble = ""
	if w := l.ask("GET", "/readyz", "", ""); w.Code != http.StatusOK {
		t.Errorf("afterwards: status %d", w.Code)
	}
}
