package api

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/deveronica/cvlab/cluster"
)

// signIn gives the cookie of a browser that used a login link.
func signIn(t *testing.T, l *lab) string {
	t.Helper()
	_, code, _ := strings.Cut(l.srv.LoginLink(), "code=")
	w := postForm(l, "code="+code)
	if w.Code != http.StatusSeeOther {
		t.Fatalf("sign in: status %d: %s", w.Code, w.Body)
	}
	name, _, _ := strings.Cut(w.Header().Get("Set-Cookie"), ";")
	return name
}

func postForm(l *lab, form string, header ...string) *httptest.ResponseRecorder {
	return l.ask("POST", "/login", "", form, append(header, "Content-Type: application/x-www-form-urlencoded")...)
}

func TestLoginLinkSignsInOnce(t *testing.T) {
	l := newLab(t)
	link := l.srv.LoginLink()
	_, code, _ := strings.Cut(link, "code=")

	// A chat program that fetches the link for a preview, and a browser that prefetches it, spend nothing.
	for range 3 {
		w := l.ask("GET", link, "", "")
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), code) || w.Header().Get("Set-Cookie") != "" {
			t.Fatalf("page: status %d, cookie %q", w.Code, w.Header().Get("Set-Cookie"))
		}
	}
	w := postForm(l, "code="+code)
	if w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/" {
		t.Fatalf("first use: status %d to %q, want 303 to /", w.Code, w.Header().Get("Location"))
	}
	cookie := w.Header().Get("Set-Cookie")
	for _, want := range []string{"cvlab_session=cvs_", "HttpOnly", "SameSite=Strict", "Path=/"} {
		if !strings.Contains(cookie, want) {
			t.Errorf("the cookie lacks %s: %s", want, cookie)
		}
	}
	if strings.Contains(cookie, "Secure") {
		t.Error("on plain HTTP a Secure cookie would never come back")
	}
	if w := postForm(l, "code="+code); w.Code != http.StatusUnauthorized {
		t.Errorf("second use: status %d, want 401", w.Code)
	}
	pair, _, _ := strings.Cut(cookie, ";")
	me := decoded[Me](t, l.ask("GET", "/api/me", "", "", "Cookie: "+pair))
	if me.User != "admin" || me.Role != "admin" {
		t.Errorf("signed in as %+v, want admin", me)
	}
	// A cookie's secret is no bearer token, and the other way round.
	_, secret, _ := strings.Cut(pair, "=")
	if w := l.ask("GET", "/api/me", secret, ""); w.Code != http.StatusUnauthorized {
		t.Errorf("session as bearer token: status %d, want 401", w.Code)
	}
}

func TestLoginLinkLastsFifteenMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		_, early, _ := strings.Cut(l.srv.LoginLink(), "code=")
		_, late, _ := strings.Cut(l.srv.LoginLink(), "code=")
		time.Sleep(14 * time.Minute)
		if w := postForm(l, "code="+early); w.Code != http.StatusSeeOther {
			t.Errorf("after 14 minutes: status %d, want 303", w.Code)
		}
		time.Sleep(2 * time.Minute)
		if w := postForm(l, "code="+late); w.Code != http.StatusUnauthorized {
			t.Errorf("after 16 minutes: status %d, want 401", w.Code)
		}
	})
}

// S07: guesses meet the limit at the eleventh, and the wait grows.
func TestGuessedCodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		var waits []string
		for range 3 {
			for range 10 {
				if w := postForm(l, "code=guess"); w.Code != http.StatusUnauthorized {
					t.Fatalf("status %d, want 401", w.Code)
				}
			}
			w := postForm(l, "code=guess")
			if w.Code != http.StatusTooManyRequests {
				t.Fatalf("guess 11: status %d, want 429", w.Code)
			}
			waits = append(waits, w.Header().Get("Retry-After"))
			wait, err := time.ParseDuration(w.Header().Get("Retry-After") + "s")
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(wait)
		}
		if strings.Join(waits, " ") != "60 120 240" {
			t.Errorf("waits were %v seconds, want 60 120 240", waits)
		}
	})
}

func TestSignInWithTokenAndOut(t *testing.T) {
	l := newLab(t)
	w := postForm(l, "token="+tokenAna)
	if w.Code != http.StatusSeeOther {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	cookie, _, _ := strings.Cut(w.Header().Get("Set-Cookie"), ";")
	if me := decoded[Me](t, l.ask("GET", "/api/me", "", "", "Cookie: "+cookie)); me.User != "ana" || me.Role != "member" {
		t.Errorf("signed in as %+v, want ana", me)
	}
	if w := l.ask("POST", "/logout", "", "", "Cookie: "+cookie); w.Code != http.StatusSeeOther {
		t.Errorf("sign out: status %d", w.Code)
	}
	if w := l.ask("GET", "/api/me", "", "", "Cookie: "+cookie); w.Code != http.StatusUnauthorized {
		t.Errorf("after signing out: status %d, want 401", w.Code)
	}
	// The old cookie still comes with every request; it must not keep its owner from signing in again.
	for range 20 {
		l.ask("GET", "/", "", "", "Cookie: "+cookie)
	}
	if w := postForm(l, "token="+tokenAna, "Cookie: "+cookie); w.Code != http.StatusSeeOther {
		t.Errorf("sign in again: status %d: %s", w.Code, w.Body)
	}
}

func TestLoginPageShowsTextAsText(t *testing.T) {
	l := newLab(t)
	w := l.ask("GET", `/login?code=%22%3E%3Cscript%3Ealert(1)%3C/script%3E`, "", "")
	if strings.Contains(w.Body.String(), "<script") {
		t.Errorf("the page runs what its address says: %s", w.Body)
	}
	if csp := w.Header().Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
		t.Errorf("policy %q", csp)
	}
	// With no-referrer, browsers would send the form with "Origin: null" and be refused on plain HTTP.
	if got := w.Header().Get("Referrer-Policy"); got != "same-origin" {
		t.Errorf("referrer policy %q, want same-origin", got)
	}
}

func TestCodeIsGoodAgainWhenNothingWasStored(t *testing.T) {
	l := newLab(t)
	_, code, _ := strings.Cut(l.srv.LoginLink(), "code=")
	l.before = func(n int) error {
		if n == 1 {
			return cluster.ErrNoLeader
		}
		return nil
	}
	if w := postForm(l, "code="+code); w.Code != http.StatusServiceUnavailable {
		t.Fatalf("without a leader: status %d, want 503", w.Code)
	}
	if w := postForm(l, "code="+code); w.Code != http.StatusSeeOther {
		t.Errorf("with a leader again: status %d, want 303", w.Code)
	}
}

func TestHealthChecks(t *testing.T) {
	l := newLab(t)
	if w := l.ask("GET", "/healthz", "", ""); w.Code != 200 {
		t.Errorf("healthz: %d", w.Code)
	}
	if w := l.ask("GET", "/readyz", "", ""); w.Code != 200 {
		t.Errorf("readyz: %d", w.Code)
	}
	l.setLeader("")
	if w := l.ask("GET", "/readyz", "", ""); w.Code != http.StatusServiceUnavailable {
		t.Errorf("readyz without a leader: %d, want 503", w.Code)
	}
	if w := l.ask("GET", "/healthz", "", ""); w.Code != 200 {
		t.Errorf("healthz without a leader: %d", w.Code)
	}
}
