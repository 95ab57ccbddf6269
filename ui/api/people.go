package api

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"github.com/deveronica/cvlab/fsm"
)

type (
	projectsAnswer struct {
		Projects []Project `json:"projects"`
	}
	usersAnswer struct {
		Users []User `json:"users"`
	}
	tokensAnswer struct {
		Tokens []TokenInfo `json:"tokens"`
	}
)

func (s *Server) listProjects(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, http.StatusOK, projectsAnswer{Projects: projects(s.o.Cluster.State().View(), "")})
}

func (s *Server) project(w http.ResponseWriter, r *http.Request) error {
	name := mux.Vars(r)["name"]
	found := projects(s.o.Cluster.State().View(), name)
	if len(found) == 0 {
		return noProject(name)
	}
	return answer(w, http.StatusOK, found[0])
}

func noProject(name string) error {
	return problem(http.StatusNotFound, fmt.Sprintf("no experiment belongs to a project %q", clip(name, 100)), "cvlab projects lists them")
}

// projects sums up the experiments by project, the one with the newest experiment first; only one of them when named.
func projects(view fsm.View, only string) []Project {
	by := map[string]*Project{}
	for e := range view.Experiments() {
		if only != "" && e.Project != only {
			continue
		}
		p := by[e.Project]
		if p == nil {
			p = &Project{Name: e.Project, Counts: map[fsm.Status]int{}, FirstAt: e.CreatedAt}
			by[e.Project] = p
		}
		p.Experiments++
		p.Counts[e.Status]++
		p.LastAt = e.CreatedAt
		if !slices.Contains(p.Users, e.User) {
			p.Users = append(p.Users, e.User)
		}
	}
	out := make([]Project, 0, len(by))
	for _, p := range by {
		slices.Sort(p.Users)
		out = append(out, *p)
	}
	slices.SortFunc(out, func(a, b Project) int { return cmp.Or(b.LastAt.Compare(a.LastAt), strings.Compare(a.Name, b.Name)) })
	return out
}

func (s *Server) listUsers(w http.ResponseWriter, _ *http.Request) error {
	view := s.o.Cluster.State().View()
	by := map[string]*User{}
	get := func(name string) *User {
		if by[name] == nil {
			by[name] = &User{Name: name, Counts: map[fsm.Status]int{}}
		}
		return by[name]
	}
	for a := range view.AllAccess() {
		if a.Kind == fsm.AccessUser && !a.Expired(time.Now()) {
			if u := get(a.User); a.Role.Allows(u.Role) || u.Role == "" {
				u.Role = a.Role
			}
		}
	}
	for e := range view.Experiments() {
		u := get(e.User)
		u.Experiments++
		u.Counts[e.Status]++
	}
	out := make([]User, 0, len(by))
	for _, u := range by {
		out = append(out, *u)
	}
	slices.SortFunc(out, func(a, b User) int { return strings.Compare(a.Name, b.Name) })
	return answer(w, http.StatusOK, usersAnswer{Users: out})
}

func (s *Server) me(w http.ResponseWriter, r *http.Request) error {
	c := callerOf(r)
	return answer(w, http.StatusOK, Me{User: c.user, Role: c.role, Token: c.access.ID, Expires: when(c.access.ExpiresAt)})
}

func (s *Server) listTokens(w http.ResponseWriter, _ *http.Request) error {
	out := tokensAnswer{Tokens: []TokenInfo{}}
	now := time.Now()
	for a := range s.o.Cluster.State().View().AllAccess() {
		out.Tokens = append(out.Tokens, TokenInfo{
			ID: a.ID, Kind: a.Kind, User: a.User, Role: a.Role, Uses: a.Uses, By: a.By, CreatedAt: a.CreatedAt,
			Expires: when(a.ExpiresAt), Expired: a.Expired(now),
		})
	}
	slices.SortStableFunc(out.Tokens, func(a, b TokenInfo) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return answer(w, http.StatusOK, out)
}

// Limits of a join token.
const (
	maxUses    = 1000
	maxJoinTTL = 30 * 24 * time.Hour
)

func (s *Server) createToken(w http.ResponseWriter, r *http.Request) error {
	var q TokenRequest
	if err := readBody(r, &q, false); err != nil {
		return err
	}
	switch q.Kind {
	case fsm.AccessJoin:
		return s.createJoinToken(w, r, q)
	case fsm.AccessUser:
		return s.createUserToken(w, r, q)
	}
	return problem(http.StatusUnprocessableEntity, fmt.Sprintf("kind %q is not join or user", clip(string(q.Kind), 50)), "")
}

func (s *Server) createJoinToken(w http.ResponseWriter, r *http.Request, q TokenRequest) error {
	uses, ttl := cmp.Or(q.Uses, 1), cmp.Or(time.Duration(q.TTL), time.Hour)
	if q.User != "" || q.Role != "" {
		return problem(http.StatusUnprocessableEntity, "a join token has no user and no role", "")
	}
	if uses < 1 || uses > maxUses || ttl > maxJoinTTL {
		return problem(http.StatusUnprocessableEntity, fmt.Sprintf("a join token has 1 to %d uses and lasts at most 30 days", maxUses), "")
	}
	text, a, err := s.o.Joins.CreateJoinToken(r.Context(), callerOf(r).user, uses, ttl)
	if err != nil {
		return err
	}
	return answer(w, http.StatusCreated, NewToken{Token: text, ID: a.ID, Expires: when(a.ExpiresAt)})
}

func (s *Server) createUserToken(w http.ResponseWriter, r *http.Request, q TokenRequest) error {
	if err := checkText("user", q.User, 64); err != nil {
		return err
	}
	if strings.TrimSpace(q.User) != q.User || q.User == "" {
		return problem(http.StatusUnprocessableEntity, "a user's token needs a user", "cvlab token create --user NAME --role member")
	}
	if !q.Role.Valid() {
		return problem(http.StatusUnprocessableEntity, fmt.Sprintf("role %q is not one of viewer, member, admin", clip(string(q.Role), 50)), "")
	}
	if q.Uses != 0 {
		return problem(http.StatusUnprocessableEntity, "a user's token has no number of uses", "")
	}
	text, a := NewUserToken(q.User, q.Role, time.Duration(q.TTL))
	// Without the caller's key: each request makes a secret of its own, so a repeat is another command.
	if _, err := s.propose(w, r, fsm.Entry{By: callerOf(r).user, At: time.Now(), Command: &fsm.Grant{Access: a}}); err != nil {
		return err
	}
	return answer(w, http.StatusCreated, NewToken{Token: text, ID: a.ID, Expires: when(a.ExpiresAt)})
}

func (s *Server) revokeToken(w http.ResponseWriter, r *http.Request) error {
	id := mux.Vars(r)["token"]
	if _, err := s.commit(w, r, &fsm.Revoke{ID: id}); err != nil {
		return err
	}
	return answer(w, http.StatusOK, messageAnswer{Message: "token " + id + " opens nothing any more"})
}
