package main

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/deveronica/cvlab/node"
	"github.com/deveronica/cvlab/ui/api"
)

// connect makes a client for the node that the flags, the environment, the settings or this machine name.
func (p *program) connect() (*api.Client, error) {
	o, err := p.clientOptions()
	if err != nil {
		return nil, err
	}
	return api.NewClient(o)
}

// connectAll makes a client that goes on with the other nodes when the asked one dies; for streams that last.
func (p *program) connectAll(ctx context.Context) (*api.Client, error) {
	o, err := p.clientOptions()
	if err != nil {
		return nil, err
	}
	c, err := api.NewClient(o)
	if err != nil {
		return nil, err
	}
	status, err := c.Cluster(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range status.Nodes {
		o.Fallback = append(o.Fallback, api.Address{URL: "https://" + n.HTTP, Fingerprint: n.ID})
	}
	return api.NewClient(o)
}

// target is everything that may say whom to talk to.
type target struct {
	settings settings
	login    savedLogin
	dir      string       // data directory of this machine's node
	here     node.Running // zero when it does not run
}

func (p *program) clientOptions() (api.ClientOptions, error) {
	var t target
	var err error
	if t.settings, err = loadSettings(); err != nil {
		return api.ClientOptions{}, err
	}
	if t.login, err = loadLogin(); err != nil {
		return api.ClientOptions{}, err
	}
	t.dir, _ = p.dataDir(t.settings)
	if here, err := node.ReadRunning(t.dir); err == nil {
		t.here = here
	}
	o := api.ClientOptions{}
	if o.URL, err = p.serverURL(t); err != nil {
		return o, err
	}
	loggedIn := t.login.ServerURL != "" && p.data == "" && sameServer(o.URL, t.login.ServerURL)
	if loggedIn {
		o.Fingerprint = t.login.Fingerprint
	}
	o.Token = p.tokenFor(t, o.URL, loggedIn)
	return o, nil
}

// serverURL finds the server, strongest first: flag, environment, settings, login, the node on this machine. A data
// directory that somebody names means the node that runs on it.
func (p *program) serverURL(t target) (string, error) {
	env := os.Getenv("CVLAB_SERVER_URL")
	switch {
	case p.server != "":
		return p.server, nil
	case p.data != "":
		return t.running()
	case env != "":
		return env, nil
	case os.Getenv("CVLAB_DATA_DIR") != "":
		return t.running()
	case t.settings.ServerURL != "":
		return t.settings.ServerURL, nil
	case t.login.ServerURL != "":
		return t.login.ServerURL, nil
	case t.settings.DataDir != "":
		return t.running()
	}
	return first(t.here.HTTP, "http://127.0.0.1:8000"), nil
}

func (t target) running() (string, error) {
	if t.here.HTTP == "" {
		return "", &exitError{code: exitUnreachable, err: fmt.Errorf("no node runs on %s; start it with cvlab up, or name a server with --server or CVLAB_SERVER_URL", t.dir)}
	}
	return t.here.HTTP, nil
}

// tokenFor finds the token. That of a node's directory and that of a login go to no other server than theirs, unless the
// directory was named along with the server.
func (p *program) tokenFor(t target, server string, loggedIn bool) string {
	if token := os.Getenv("CVLAB_TOKEN"); token != "" {
		return token
	}
	if loggedIn && t.login.Token != "" {
		return t.login.Token
	}
	if p.data != "" || os.Getenv("CVLAB_DATA_DIR") != "" || t.here.HTTP != "" && sameServer(server, t.here.HTTP) {
		// Without the right to read it, the settings' counts.
		if token, err := node.ReadToken(t.dir); err == nil {
			return token
		}
	}
	return t.settings.Token
}

// sameServer says whether two URLs name one server, however they are written.
func sameServer(a, b string) bool {
	x, errX := hostPort(a)
	y, errY := hostPort(b)
	return errX == nil && errY == nil && x == y
}

// hostPort gives host:port of a server's URL; without a scheme and port it is port 8000.
func hostPort(server string) (string, error) {
	port := map[string]string{"http": "80", "https": "443"}
	if !strings.Contains(server, "://") {
		server, port = "http://"+server, map[string]string{"http": "8000"}
	}
	u, err := url.Parse(server)
	if err != nil || u.Hostname() == "" || port[u.Scheme] == "" {
		return "", usage("server URL %q is not of the form https://host:8000", server)
	}
	host := strings.ToLower(u.Hostname())
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, first(u.Port(), port[u.Scheme])), nil
}
