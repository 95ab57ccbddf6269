package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gorilla/mux"

	"github.com/deveronica/cvlab/fsm"
)

// door is one way in, taken from the router itself: what the table forgets is still found.
type door struct {
	method string
	path   string // with example values
	row    *route // nil where the method is not possible
}

// doors gives every path of the router with every method.
func doors(t *testing.T, l *lab) []door {
	t.Helper()
	byName := map[string]route{}
	for _, row := range routes() {
		byName[row.method+" "+row.path] = row
	}
	rows := map[string]map[string]*route{}
	err := l.srv.router.Walk(func(r *mux.Route, _ *mux.Router, _ []*mux.Route) error {
		if r.GetName() == "pages" {
			return nil
		}
		row, known := byName[r.GetName()]
		if !known {
			t.Errorf("route %q is not in the table", r.GetName())
			return nil
		}
		methods, err := r.GetMethods()
		if err != nil {
			return err
		}
		path := example(row.path)
		if rows[path] == nil {
			rows[path] = map[string]*route{}
		}
		for _, m := range methods {
			rows[path][m] = &row
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var all []door
	for path, methods := range rows {
		for _, m := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"} {
			all = append(all, door{method: m, path: path, row: methods[m]})
		}
	}
	if len(all) < 300 {
		t.Fatalf("only %d doors found", len(all))
	}
	return all
}

// isPagePath says whether the static pages answer instead, such as GET on a path that has only POST.
func isPagePath(d door) bool {
	return !strings.HasPrefix(d.path, "/api/") && (d.method == "GET" || d.method == "HEAD")
}

func example(path string) string {
	path = plainPath(path)
	for name, value := range map[string]string{"{id}": "1", "{uid}": "1", "{node}": "gpu1", "{name}": "cats", "{token}": "id-vera", "{stray}": "1-42"} {
		path = strings.ReplaceAll(path, name, value)
	}
	return path
}

// tellsNothing fails when an answer to a stranger holds something of the lab.
func tellsNothing(t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	for _, secret := range []string{"cats", "ana", "id-vera", "RTX", nodeA, "cvu_"} {
		if strings.Contains(w.Body.String(), secret) {
			t.Errorf("the answer tells %q: %s", secret, w.Body)
		}
	}
}

func labWithCats(t *testing.T) *lab {
	l := newLab(t)
	l.submit("ana", fsm.Spec{Project: "cats", Config: "project: cats\n"})
	return l
}

// S01, S37: without a good token every door but the open ones stays shut, whatever else the request says.
func TestNoTokenNoEntry(t *testing.T) {
	l := labWithCats(t)
	digest := l.state.View().Digest()
	for _, d := range doors(t, l) {
		if d.row != nil && d.row.role == anyone || d.row == nil && isPagePath(d) {
			continue
		}
		for name, header := range map[string][]string{
			"nothing":          nil,
			"unknown token":    {"Authorization: Bearer cvu_guess"},
			"basic":            {"Authorization: Basic cm9vdDpyb290"},
			"empty bearer":     {"Authorization: Bearer "},
			"cookie of a user": {"Cookie: cvlab_session=" + tokenAdmin},
			"forged identity":  {"X-Forwarded-User: root", "X-Remote-User: root", "X-Cvlab-User: root", "X-Forwarded-For: 127.0.0.1"},
		} {
			l.srv.failed = newFailures()
			w := l.ask(d.method, d.path, "", "", header...)
			if w.Code != http.StatusUnauthorized {
				t.Errorf("%s %s with %s: status %d, want 401", d.method, d.path, name, w.Code)
			}
			tellsNothing(t, w)
		}
	}
	if l.state.View().Digest() != digest {
		t.Error("somebody without a token changed the facts")
	}
}

// Open doors show nothing of the lab to strangers.
func TestOpenDoorsTellNothing(t *testing.T) {
	l := labWithCats(t)
	for _, d := range doors(t, l) {
		if d.row != nil && d.row.role == anyone {
			tellsNothing(t, l.ask(d.method, d.path, "", ""))
		}
	}
}

// S02: each role may do what the table says, and nothing above it.
func TestRolesEndWhereTheTableSays(t *testing.T) {
	for user, role := range map[string]fsm.Role{tokenViewer: fsm.Viewer, tokenAna: fsm.Member} {
		l := labWithCats(t)
		digest := l.state.View().Digest()
		for _, d := range doors(t, l) {
			if d.row == nil || role.Allows(d.row.role) || d.row.role == anyone {
				continue
			}
			w := l.ask(d.method, d.path, user, "")
			if w.Code != http.StatusForbidden {
				t.Errorf("%s as %s: %s: status %d, want 403", d.path, role, d.method, w.Code)
			}
		}
		if l.state.View().Digest() != digest {
			t.Errorf("a %s changed the facts through a door above its role", role)
		}
	}
}

// Every changing route needs at least a member: nobody can add one for viewers by mistake. These two change nothing.
func TestViewersChangeNothing(t *testing.T) {
	for _, row := range routes() {
		if row.method == "GET" || row.role.Allows(fsm.Member) || row.role == anyone || row.path == "/api/queue/preview" {
			continue
		}
		t.Errorf("%s %s is open to viewers", row.method, row.path)
	}
}

// S03: a page of another site cannot use a signed-in browser, with any method.
func TestOtherSitesAreRefused(t *testing.T) {
	l := labWithCats(t)
	cookie := signIn(t, l)
	digest := l.state.View().Digest()
	for _, d := range doors(t, l) {
		if d.row == nil || d.method == "GET" || d.method == "HEAD" {
			continue
		}
		for _, header := range [][]string{
			{"Origin: https://evil.example"}, {"Origin: null"}, {"Sec-Fetch-Site: cross-site"}, {"Sec-Fetch-Site: same-site"},
			{"Origin: http://example.com:9999"}, // another port of the same host is another site
		} {
			w := l.ask(d.method, d.path, "", "", append(header, "Cookie: "+cookie)...)
			if w.Code != http.StatusForbidden {
				t.Errorf("%s %s with %s: status %d, want 403", d.method, d.path, header, w.Code)
			}
		}
	}
	if l.state.View().Digest() != digest {
		t.Error("another site changed the facts")
	}
}

// S04: a name that was made to resolve to us is not ours.
func TestUnknownHostIsMisdirected(t *testing.T) {
	l := labWithCats(t)
	for _, d := range doors(t, l) {
		w := l.ask(d.method, d.path, tokenAdmin, "", "Host: evil.example:8000")
		if w.Code != http.StatusMisdirectedRequest {
			t.Errorf("%s %s: status %d, want 421", d.method, d.path, w.Code)
		}
		tellsNothing(t, w)
	}
	for host, want := range map[string]int{
		"localhost:8000": 200, "127.0.0.1:8000": 200, "[::1]:8000": 200, "10.1.2.3": 200, "GPU1:8000": 200, "gpu1.lab.": 200,
		"gpu1.evil.example": 421, "localhost.evil.example": 421, "": 421, "127.0.0.1.evil.example": 421,
	} {
		if w := l.ask("GET", "/api/me", tokenAna, "", "Host: "+host); w.Code != want {
			t.Errorf("host %q: status %d, want %d", host, w.Code, want)
		}
	}
}

// S06: looking changes nothing, whatever the query says.
func TestLookingChangesNothing(t *testing.T) {
	l := labWithCats(t)
	digest := l.state.View().Digest()
	for _, d := range doors(t, l) {
		if d.row == nil || d.row.stream || d.method != "GET" && d.method != "HEAD" {
			continue
		}
		for _, query := range []string{"", "?cancel=1&id=1", "?code=x", "?off=true", "?consistent=1", "?_method=DELETE"} {
			l.ask(d.method, d.path+query, tokenAdmin, "", "X-HTTP-Method-Override: DELETE")
		}
	}
	if l.proposed > 0 || l.state.View().Digest() != digest {
		t.Errorf("a GET proposed %d changes", l.proposed)
	}
}

// S08: a token in an address is refused even when it is good, and never reaches the log.
func TestTokenInTheAddressIsRefused(t *testing.T) {
	l := newLab(t)
	for _, name := range []string{"token", "access_token", "Token", "to%6ben"} {
		if w := l.ask("GET", "/api/queue?"+name+"="+tokenAdmin, tokenAdmin, ""); w.Code != http.StatusUnauthorized {
			t.Errorf("?%s: status %d, want 401", name, w.Code)
		}
	}
	l.ask("GET", "/login?code=abcdefghij", "", "")
	l.ask("POST", "/api/tokens", tokenAdmin, `{"kind":"user","user":"eve","role":"member"}`)
	log := l.logged()
	if strings.Contains(log, tokenAdmin) || strings.Contains(log, "abcdefghij") || strings.Contains(log, "cvu_") {
		t.Errorf("the log holds a secret:\n%s", log)
	}
	if !strings.Contains(log, `token=***`) || !strings.Contains(log, `code=***`) {
		t.Errorf("the log does not show that something was masked:\n%s", log)
	}
}

// S28: what comes from outside cannot forge a record of the log.
func TestLogRecordsStayWhole(t *testing.T) {
	l := newLab(t)
	l.ask("GET", "/api/x%0a%7b%22level%22:%22forged%22%7d", tokenAna, "")
	for line := range strings.Lines(l.logged()) {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil || record["level"] == "forged" {
			t.Errorf("not a whole record: %s", line)
		}
	}
}

// S24: what is too large is cut off at the limit.
func TestLargeRequestsAreCutOff(t *testing.T) {
	l := newLab(t)
	for name, body := range map[string]string{
		"large body":          `{"config":"` + strings.Repeat("x", maxBody) + `"}`,
		"large config":        `{"config":"` + strings.Repeat("x", maxConfig+1) + `"}`,
		"large after escapes": `{"config":"` + strings.Repeat(`\n`, maxConfig+1) + `"}`,
	} {
		for _, path := range []string{"/api/queue/add", "/api/queue/preview"} {
			if w := l.ask("POST", path, tokenAna, body); w.Code != http.StatusRequestEntityTooLarge {
				t.Errorf("%s to %s: status %d, want 413", name, path, w.Code)
			}
		}
	}
	endless := httptest.NewRequest("POST", "/api/queue/add", endlessBody{})
	endless.Header.Set("Authorization", "Bearer "+tokenAna)
	w := httptest.NewRecorder()
	l.srv.Handler().ServeHTTP(w, endless)
	if w.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("endless chunks: status %d, want 413", w.Code)
	}
	if w := l.ask("POST", "/api/queue/add", tokenAna, "\x1f\x8b", "Content-Encoding: gzip"); w.Code != http.StatusUnsupportedMediaType {
		t.Errorf("compressed body: status %d, want 415", w.Code)
	}
	if l.state.View().Experiment(1) != nil {
		t.Error("something was submitted")
	}
}

type endlessBody struct{}

func (endlessBody) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// S43: one address that guesses is slowed down; others, and good tokens, are not.
func TestGuessingIsSlowedDown(t *testing.T) {
	l := newLab(t)
	guess := func() int { return l.ask("GET", "/api/me", "cvu_wrong", "").Code }
	for i := range 10 {
		if code := guess(); code != http.StatusUnauthorized {
			t.Fatalf("guess %d: status %d, want 401", i+1, code)
		}
	}
	w := l.ask("GET", "/api/me", "cvu_wrong", "")
	if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
		t.Errorf("guess 11: status %d, Retry-After %q; want 429 and a time", w.Code, w.Header().Get("Retry-After"))
	}
	if w := l.ask("POST", "/login", "", `{"token":"`+tokenAna+`"}`); w.Code != http.StatusTooManyRequests {
		t.Errorf("sign-in from the guesser's address: status %d, want 429", w.Code)
	}
	if w := l.ask("GET", "/api/me", tokenAna, ""); w.Code != http.StatusOK {
		t.Errorf("a good token from the same address: status %d, want 200", w.Code)
	}
	other := httptest.NewRequest("GET", "/api/me", nil)
	other.RemoteAddr = "10.9.9.9:4711"
	other.Header.Set("Authorization", "Bearer cvu_typo")
	rec := httptest.NewRecorder()
	l.srv.Handler().ServeHTTP(rec, other)
	if rec.Code != http.StatusUnauthorized {
		t.Errorf("a typo from elsewhere: status %d, want 401", rec.Code)
	}
}

func TestGuessersDoNotFillTheMemory(t *testing.T) {
	f := newFailures()
	for i := range failPeople + 500 {
		f.add(fmt.Sprint("10.0.", i), "no")
	}
	if len(f.by) > failPeople {
		t.Errorf("%d addresses are remembered, the limit is %d", len(f.by), failPeople)
	}
}

// A revoked or expired token opens nothing from the next request on.
func TestRevokedTokenOpensNothing(t *testing.T) {
	l := newLab(t)
	if w := l.ask("DELETE", "/api/tokens/id-ana", tokenAdmin, ""); w.Code != http.StatusOK {
		t.Fatalf("revoke: status %d: %s", w.Code, w.Body)
	}
	if w := l.ask("GET", "/api/queue", tokenAna, ""); w.Code != http.StatusUnauthorized {
		t.Errorf("revoked token: status %d, want 401", w.Code)
	}
}

// A person changes their own experiments; an administrator everybody's.
func TestOwnershipOfExperiments(t *testing.T) {
	for _, path := range []string{"/api/queue/1/cancel", "/api/queue/1/hold", "/api/queue/experiment/1/cancel"} {
		for token, want := range map[string]int{tokenBob: 403, tokenAna: 200, tokenAdmin: 200} {
			l := labWithCats(t)
			if w := l.ask("POST", path, token, ""); w.Code != want {
				t.Errorf("%s with %s: status %d, want %d", path, token, w.Code, want)
			}
		}
	}
	l := labWithCats(t)
	if w := l.ask("POST", "/api/queue/bulk", tokenBob, `{"action":"cancel","ids":[1]}`); w.Code != 403 {
		t.Errorf("bulk by number: status %d, want 403", w.Code)
	}
	if w := l.ask("POST", "/api/queue/bulk", tokenBob, `{"action":"cancel","select":{"project":"cats"}}`); w.Code != 404 {
		t.Errorf("bulk by selection: status %d, want 404", w.Code)
	}
	if w := l.ask("PATCH", "/api/queue/1", tokenBob, `{"priority":"urgent"}`); w.Code != 403 {
		t.Errorf("patch: status %d, want 403", w.Code)
	}
	if e := l.state.View().Experiment(1); e.Status != fsm.Pending || e.Priority != fsm.Normal {
		t.Errorf("bob changed ana's experiment: %s, %s", e.Status, e.Priority)
	}
}

// Wrong methods are told what is possible, but only to people who may know.
func TestWrongMethodSaysWhichAreRight(t *testing.T) {
	l := newLab(t)
	w := l.ask("PUT", "/api/queue/1", tokenAna, "")
	if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD, PATCH" {
		t.Errorf("status %d, Allow %q; want 405 with GET, HEAD, PATCH", w.Code, w.Header().Get("Allow"))
	}
	if w := l.ask("GET", "/api/nothing", tokenAna, ""); w.Code != http.StatusNotFound {
		t.Errorf("unknown path: status %d, want 404", w.Code)
	}
	for _, path := range []string{"/metrics", "/api/audit", "/api/queue/1/metrics", "/api/queue/1/files", "/api/runs/p/r/metrics"} {
		if w := l.ask("GET", path, tokenAdmin, ""); strings.HasPrefix(path, "/api/") && w.Code != http.StatusNotFound {
			t.Errorf("%s: status %d, want 404 until it exists", path, w.Code)
		}
	}
}
