package api

import (
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/gorilla/mux"

	"github.com/deveronica/cvlab/fsm"
)

// Options are what a Server is made of.
type Options struct {
	Cluster  Cluster
	Machines Machines
	Logs     Logs
	Charts   Charts
	Joins    Joins
	Version  string // of this program
	NodeName string
	Logger   *slog.Logger
	// Local is the token of this machine's own programs. It is good on this node before it was granted by a commit, so that
	// they can ask a node that has no leader yet; nil for none.
	Local *fsm.Access
	// AllowedHosts gives the names this node may be called by in a Host header, without port. localhost, IP addresses
	// and NodeName are always allowed. Nil adds none.
	AllowedHosts func() []string
	// NoUI serves no pages, only the API and the sign-in.
	NoUI bool
	// Pages serves everything that is not under /api/; nil is the same as NoUI.
	Pages http.Handler
}

// Server answers the REST API. It starts nothing by itself; its streams end with the context of their requests.
type Server struct {
	o       Options
	log     *slog.Logger
	router  *mux.Router
	links   *loginLinks
	failed  *failures
	devices *deviceFeed
	openapi []byte
	// bodyTime is how long a request's body may take to arrive: less than handlerTime, so that a refusal can be told.
	bodyTime time.Duration
}

// New makes a Server. All of Cluster, Machines, Logs, Charts, Joins and Logger are required.
func New(o Options) (*Server, error) {
	if o.Cluster == nil || o.Machines == nil || o.Logs == nil || o.Charts == nil || o.Joins == nil || o.Logger == nil {
		return nil, errors.New("make API server: Cluster, Machines, Logs, Charts, Joins and Logger are required")
	}
	s := &Server{o: o, log: o.Logger.With("component", "api"), links: newLoginLinks(), failed: newFailures(), bodyTime: handlerTime * 8 / 10}
	s.devices = &deviceFeed{}
	description, err := describe(routes(), o.Version)
	if err != nil {
		return nil, err
	}
	s.openapi = description
	s.router = s.newRouter(routes())
	return s, nil
}

// Handler gives the whole door: every layer and the router. The caller's http.Server sets the header limit and timeouts,
// and a BaseContext that ends the streams at shutdown.
func (s *Server) Handler() http.Handler {
	var h http.Handler = s.router
	h = s.logged(h)
	h = s.authenticated(h)
	h = s.sameOrigin(h)
	h = s.knownHost(h)
	return s.limited(h)
}

// LoginLink makes a path that signs a browser in as the administrator, once and within 15 minutes, on this node only.
func (s *Server) LoginLink() string { return "/login?code=" + s.links.create() }
