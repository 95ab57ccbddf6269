package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/deveronica/cvlab/cluster"
	"github.com/deveronica/cvlab/cluster/mesh"
	"github.com/deveronica/cvlab/fsm"
)

// deadServer gives an address where nobody listens.
func deadServer(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return "http://" + ln.Addr().String()
}

func quickClient(t *testing.T, l *lab, url string, more ...Address) *Client {
	t.Helper()
	c := l.client(url, tokenAna, more...)
	c.retryFor = 300 * time.Millisecond
	return c
}

// The leader changes while somebody submits: the client repeats, and one experiment is made.
func TestSubmissionOverALeaderChangeHappensOnce(t *testing.T) {
	for name, trouble := range map[string]func(l *lab){
		"not applied": func(l *lab) { l.before = untilTry(3, cluster.ErrNotApplied) },
		"no leader":   func(l *lab) { l.before = untilTry(3, cluster.ErrNoLeader) },
		"busy":        func(l *lab) { l.before = untilTry(3, cluster.ErrBusy) },
		// It was applied, and the answer was lost: the worst case.
		"applied but unknown": func(l *lab) { l.after = untilTry(3, cluster.ErrUnknown) },
	} {
		l := newLab(t)
		trouble(l)
		c := l.client(l.serve(), tokenAna)
		a, err := c.Add(t.Context(), AddRequest{Config: "project: cats\n"})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if l.state.View().Experiment(2) != nil || len(a.Experiments) != 1 || a.Experiments[0].ID != 1 || l.proposed != 3 {
			t.Errorf("%s: %d proposals made %+v", name, l.proposed, a)
		}
	}
}

func untilTry(n int, err error) func(int) error {
	return func(try int) error {
		if try < n {
			return err
		}
		return nil
	}
}

// The asked server dies after it has done the work, before it answers.
func TestSubmissionOverADeadServerHappensOnce(t *testing.T) {
	l := newLab(t)
	var dying atomic.Int32
	dies := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		dying.Add(1)
		l.srv.Handler().ServeHTTP(httptest.NewRecorder(), r)
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			conn.Close()
		}
	}))
	t.Cleanup(dies.Close)
	c := l.client(dies.URL, tokenAna, Address{URL: deadServer(t)}, Address{URL: l.serve()})
	a, err := c.Add(t.Context(), AddRequest{Config: "project: cats\n"})
	if err != nil {
		t.Fatal(err)
	}
	if dying.Load() == 0 || l.state.View().Experiment(2) != nil || a.Experiments[0].ID != 1 {
		t.Errorf("%d requests to the dying server made %+v", dying.Load(), a)
	}
	// Who answered last is asked first.
	before := dying.Load()
	if _, err := c.Queue(t.Context(), QueueQuery{}); err != nil || dying.Load() != before {
		t.Errorf("the dead server is asked again: %v", err)
	}
}

// The errors let the command line choose its exit code.
func TestClientErrorsTellWhatIsKnown(t *testing.T) {
	l := newLab(t)
	url := l.serve()

	_, err := quickClient(t, l, deadServer(t)).Queue(t.Context(), QueueQuery{})
	if !errors.Is(err, ErrUnreachable) {
		t.Errorf("nobody there: %v", err)
	}
	_, err = quickClient(t, l, deadServer(t)).Add(t.Context(), AddRequest{Config: "a: 1"})
	if !errors.Is(err, ErrUnreachable) {
		t.Errorf("nobody there to submit to: %v", err)
	}
	var e *Error
	stranger := l.client(url, "cvu_wrong")
	if _, err = stranger.Queue(t.Context(), QueueQuery{}); !errors.As(err, &e) || !e.NotAllowed() || e.Status != 401 {
		t.Errorf("wrong token: %v", err)
	}
	if _, err = l.client(url, tokenViewer).Add(t.Context(), AddRequest{Config: "a: 1"}); !errors.As(err, &e) || !e.NotAllowed() || e.Status != 403 {
		t.Errorf("viewer submits: %v", err)
	}
	if _, err = l.client(url, tokenAna).Add(t.Context(), AddRequest{Config: "a: 1\n\tb: 2"}); !errors.As(err, &e) || len(e.Problems) != 1 || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("bad config: %v", err)
	}
	l.after = func(int) error { return cluster.ErrUnknown }
	if _, err = quickClient(t, l, url).Add(t.Context(), AddRequest{Config: "a: 1", Key: "mine"}); !errors.As(err, &e) || !e.OutcomeUnknown() || e.Key != "mine" {
		t.Errorf("unknown: %v", err)
	}
	l.after, l.before = nil, func(int) error { return cluster.ErrNoLeader }
	if _, err = quickClient(t, l, url).Add(t.Context(), AddRequest{Config: "a: 1"}); !errors.As(err, &e) || e.OutcomeUnknown() || e.Status != 503 {
		t.Errorf("no leader for long: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = l.client(url, tokenAna).Queue(ctx, QueueQuery{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// A proxy or another program on the port answers: the client says so and does not crash.
func TestClientMeetsAnotherProgram(t *testing.T) {
	l := newLab(t)
	for _, body := range []string{"<html>nginx</html>", "", `{"detail":"x"}`, `[1]`} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadGateway)
			w.Write([]byte(body))
		}))
		_, err := quickClient(t, l, s.URL).Cluster(t.Context())
		var e *Error
		if !errors.As(err, &e) || e.Status != 502 {
			t.Errorf("%q: %v", body, err)
		}
		s.Close()
	}
}

// Every method speaks the routes as they are served.
func TestClientSpeaksEveryRoute(t *testing.T) {
	l := story(t)
	c := l.client(l.serve(), tokenAdmin)
	ctx := t.Context()
	try := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if q, err := c.Queue(ctx, QueueQuery{Status: []fsm.Status{fsm.Pending}, Project: "birds", Sort: "id", Limit: 2}); err != nil || len(q.Experiments) != 2 || q.Next == "" {
		t.Errorf("queue: %+v, %v", q, err)
	} else if string(q.Experiments[1].Params[0].Value) != `"auto"` {
		t.Errorf("params: %+v", q.Experiments[1].Params)
	}
	d, err := c.Get(ctx, 2)
	try("get", err)
	if d.ExitCode == nil || *d.ExitCode != 3 || len(d.Attempts) != 1 {
		t.Errorf("get: %+v", d)
	}
	_, err = c.Preview(ctx, AddRequest{Config: "project: x\n"})
	try("preview", err)
	name := "new name"
	changed, err := c.Patch(ctx, 4, Patch{Name: &name})
	try("patch", err)
	if changed.Index == 0 || len(changed.Experiments) != 1 {
		t.Errorf("patch: %+v", changed)
	}
	_, err = c.Hold(ctx, 4, "lunch")
	try("hold", err)
	_, err = c.Release(ctx, 4)
	try("release", err)
	_, err = c.Cancel(ctx, 4, "enough")
	try("cancel", err)
	_, err = c.Retry(ctx, 4)
	try("retry", err)
	_, err = c.Bulk(ctx, BulkRequest{Action: "cancel", IDs: []uint64{4}})
	try("bulk", err)
	_, err = c.Why(ctx, 5)
	try("why", err)
	if text, err := c.Config(ctx, 2); err != nil || !strings.Contains(text, "# keep me") {
		t.Errorf("config: %q, %v", text, err)
	}
	devices, err := c.Devices(ctx)
	try("devices", err)
	if len(devices) != 1 {
		t.Errorf("devices: %+v", devices)
	}
	try("drain", c.Drain(ctx, "gpu1"))
	try("resume", c.Resume(ctx, "gpu1"))
	_, err = c.Projects(ctx)
	try("projects", err)
	_, err = c.Users(ctx)
	try("users", err)
	if s, err := c.Cluster(ctx); err != nil || s.Leader == nil || s.Leader.ID != nodeA {
		t.Errorf("cluster: %+v, %v", s, err)
	}
	made, err := c.CreateToken(ctx, TokenRequest{Kind: fsm.AccessUser, User: "eve", Role: fsm.Viewer, TTL: Duration(time.Hour)})
	try("create token", err)
	list, err := c.Tokens(ctx)
	try("tokens", err)
	if len(list) != 5 {
		t.Errorf("tokens: %+v", list)
	}
	try("revoke", c.RevokeToken(ctx, made.ID))
	if me, err := c.Me(ctx); err != nil || me.User != "root" {
		t.Errorf("me: %+v, %v", me, err)
	}
	try("remove", c.RemoveNode(ctx, "gpu1", true))
}

// A follower's server dies in the middle; it goes on with another where it was.
func TestFollowLogsOverADeadServer(t *testing.T) {
	l := newLab(t)
	id := l.submit("ana", fsm.Spec{Project: "cats"})
	token := l.start(id)
	l.write(token, "one\n")
	first := httptest.NewServer(l.srv.Handler())
	t.Cleanup(first.Close)
	f := startFollow(t, l.client(first.URL, tokenViewer, Address{URL: l.serve()}), id, LogOptions{})
	within(t, "the first line", func() bool { s, _ := f.so(); return s == "one\n" })
	first.Listener.Close()
	first.CloseClientConnections()
	l.write(token, "two\n")
	within(t, "the second line", func() bool { s, _ := f.so(); return s == "one\ntwo\n" })
	l.finish(token, fsm.ClassCompleted, 0)
	if err := f.group.Wait(); err != nil || f.final.Status != fsm.Completed {
		t.Errorf("ended with %+v, %v", f.final, err)
	}
}

func TestFollowerCanStop(t *testing.T) {
	l := newLab(t)
	id := l.submit("ana", fsm.Spec{Project: "cats"})
	l.write(l.start(id), "one\n")
	enough := errors.New("enough")
	_, err := l.client(l.serve(), tokenViewer).FollowLogs(t.Context(), id, LogOptions{}, func(LogPiece) error { return enough })
	if !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
	_, err = l.client(l.serve(), tokenViewer).FollowLogs(t.Context(), 99, LogOptions{}, func(LogPiece) error { return nil })
	if e := (*Error)(nil); !errors.As(err, &e) || e.Status != 404 {
		t.Errorf("no such experiment: %v", err)
	}
}

func keyPair(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(-time.Hour)}, &x509.Certificate{SerialNumber: big.NewInt(1)}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// The node's key is its identity: names, dates and authorities of its certificate say nothing.
func TestPinnedNode(t *testing.T) {
	l := newLab(t)
	cert := keyPair(t)
	s := httptest.NewUnstartedServer(l.srv.Handler())
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}
	s.Config.ErrorLog = discardLog()
	s.StartTLS()
	t.Cleanup(s.Close)
	ask := func(fingerprint string) error {
		c, err := NewClient(ClientOptions{URL: s.URL, Token: tokenAna, Fingerprint: fingerprint, RetryFor: 30 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		defer c.servers[0].http.CloseIdleConnections()
		_, err = c.Me(t.Context())
		return err
	}
	if err := ask(mesh.FingerprintID(cert.Leaf)); err != nil {
		t.Errorf("the right node: %v", err)
	}
	if err := ask(mesh.FingerprintID(keyPair(t).Leaf)); !errors.Is(err, errWrongKey) {
		t.Errorf("another node: %v", err)
	}
	if err := ask(""); err == nil {
		t.Error("without a fingerprint a self-signed certificate was believed")
	}
}

func TestServerURLs(t *testing.T) {
	for _, c := range []struct{ url, fingerprint, want string }{
		{"gpu1:8000", "", "http://gpu1:8000"},
		{"http://gpu1:8000/", "", "http://gpu1:8000"},
		{"http://gpu1:8000", "abc", "https://gpu1:8000"},
		{"http://127.0.0.1:8000", "abc", "http://127.0.0.1:8000"},
		{"https://gpu1:8000", "abc", "https://gpu1:8000"},
	} {
		cl, err := NewClient(ClientOptions{URL: c.url, Fingerprint: c.fingerprint})
		if err != nil || cl.URL() != c.want {
			t.Errorf("%s: %v, %v; want %s", c.url, cl.URL(), err, c.want)
		}
	}
	for _, bad := range []string{"", "ftp://gpu1", "http://", "http://a b"} {
		if _, err := NewClient(ClientOptions{URL: bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
