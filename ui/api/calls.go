package api

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/deveronica/cvlab/fsm"
)

// Add submits. The request's Key, or else a fresh one, makes repeats harmless.
func (c *Client) Add(ctx context.Context, r AddRequest) (Added, error) {
	var a Added
	var err error
	a.Index, err = c.do(ctx, call{method: http.MethodPost, path: "/api/queue/add", body: r, key: r.Key, out: &a})
	return a, err
}

// Preview says what Add would make, or why it would not.
func (c *Client) Preview(ctx context.Context, r AddRequest) (Preview, error) {
	var p Preview
	_, err := c.do(ctx, call{method: http.MethodPost, path: "/api/queue/preview", body: r, out: &p})
	return p, err
}

// Queue lists one page of experiments.
func (c *Client) Queue(ctx context.Context, q QueueQuery) (Queue, error) {
	var page Queue
	_, err := c.do(ctx, call{method: http.MethodGet, path: "/api/queue", query: q.values(), out: &page})
	return page, err
}

func (q QueueQuery) values() url.Values {
	v := url.Values{}
	set := func(key, value string) {
		if value != "" {
			v.Set(key, value)
		}
	}
	words := make([]string, 0, len(q.Status))
	for _, s := range q.Status {
		words = append(words, string(s))
	}
	set("status", strings.Join(words, ","))
	set("project", q.Project)
	set("user", q.User)
	set("node", q.Node)
	set("text", q.Text)
	set("sort", q.Sort)
	set("cursor", q.Cursor)
	if q.Sweep > 0 {
		set("sweep", strconv.FormatUint(q.Sweep, 10))
	}
	if q.Limit > 0 {
		set("limit", strconv.Itoa(q.Limit))
	}
	return v
}

// Get gives one experiment with its attempts.
func (c *Client) Get(ctx context.Context, id uint64) (Detail, error) {
	var d Detail
	_, err := c.do(ctx, call{method: http.MethodGet, path: queuePath(id, ""), out: &d})
	return d, err
}

// Metrics gives the series of one experiment: of an attempt (0: the newest), with at most points values each, 0 for only what
// a list shows; no key means all.
func (c *Client) Metrics(ctx context.Context, id uint64, attempt, points int, keys ...string) (Metrics, error) {
	var m Metrics
	q := url.Values{"points": {strconv.Itoa(points)}, "keys": keys}
	if attempt > 0 {
		q.Set("attempt", strconv.Itoa(attempt))
	}
	_, err := c.do(ctx, call{method: http.MethodGet, path: queuePath(id, "/metrics"), query: q, out: &m})
	return m, err
}

func queuePath(id uint64, what string) string {
	return "/api/queue/" + strconv.FormatUint(id, 10) + what
}

// Patch changes priority, name, tags or notes.
func (c *Client) Patch(ctx context.Context, id uint64, p Patch) (Changed, error) {
	return c.change(ctx, call{method: http.MethodPatch, path: queuePath(id, ""), body: p})
}

// Cancel ends an experiment: at once while it waits, as soon as its processes are gone while it runs.
func (c *Client) Cancel(ctx context.Context, id uint64, reason string) (Changed, error) {
	return c.change(ctx, call{method: http.MethodPost, path: queuePath(id, "/cancel"), body: actionBody{Reason: reason}})
}

// Retry sends a failed or cancelled experiment back to the queue.
func (c *Client) Retry(ctx context.Context, id uint64) (Changed, error) {
	return c.change(ctx, call{method: http.MethodPost, path: queuePath(id, "/retry")})
}

// Hold keeps a waiting experiment from starting.
func (c *Client) Hold(ctx context.Context, id uint64, reason string) (Changed, error) {
	return c.change(ctx, call{method: http.MethodPost, path: queuePath(id, "/hold"), body: actionBody{Reason: reason}})
}

// Release lets a held experiment wait for its turn again.
func (c *Client) Release(ctx context.Context, id uint64) (Changed, error) {
	return c.change(ctx, call{method: http.MethodPost, path: queuePath(id, "/release")})
}

// Bulk does one thing to many experiments in one step.
func (c *Client) Bulk(ctx context.Context, r BulkRequest) (Changed, error) {
	return c.change(ctx, call{method: http.MethodPost, path: "/api/queue/bulk", body: r})
}

func (c *Client) change(ctx context.Context, q call) (Changed, error) {
	var done Changed
	var err error
	q.out = &done
	done.Index, err = c.do(ctx, q)
	return done, err
}

// Why explains why an experiment waits.
func (c *Client) Why(ctx context.Context, id uint64) (Explanation, error) {
	var x Explanation
	_, err := c.do(ctx, call{method: http.MethodGet, path: queuePath(id, "/why"), out: &x})
	return x, err
}

// Config gives the config that is handed on to the experiment's run, as text.
func (c *Client) Config(ctx context.Context, id uint64) (string, error) {
	resp, err := c.open(ctx, call{method: http.MethodGet, path: queuePath(id, "/config"), accept: "text/plain"})
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return string(text), err
}

// Devices lists the nodes with their GPUs.
func (c *Client) Devices(ctx context.Context) ([]Device, error) {
	var out struct {
		Devices []Device `json:"devices"`
	}
	_, err := c.do(ctx, call{method: http.MethodGet, path: "/api/devices", out: &out})
	return out.Devices, err
}

// Drain keeps new work from a node, given by name, ID or the beginning of its ID.
func (c *Client) Drain(ctx context.Context, node string) error {
	_, err := c.do(ctx, call{method: http.MethodPost, path: nodePath(node, "/drain")})
	return err
}

// DrainNow is Drain, and has what runs there stopped after a checkpoint, so that it goes on elsewhere.
func (c *Client) DrainNow(ctx context.Context, node string) error {
	_, err := c.do(ctx, call{method: http.MethodPost, path: nodePath(node, "/drain"), body: drainBody{Now: true}})
	return err
}

// KillStray ends an attempt that runs on a node and that the facts do not know.
func (c *Client) KillStray(ctx context.Context, node, token string) error {
	_, err := c.do(ctx, call{method: http.MethodPost, path: nodePath(node, "/strays/"+url.PathEscape(token)+"/kill")})
	return err
}

// Resume undoes Drain.
func (c *Client) Resume(ctx context.Context, node string) error {
	_, err := c.do(ctx, call{method: http.MethodPost, path: nodePath(node, "/resume")})
	return err
}

// RemoveNode makes the cluster forget a node for good. Off is a person's word that the machine is switched off; without
// it a node that may still run experiments is not removed.
func (c *Client) RemoveNode(ctx context.Context, node string, off bool) error {
	q := url.Values{}
	if off {
		q.Set("off", "true")
	}
	_, err := c.do(ctx, call{method: http.MethodDelete, path: nodePath(node, ""), query: q})
	return err
}

func nodePath(node, what string) string { return "/api/devices/" + url.PathEscape(node) + what }

// Projects lists the projects with their counts, the newest first.
func (c *Client) Projects(ctx context.Context) ([]Project, error) {
	var out struct {
		Projects []Project `json:"projects"`
	}
	_, err := c.do(ctx, call{method: http.MethodGet, path: "/api/projects", out: &out})
	return out.Projects, err
}

// Cluster gives the cluster as the asked node sees it.
func (c *Client) Cluster(ctx context.Context) (ClusterStatus, error) {
	var s ClusterStatus
	_, err := c.do(ctx, call{method: http.MethodGet, path: "/api/cluster", out: &s})
	return s, err
}

// Replica gives the digest of the asked node's copy of the facts. Copies at the same index have the same digest.
func (c *Client) Replica(ctx context.Context) (Replica, error) {
	var r Replica
	_, err := c.do(ctx, call{method: http.MethodGet, path: "/api/cluster/replica", out: &r})
	return r, err
}

// Me says whose token this client carries.
func (c *Client) Me(ctx context.Context) (Me, error) {
	var m Me
	_, err := c.do(ctx, call{method: http.MethodGet, path: "/api/me", out: &m})
	return m, err
}

// CreateToken makes a token; its text is shown this once. It is not repeated when the answer is lost, since that would
// make a second token.
func (c *Client) CreateToken(ctx context.Context, r TokenRequest) (NewToken, error) {
	var t NewToken
	_, err := c.do(ctx, call{method: http.MethodPost, path: "/api/tokens", body: r, out: &t, once: true})
	return t, err
}

// JoinOther makes the asked node join another cluster. It answers before the node has changed over.
func (c *Client) JoinOther(ctx context.Context, peer, token string) error {
	_, err := c.do(ctx, call{method: http.MethodPost, path: "/api/cluster/join", body: JoinRequest{Peer: peer, Token: token}, once: true})
	return err
}

// Tokens lists the tokens without their secrets.
func (c *Client) Tokens(ctx context.Context) ([]TokenInfo, error) {
	var out struct {
		Tokens []TokenInfo `json:"tokens"`
	}
	_, err := c.do(ctx, call{method: http.MethodGet, path: "/api/tokens", out: &out})
	return out.Tokens, err
}

// RevokeToken takes a token back, by ID.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	_, err := c.do(ctx, call{method: http.MethodDelete, path: "/api/tokens/" + url.PathEscape(id)})
	return err
}

// Users lists the people that tokens and experiments name.
func (c *Client) Users(ctx context.Context) ([]User, error) {
	var out struct {
		Users []User `json:"users"`
	}
	_, err := c.do(ctx, call{method: http.MethodGet, path: "/api/users", out: &out})
	return out.Users, err
}

// actionBody is the optional body of an action on one experiment.
type actionBody struct {
	Reason string `json:"reason,omitempty"`
}

// FinalStatus is how a followed experiment, or one attempt of it, ended: the data of the "end" event.
type FinalStatus struct {
	Status     fsm.Status `json:"status"`
	ExitCode   *int       `json:"exit_code"`
	Class      fsm.Class  `json:"class"`
	Sentence   string     `json:"sentence"`
	Experiment Experiment `json:"experiment"`
}
