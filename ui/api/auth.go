package api

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

// cookieName is the cookie that carries a browser's session.
const cookieName = "cvlab_session"

// The beginnings of secrets, so that people and scanners recognise them.
const (
	userPrefix    = "cvu_"
	sessionPrefix = "cvs_"
)

// caller is who a request comes from; the zero value is nobody.
type caller struct {
	user   string
	role   fsm.Role
	access *fsm.Access
	// refused is why the credentials that came were not taken; nil without credentials.
	refused *Error
}

type callerKey struct{}

func callerOf(r *http.Request) caller {
	c, _ := r.Context().Value(callerKey{}).(caller)
	return c
}

// NewUserToken makes a token for a user: its text, shown once, and the record to commit with fsm.Grant. A ttl of 0 means
// that it does not expire.
func NewUserToken(user string, role fsm.Role, ttl time.Duration) (text string, access fsm.Access) {
	return newAccess(fsm.AccessUser, userPrefix, user, role, ttl)
}

func newAccess(kind fsm.AccessKind, prefix, user string, role fsm.Role, ttl time.Duration) (string, fsm.Access) {
	text := prefix + strings.ToLower(rand.Text()+rand.Text()) // 2 × 130 bits
	a := fsm.Access{ID: strings.ToLower(rand.Text()[:10]), Kind: kind, User: user, Role: role, Secret: secretOf(text)}
	if ttl > 0 {
		a.ExpiresAt = time.Now().Add(ttl).UTC()
	}
	return text, a
}

// secretOf is what the facts hold of a token. One SHA-256 is enough: the text has 256 random bits, so there is nothing to
// guess, and looking it up by its hash tells nothing by its timing.
func secretOf(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

// authenticated finds out who asks. It refuses nobody by itself, since some routes are open; serve does, by role.
func (s *Server) authenticated(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := s.identify(r)
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
	})
}

func (s *Server) identify(r *http.Request) caller {
	for name := range r.URL.Query() {
		if secretKey(name) && r.URL.Path != "/login" {
			return caller{refused: problem(http.StatusUnauthorized, "a token does not belong into an address: addresses are logged and remembered",
				"send the header Authorization: Bearer TOKEN")}
		}
	}
	text, kind, refused := credentials(r)
	if refused != nil || text == "" {
		return caller{refused: refused}
	}
	if c := s.holder(text, kind); c.access != nil {
		return c
	}
	if kind == fsm.AccessSession {
		// Not counted: a browser sends an old cookie with everything, and must not lock its own sign-in by that.
		return caller{refused: problem(http.StatusUnauthorized, "the session has ended", "sign in again at /login")}
	}
	return caller{refused: s.failed.add(addressOf(r), "the token is not known, was revoked, or has expired")}
}

// credentials gives the token text and the kind of token it may be; an Authorization header wins over the cookie.
func credentials(r *http.Request) (string, fsm.AccessKind, *Error) {
	if header := r.Header.Get("Authorization"); header != "" {
		scheme, text, _ := strings.Cut(header, " ")
		if !strings.EqualFold(scheme, "Bearer") || strings.TrimSpace(text) == "" {
			return "", "", problem(http.StatusUnauthorized, "the Authorization header is not of the form Bearer TOKEN", "")
		}
		return strings.TrimSpace(text), fsm.AccessUser, nil
	}
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		return "", "", nil
	}
	return cookie.Value, fsm.AccessSession, nil
}

// holder gives who holds a token that is good now.
func (s *Server) holder(text string, kind fsm.AccessKind) caller {
	secret := secretOf(text)
	a := s.o.Cluster.State().View().AccessBySecret(secret)
	if own := s.o.Local; a == nil && own != nil && subtle.ConstantTimeCompare(own.Secret, secret) == 1 {
		a = own
	}
	if a == nil || a.Kind != kind || a.Expired(time.Now()) {
		return caller{}
	}
	return caller{user: a.User, role: a.Role, access: a}
}

// allowed says whether the caller may have what needs this role.
func (s *Server) allowed(need fsm.Role, r *http.Request) error {
	c := callerOf(r)
	switch {
	case need == anyone:
		return nil
	case c.refused != nil:
		return c.refused
	case c.access == nil:
		return problem(http.StatusUnauthorized, "sign in first", "send the header Authorization: Bearer TOKEN, or run cvlab login; an administrator makes tokens with: cvlab token create --user NAME --role member")
	case !c.role.Allows(need):
		return problem(http.StatusForbidden, fmt.Sprintf("your token's role is %s; this needs %s", c.role, need), "ask an administrator for a token with that role")
	}
	return nil
}

// stillGood says whether the caller of a long stream may go on: its token may have been revoked meanwhile.
func (s *Server) stillGood(r *http.Request) bool {
	c := callerOf(r)
	if c.access == nil {
		return false
	}
	a := s.o.Cluster.State().View().AccessByID(c.access.ID)
	if a == nil && c.access == s.o.Local {
		a = s.o.Local
	}
	return a != nil && !a.Expired(time.Now())
}

// mayChange says whether the caller may change this person's experiments: an administrator everybody's, others their own.
func mayChange(c caller, e *fsm.Experiment) error {
	if c.role.Allows(fsm.Admin) || c.user == e.User {
		return nil
	}
	return problem(http.StatusForbidden, fmt.Sprintf("experiment %d is %s's", e.ID, e.User), "its owner or an administrator can do that")
}
