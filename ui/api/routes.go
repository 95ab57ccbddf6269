package api

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"github.com/deveronica/cvlab/fsm"
)

// route is one line of the table that the router, the description and the security tests are made from.
type route struct {
	method string
	path   string
	// role is what the caller's token must allow; anyone marks a route that is open to all.
	role   fsm.Role
	handle func(*Server, http.ResponseWriter, *http.Request) error
	// stream marks answers that may take longer than handlerTime; they watch their own deadlines.
	stream  bool
	summary string
	in, out any      // examples of the bodies' types, for the description; nil for none
	query   []string // names of the query's parameters
}

// anyone is the role of the few open routes: they tell nothing about the lab.
const anyone fsm.Role = ""

// handlerTime bounds every answer that is not a stream.
const handlerTime = 10 * time.Second

func routes() []route {
	list := []string{"status", "project", "user", "node", "sweep", "text", "sort", "limit", "cursor"}
	return []route{
		{method: "POST", path: "/api/queue/add", role: fsm.Member, handle: (*Server).add, summary: "Submit experiments", in: AddRequest{}, out: Added{}},
		{method: "POST", path: "/api/queue/preview", role: fsm.Viewer, handle: (*Server).preview, summary: "What a submission would make; nothing is stored", in: AddRequest{}, out: Preview{}},
		{method: "POST", path: "/api/queue/bulk", role: fsm.Member, handle: (*Server).bulk, summary: "Do one thing to many experiments", in: BulkRequest{}, out: Changed{}},
		{method: "GET", path: "/api/queue", role: fsm.Viewer, handle: (*Server).queue, summary: "List experiments", out: Queue{}, query: list},
		{method: "GET", path: "/api/queue/{id:[0-9]+}", role: fsm.Viewer, handle: (*Server).get, summary: "One experiment with its attempts", out: Detail{}},
		{method: "PATCH", path: "/api/queue/{id:[0-9]+}", role: fsm.Member, handle: (*Server).patch, summary: "Change priority, name, tags or notes", in: Patch{}, out: Changed{}},
		{method: "POST", path: "/api/queue/{id:[0-9]+}/cancel", role: fsm.Member, handle: (*Server).cancel, summary: "End an experiment", in: actionBody{}, out: Changed{}},
		{method: "POST", path: "/api/queue/{id:[0-9]+}/retry", role: fsm.Member, handle: (*Server).retry, summary: "Send a failed or cancelled experiment back to the queue", out: Changed{}},
		{method: "POST", path: "/api/queue/{id:[0-9]+}/hold", role: fsm.Member, handle: (*Server).hold, summary: "Keep a waiting experiment from starting", in: actionBody{}, out: Changed{}},
		{method: "POST", path: "/api/queue/{id:[0-9]+}/release", role: fsm.Member, handle: (*Server).release, summary: "Let a held experiment wait for its turn again", out: Changed{}},
		{method: "GET", path: "/api/queue/{id:[0-9]+}/why", role: fsm.Viewer, handle: (*Server).why, summary: "Why an experiment waits, and what would start it", out: Explanation{}},
		{method: "GET", path: "/api/queue/{id:[0-9]+}/config", role: fsm.Viewer, handle: (*Server).config, summary: "The config that is handed on to the run, as text"},
		{method: "GET", path: "/api/queue/{id:[0-9]+}/logs", role: fsm.Viewer, handle: (*Server).logs, stream: true, summary: "Output as text, or live with Accept: text/event-stream", query: []string{"attempt", "from", "tail"}},
		{method: "GET", path: "/api/queue/{id:[0-9]+}/metrics", role: fsm.Viewer, handle: (*Server).metrics, summary: "Series for charts, with every peak; points=0 gives last and extreme values only", out: Metrics{}, query: []string{"keys", "points", "from", "to", "attempt"}},
		{method: "GET", path: "/api/metrics", role: fsm.Viewer, handle: (*Server).compare, summary: "Series of up to 100 experiments at once", out: comparison{}, query: []string{"id", "keys", "points", "from", "to"}},
		{method: "GET", path: "/api/queue/{id:[0-9]+}/checkpoints", role: fsm.Viewer, handle: (*Server).checkpoints, summary: "The newest published checkpoints, newest first", out: checkpointsAnswer{}},
		{method: "GET", path: "/api/devices", role: fsm.Viewer, handle: (*Server).listDevices, summary: "Nodes with their GPUs and what runs there", out: devicesAnswer{}},
		{method: "GET", path: "/api/devices/heartbeat", role: fsm.Viewer, handle: (*Server).heartbeats, summary: "Seconds since each node was heard, null for never", out: map[string]*float64{}},
		{method: "POST", path: "/api/devices/heartbeat", role: fsm.Member, handle: (*Server).ignoreHeartbeat, summary: "Accepted and ignored: nodes report by themselves", out: messageAnswer{}},
		{method: "POST", path: "/api/devices/{node}/drain", role: fsm.Admin, handle: (*Server).drain, summary: "Give a node no new work; now also stops what runs there, after a checkpoint", in: drainBody{}, out: messageAnswer{}},
		{method: "POST", path: "/api/devices/{node}/resume", role: fsm.Admin, handle: (*Server).resume, summary: "Give a drained node work again", out: messageAnswer{}},
		{method: "POST", path: "/api/devices/{node}/strays/{stray}/kill", role: fsm.Admin, handle: (*Server).killStray, summary: "End an attempt that the facts do not know", out: messageAnswer{}},
		{method: "DELETE", path: "/api/devices/{node}", role: fsm.Admin, handle: (*Server).removeNode, summary: "Forget a node for good; off=true says that it is switched off", out: messageAnswer{}, query: []string{"off"}},
		{method: "GET", path: "/api/projects", role: fsm.Viewer, handle: (*Server).listProjects, summary: "Projects with counts", out: projectsAnswer{}},
		{method: "GET", path: "/api/projects/{name}", role: fsm.Viewer, handle: (*Server).project, summary: "One project", out: Project{}},
		{method: "GET", path: "/api/projects/{name}/experiments", role: fsm.Viewer, handle: (*Server).upstreamProject, summary: "A project's experiments in cvlab-kit's shape", out: upstreamProject{}},
		{method: "GET", path: "/api/queue/list", role: fsm.Viewer, handle: (*Server).upstreamList, summary: "The queue in cvlab-kit's shape", out: upstreamList{}, query: []string{"status", "project", "limit", "offset"}},
		{method: "GET", path: "/api/queue/stats", role: fsm.Viewer, handle: (*Server).upstreamStats, summary: "Counts in cvlab-kit's shape", out: upstreamStats{}},
		{method: "POST", path: "/api/queue/experiment/{uid}/cancel", role: fsm.Member, handle: (*Server).upstreamCancel, summary: "Cancel, as cvlab-kit's scripts do", out: messageAnswer{}},
		{method: "GET", path: "/api/cluster", role: fsm.Viewer, handle: (*Server).cluster, summary: "Leader, voters and members", out: ClusterStatus{}},
		{method: "GET", path: "/api/cluster/replica", role: fsm.Viewer, handle: (*Server).replica, summary: "Digest of this node's copy of the facts, to compare copies at the same index; computed for each request", out: Replica{}},
		{method: "POST", path: "/api/cluster/join", role: fsm.Admin, handle: (*Server).joinOther, summary: "Make this node, alone and without experiments, join another cluster", in: JoinRequest{}, out: messageAnswer{}},
		{method: "POST", path: "/api/cluster/leave", role: fsm.Admin, handle: (*Server).leave, summary: "Get this node, on which nothing runs any more, out of its cluster", out: messageAnswer{}},
		{method: "GET", path: "/api/tokens", role: fsm.Admin, handle: (*Server).listTokens, summary: "Tokens without their secrets", out: tokensAnswer{}},
		{method: "POST", path: "/api/tokens", role: fsm.Admin, handle: (*Server).createToken, summary: "Make a token for a user or for joining machines", in: TokenRequest{}, out: NewToken{}},
		{method: "DELETE", path: "/api/tokens/{token}", role: fsm.Admin, handle: (*Server).revokeToken, summary: "Take a token back, by its ID", out: messageAnswer{}},
		{method: "GET", path: "/api/users", role: fsm.Viewer, handle: (*Server).listUsers, summary: "People with their experiments", out: usersAnswer{}},
		{method: "GET", path: "/api/me", role: fsm.Viewer, handle: (*Server).me, summary: "Whose token this is", out: Me{}},
		{method: "GET", path: "/api/events", role: fsm.Viewer, handle: (*Server).events, stream: true, summary: "Changes as server-sent events; resumes with Last-Event-ID"},
		{method: "GET", path: "/api/openapi.json", role: fsm.Viewer, handle: (*Server).description, summary: "This description"},
		{method: "GET", path: "/healthz", role: anyone, handle: (*Server).healthz, summary: "The process answers"},
		{method: "GET", path: "/readyz", role: anyone, handle: (*Server).readyz, summary: "This node has a leader and is caught up"},
		{method: "GET", path: "/login", role: anyone, handle: (*Server).loginPage, summary: "The sign-in page", query: []string{"code"}},
		{method: "POST", path: "/login", role: anyone, handle: (*Server).login, summary: "Exchange a one-time code or a token for a cookie"},
		{method: "POST", path: "/logout", role: anyone, handle: (*Server).logout, summary: "End the browser's session"},
	}
}

func (s *Server) newRouter(table []route) *mux.Router {
	router := mux.NewRouter()
	// Literal paths first: routes are tried in order.
	slices.SortStableFunc(table, func(a, b route) int {
		return strings.Count(a.path, "{") - strings.Count(b.path, "{")
	})
	for _, row := range table {
		methods := []string{row.method}
		if row.method == http.MethodGet && !row.stream {
			methods = append(methods, http.MethodHead)
		}
		router.Path(row.path).Methods(methods...).Name(row.method + " " + row.path).Handler(s.serve(row))
	}
	if s.o.Pages != nil && !s.o.NoUI {
		router.NewRoute().Name("pages").MatcherFunc(isPage).Methods(http.MethodGet, http.MethodHead).Handler(s.o.Pages)
	}
	router.NotFoundHandler = s.serve(route{role: fsm.Viewer, handle: (*Server).notFound})
	router.MethodNotAllowedHandler = s.serve(route{role: fsm.Viewer, handle: (*Server).wrongMethod})
	return router
}

func isPage(r *http.Request, _ *mux.RouteMatch) bool {
	return r.URL.Path != "/api" && !strings.HasPrefix(r.URL.Path, "/api/")
}

// serve is the only way from the router to a handler: no route can be without the check of its role.
func (s *Server) serve(row route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.allowed(row.role, r); err != nil {
			s.refuse(w, r, err)
			return
		}
		ctx := r.Context()
		if !row.stream {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, handlerTime)
			defer cancel()
			r = r.WithContext(ctx)
		}
		if r.Method == http.MethodGet && row.role != anyone {
			if err := s.stampRead(ctx, w, r); err != nil {
				s.refuse(w, r, err)
				return
			}
		}
		if err := row.handle(s, w, r); err != nil {
			s.refuse(w, r, err)
		}
	})
}

// stampRead says how old the answer is, and makes it new when the caller asks for that.
func (s *Server) stampRead(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	age := s.o.Cluster.Age()
	if r.URL.Query().Get("consistent") == "1" {
		if err := s.o.Cluster.Barrier(ctx); err != nil {
			return err
		}
		age = 0
	}
	setAge(w, age)
	return nil
}

func (s *Server) notFound(_ http.ResponseWriter, r *http.Request) error {
	return problem(http.StatusNotFound, "there is no "+clip(r.URL.Path, 100)+" here", "GET /api/openapi.json lists what there is")
}

func (s *Server) wrongMethod(w http.ResponseWriter, r *http.Request) error {
	var allow []string
	probe := *r
	for _, m := range []string{"GET", "HEAD", "POST", "PATCH", "DELETE"} {
		probe.Method = m
		var match mux.RouteMatch
		if s.router.Match(&probe, &match) && match.MatchErr == nil {
			allow = append(allow, m)
		}
	}
	w.Header().Set("Allow", strings.Join(allow, ", "))
	return problem(http.StatusMethodNotAllowed, r.Method+" is not possible here", "possible: "+strings.Join(allow, ", "))
}
