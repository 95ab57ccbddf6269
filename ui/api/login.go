package api

import (
	"crypto/rand"
	"encoding/json"
	"html/template"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

// Times of signing in.
const (
	linkLife    = 15 * time.Minute
	sessionLife = 30 * 24 * time.Hour
	maxLinks    = 100
)

// adminUser is who a login link signs in: whoever could read it off the node's own terminal or log.
const adminUser = "admin"

// loginLinks are the one-time codes of this node; they live in memory, so a restart ends them.
type loginLinks struct {
	mu    sync.Mutex
	until map[string]time.Time // by the hash of the code
}

func newLoginLinks() *loginLinks { return &loginLinks{until: map[string]time.Time{}} }

func (l *loginLinks) create() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	oldest := ""
	for h, until := range l.until {
		if now.After(until) {
			delete(l.until, h)
		} else if oldest == "" || until.Before(l.until[oldest]) {
			oldest = h
		}
	}
	if len(l.until) >= maxLinks {
		delete(l.until, oldest)
	}
	code := strings.ToLower(rand.Text())
	l.until[string(secretOf(code))] = now.Add(linkLife)
	return code
}

// spend says whether the code is good, and makes it good no more.
func (l *loginLinks) spend(code string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := string(secretOf(code))
	until, found := l.until[h]
	delete(l.until, h)
	return found && time.Now().Before(until)
}

// restore puts a code back whose session could not be stored, so that the person can try again.
func (l *loginLinks) restore(code string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until[string(secretOf(code))] = time.Now().Add(time.Minute)
}

// credential is what signs in: a one-time code or a user's token.
type credential struct {
	Code  string `json:"code,omitempty"`
	Token string `json:"token,omitempty"`
}

// loginPage shows a form. It changes nothing: link previews and prefetching must not spend the code.
func (s *Server) loginPage(w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	// Not no-referrer: with that, browsers send the form with "Origin: null", which plain HTTP cannot tell from a foreign one.
	h.Set("Referrer-Policy", "same-origin")
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	// The reader being gone is nobody's problem.
	_ = loginTemplate().Execute(w, map[string]string{"Code": clip(r.URL.Query().Get("code"), 100), "User": callerOf(r).user, "Node": s.o.NodeName})
	return nil
}

func loginTemplate() *template.Template {
	return template.Must(template.New("login").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Sign in to cvlab</title><link rel="stylesheet" href="/style.css"></head><body><main>
<h1>cvlab on {{.Node}}</h1>
{{if .User}}<p>You are signed in as <strong>{{.User}}</strong>.</p>
<form method="post" action="/logout"><button>Sign out</button></form>{{end}}
<form method="post" action="/login">
{{if .Code}}<p>This link signs you in once, as the administrator.</p><input type="hidden" name="code" value="{{.Code}}">
{{else}}<p><label>Your token <input type="password" name="token" autocomplete="current-password" required></label></p>
{{end}}<button>Sign in</button></form>
</main></body></html>
`))
}

// login exchanges a code or a token for a session's cookie.
func (s *Server) login(w http.ResponseWriter, r *http.Request) error {
	if e := s.failed.blocked(addressOf(r)); e != nil {
		return e
	}
	got, wantsJSON, err := readCredential(r)
	if err != nil {
		return err
	}
	user, role := "", fsm.Role("")
	if got.Code != "" && s.links.spend(got.Code) {
		user, role = adminUser, fsm.Admin
	} else if c := s.holder(got.Token, fsm.AccessUser); got.Token != "" && c.access != nil {
		user, role = c.user, c.role
	}
	if user == "" {
		return s.failed.add(addressOf(r), "this does not sign in: a link works once and for 15 minutes, a token until it is revoked")
	}
	text, access := newAccess(fsm.AccessSession, sessionPrefix, user, role, sessionLife)
	_, err = s.propose(w, r, fsm.Entry{By: user, At: time.Now(), Command: &fsm.Grant{Access: access}})
	if err != nil {
		if got.Code != "" {
			s.links.restore(got.Code)
		}
		return err
	}
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: text, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil, MaxAge: int(sessionLife.Seconds()),
	})
	if wantsJSON {
		return answer(w, http.StatusOK, Me{User: user, Role: role, Token: access.ID, Expires: when(access.ExpiresAt)})
	}
	w.Header().Set("Location", "/")
	w.WriteHeader(http.StatusSeeOther)
	return nil
}

// readCredential reads a form (the page's) or JSON.
func readCredential(r *http.Request) (c credential, isJSON bool, err error) {
	media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if media == "application/json" {
		return c, true, readBody(r, &c, false)
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, 8<<10))
	if err != nil {
		return c, false, problem(http.StatusBadRequest, "the form did not arrive whole", "send it again")
	}
	form, err := url.ParseQuery(string(data))
	if err != nil {
		return c, false, problem(http.StatusBadRequest, "the form cannot be read", "")
	}
	return credential{Code: form.Get("code"), Token: form.Get("token")}, false, nil
}

// logout ends the session of the cookie; without one it does nothing.
func (s *Server) logout(w http.ResponseWriter, r *http.Request) error {
	if c := callerOf(r); c.access != nil && c.access.Kind == fsm.AccessSession {
		if _, err := s.commit(w, r, &fsm.Revoke{ID: c.access.ID}); err != nil {
			return err
		}
	}
	http.SetCookie(w, &http.Cookie{Name: cookieName, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: r.TLS != nil, MaxAge: -1})
	w.Header().Set("Location", "/login")
	w.WriteHeader(http.StatusSeeOther)
	return nil
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, http.StatusOK, json.RawMessage(`{"status":"ok"}`))
}

// readyAge is how long a replica may be out of touch with the leader and still count as caught up.
const readyAge = 3 * time.Second

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) error {
	switch status := s.o.Cluster.Status(r.Context()); { // anybody may ask, so no machine is named here
	case status.Leader == nil:
		return later("no leader")
	case status.Trouble != "":
		return later("the leader commits nothing")
	}
	if s.o.Cluster.Age() > readyAge {
		return later("out of touch with the leader")
	}
	return answer(w, http.StatusOK, json.RawMessage(`{"status":"ready"}`))
}
