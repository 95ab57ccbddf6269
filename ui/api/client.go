package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/deveronica/cvlab/cluster/mesh"
)

// Address is where the API is served. Every node of a cluster serves the same.
type Address struct {
	// URL is http://host:port or https://host:port; without a scheme it is http.
	URL string
	// Fingerprint is the ID of the node that must answer. It takes the place of a certificate authority, and it turns
	// http to another machine into https. Empty means that the system's authorities decide.
	Fingerprint string
}

// ClientOptions says whom a Client talks to and as whom.
type ClientOptions struct {
	URL         string // as Address.URL
	Fingerprint string // as Address.Fingerprint
	// Fallback are more servers of the same cluster, asked when the first does not answer.
	Fallback []Address
	// Token is the text of a user's token.
	Token string
	// HTTP replaces the client's own transport, for tests; fingerprints are then not checked.
	HTTP *http.Client
	// RetryFor is how long a call is repeated while the cluster has no leader or is busy; 0 means 8 s: a leader is replaced
	// in less, and nobody should wait for more than 10 s. A call that no server answers at all ends after a third of it.
	RetryFor time.Duration
}

// Client speaks the REST API. It is safe for concurrent use and needs no closing.
//
// Writes carry an idempotency key and are repeated with it while the answer is "not now" or the connection breaks, so
// that a change of leader or the death of the asked server is not noticed. Errors are *Error when a server answered,
// else they wrap ErrUnreachable or the context's error.
type Client struct {
	token    string
	servers  []endpoint
	current  atomic.Int32 // index of the server that answered last
	retryFor time.Duration
}

type endpoint struct {
	base *url.URL
	http *http.Client
}

// NewClient makes a client; it connects to nothing yet.
func NewClient(o ClientOptions) (*Client, error) {
	c := &Client{token: o.Token, retryFor: o.RetryFor}
	if c.retryFor <= 0 {
		c.retryFor = 8 * time.Second
	}
	for _, s := range append([]Address{{URL: o.URL, Fingerprint: o.Fingerprint}}, o.Fallback...) {
		e, err := newEndpoint(s, o.HTTP)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(c.servers, func(x endpoint) bool { return *x.base == *e.base }) {
			c.servers = append(c.servers, e)
		}
	}
	return c, nil
}

func newEndpoint(s Address, use *http.Client) (endpoint, error) {
	text := s.URL
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return endpoint{}, fmt.Errorf("server URL %q is not of the form http://host:8000", s.URL)
	}
	if s.Fingerprint != "" && u.Scheme == "http" && !isLoopback(u.Hostname()) {
		u.Scheme = "https" // the token must not travel in the clear when there is a way to know the other end
	}
	base := &url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimRight(u.Path, "/")}
	if use != nil {
		return endpoint{base: base, http: use}, nil
	}
	return endpoint{base: base, http: &http.Client{Transport: &http.Transport{
		TLSClientConfig:       pinned(s.Fingerprint),
		DialContext:           (&net.Dialer{Timeout: 3 * time.Second, KeepAlive: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout:   5 * time.Second,
		ResponseHeaderTimeout: 15 * time.Second, // the server bounds its own work by 10 s
		IdleConnTimeout:       30 * time.Second,
		Proxy:                 http.ProxyFromEnvironment,
	}}}, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// errWrongKey ends a handshake with a server that is not the node that was asked for.
var errWrongKey = errors.New("the server's key is not the one that was pinned: it is another machine, or its data directory was replaced; if that was meant, sign in again with cvlab login")

// pinned accepts any certificate with the node's key when a fingerprint is given, and what the system trusts otherwise.
func pinned(fingerprint string) *tls.Config {
	if fingerprint == "" {
		return &tls.Config{MinVersion: tls.VersionTLS13}
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // names and authorities say nothing here; the key below is the identity
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 || mesh.FingerprintID(cs.PeerCertificates[0]) != strings.ToLower(fingerprint) {
				return errWrongKey
			}
			return nil
		},
	}
}

// server gives the endpoint to ask in the given try, beginning with the one that answered last.
func (c *Client) server(try int) (int32, endpoint) {
	i := (int(c.current.Load()) + try) % len(c.servers)
	return int32(i), c.servers[i]
}

// URL is the address of the server that answered last.
func (c *Client) URL() string {
	_, e := c.server(0)
	return e.base.String()
}

// sleep waits, or gives the context's error.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
