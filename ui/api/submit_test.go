package api

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/deveronica/cvlab/cluster"
	"github.com/deveronica/cvlab/fsm"
)

// seedBody is what the tutorial's Python program sends: requests.post(url, json=data).
func seedBody(t *testing.T) string {
	t.Helper()
	body, err := json.Marshal(map[string]string{
		"config":   "\nproject: urgent_experiment\nmodel: resnet18(num_classes=10)\noptimizer: adam(lr=0.001)\nloss: cross_entropy\n    ",
		"priority": "high", "device": "any",
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// The tutorial's program works as it is written, byte for byte as python-requests puts it on the wire, plus a token.
func TestSeedSubmission(t *testing.T) {
	l := newLab(t)
	url := l.serve()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := seedBody(t)
	fmt.Fprintf(conn, "POST /api/queue/add HTTP/1.1\r\nHost: %s\r\nUser-Agent: python-requests/2.32.3\r\nAccept-Encoding: gzip, deflate\r\n"+
		"Accept: */*\r\nConnection: keep-alive\r\nContent-Length: %d\r\nContent-Type: application/json\r\nAuthorization: Bearer %s\r\n\r\n%s",
		conn.RemoteAddr(), len(body), tokenAna, body)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatalf("status %d, %v: %s", resp.StatusCode, err, text)
	}
	var out map[string]any
	if err := json.Unmarshal(text, &out); err != nil { // what response.json() does
		t.Fatal(err)
	}
	e := out["experiments"].([]any)[0].(map[string]any)
	for name, want := range map[string]any{
		"id": 1.0, "project": "urgent_experiment", "priority": "high", "status": "pending", "user": "ana", "sweep": nil, "node": "",
		"exit_code": nil, "progress": nil, "started_at": nil, "ended_at": nil, "attempt": 0.0, "class": "", "reason": notPlanned,
	} {
		if got, there := e[name]; !there || got != want {
			t.Errorf("%s: got %v (there: %t), want %v", name, got, there, want)
		}
	}
	for _, name := range []string{"name", "params", "gpus", "created_at"} {
		if e[name] == nil {
			t.Errorf("%s is missing", name)
		}
	}
	if out["sweep"] != nil {
		t.Error("one experiment is no sweep")
	}
	if resp.Header.Get(headerIndex) == "" || resp.Header.Get("Location") != "/api/queue/1" {
		t.Errorf("index %q, location %q", resp.Header.Get(headerIndex), resp.Header.Get("Location"))
	}
}

func TestSeedSubmissionWithoutToken(t *testing.T) {
	l := newLab(t)
	w := l.ask("POST", "/api/queue/add", "", seedBody(t))
	e := decoded[Error](t, w)
	if w.Code != 401 || !strings.Contains(e.Hint, "cvlab token create") || w.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("status %d, %s: %+v; want 401 that says how to get a token", w.Code, w.Header().Get("Content-Type"), e)
	}
}

func TestSweepIsOneSubmission(t *testing.T) {
	l := newLab(t)
	w := l.ask("POST", "/api/queue/add", tokenAna, `{"config":"project: cats\nagent: a\nlr: [0.1, 0.01, 0.001]\n"}`)
	out := decoded[Added](t, w)
	if w.Code != 201 || len(out.Experiments) != 3 || out.Sweep == nil || *out.Sweep != 1 || l.proposed != 1 {
		t.Fatalf("status %d, %d experiments, sweep %v, %d proposals: %s", w.Code, len(out.Experiments), out.Sweep, l.proposed, w.Body)
	}
	if got := string(out.Experiments[1].Params[0].Value); out.Experiments[1].Params[0].Key != "lr" || got != "0.01" {
		t.Errorf("the second has %s=%s, want lr=0.01", out.Experiments[1].Params[0].Key, got)
	}
}

func TestPreviewStoresNothing(t *testing.T) {
	l := newLab(t)
	digest := l.state.View().Digest()
	w := l.ask("POST", "/api/queue/preview", tokenViewer, `{"config":"project: cats\nlr: [0.1, 0.01]\n"}`)
	p := decoded[Preview](t, w)
	if w.Code != 200 || p.Count != 2 || len(p.Experiments) != 2 || p.Project != "cats" {
		t.Errorf("status %d: %+v", w.Code, p)
	}
	if len(p.Warnings) == 0 {
		t.Error("a config without agent has no warning")
	}
	if l.state.View().Digest() != digest || l.proposed > 0 {
		t.Error("a preview changed the facts")
	}
}

// Each bad submission is refused with a reason a person can use, and leaves nothing behind.
func TestBadSubmissions(t *testing.T) {
	for _, c := range []struct {
		name, body string
		status     int
		says       string
	}{
		{"nothing", `{}`, 400, "neither config nor command"},
		{"no JSON", `config: x`, 400, "not the JSON"},
		{"half JSON", `{"config": "x"`, 400, "not the JSON"},
		{"two values", `{"config":"a: 1"} {"config":"a: 1"}`, 400, "more than one"},
		{"array", `[]`, 400, "not the JSON"},
		{"null config", `{"config":null}`, 400, "neither"},
		{"unknown field", `{"config":"a: 1","prioritty":"high"}`, 400, "prioritty"},
		{"number as config", `{"config":7}`, 400, "number"},
		{"broken YAML", "{\"config\":\"a: 1\\n\\tb: 2\\n\"}", 400, ""},
		{"code", `{"config":"a: 1","code":"abc"}`, 400, "shipping code is not supported yet"},
		{"priority word", `{"config":"a: 1","priority":"asap"}`, 422, "low, normal, high, urgent"},
		{"priority number", `{"config":"a: 1","priority":5}`, 400, "number"},
		{"negative GPUs", `{"config":"a: 1","gpus":-1}`, 422, "gpus"},
		{"2^63 GPUs", `{"config":"a: 1","gpus":9223372036854775808}`, 400, "number"},
		{"many GPUs", `{"config":"a: 1","gpus":1000000}`, 422, "gpus"},
		{"negative retries", `{"config":"a: 1","retries":-2}`, 422, "retries"},
		{"negative time", `{"config":"a: 1","time_limit":-1}`, 400, "negative"},
		{"NaN time", `{"config":"a: 1","time_limit":"NaN"}`, 400, "duration"},
		{"endless time", `{"config":"a: 1","time_limit":1e300}`, 400, "duration"},
		{"name with newline", `{"config":"a: 1","name":"a\nb"}`, 422, "control"},
		{"name of 4 KiB", `{"config":"a: 1","name":"` + strings.Repeat("x", 4096) + `"}`, 422, "limit"},
		{"missing parent", `{"config":"a: 1","after":[99]}`, 404, "99"},
		{"config and command", `{"config":"a: 1","command":["x"]}`, 400, "either"},
		{"two keys", `{"config":"a: 1","key":"k2"}`, 400, "differ"},
	} {
		l := newLab(t)
		header := []string{}
		if c.name == "two keys" {
			header = append(header, "Idempotency-Key: k1")
		}
		w := l.ask("POST", "/api/queue/add", tokenAna, c.body, header...)
		e := decoded[Error](t, w)
		if w.Code != c.status || e.Status != c.status || !strings.Contains(e.Error(), c.says) {
			t.Errorf("%s: status %d: %s\nwant %d and %q", c.name, w.Code, w.Body, c.status, c.says)
		}
		if l.state.View().Experiment(1) != nil {
			t.Errorf("%s: something was stored", c.name)
		}
	}
}

func TestConfigErrorsHaveAPlace(t *testing.T) {
	l := newLab(t)
	e := decoded[Error](t, l.ask("POST", "/api/queue/add", tokenAna, "{\"config\":\"a: 1\\n\\tb: 2\\n\"}"))
	if e.Status != 400 || len(e.Problems) != 1 || e.Problems[0].Line != 2 || e.Problems[0].Message == "" {
		t.Errorf("got %+v, want one problem in line 2", e)
	}
}

// S40: a key is a person's own; with it a repeat is harmless, and nobody else meets it.
func TestIdempotencyKeys(t *testing.T) {
	l := newLab(t)
	add := func(token, body string, header ...string) (int, Added) {
		w := l.ask("POST", "/api/queue/add", token, body, header...)
		if w.Code != 201 {
			return w.Code, Added{}
		}
		return w.Code, decoded[Added](t, w)
	}
	_, first := add(tokenAna, `{"config":"project: cats\n"}`, "Idempotency-Key: k1")
	_, again := add(tokenAna, `{"config":"project: cats\n"}`, "Idempotency-Key: k1")
	_, inBody := add(tokenAna, `{"config":"project: cats\n","key":"k1"}`)
	if first.Experiments[0].ID != 1 || again.Experiments[0].ID != 1 || inBody.Experiments[0].ID != 1 {
		t.Errorf("a repeat made another: %d, %d, %d", first.Experiments[0].ID, again.Experiments[0].ID, inBody.Experiments[0].ID)
	}
	if code, _ := add(tokenAna, `{"config":"project: dogs\n"}`, "Idempotency-Key: k1"); code != 409 {
		t.Errorf("the same key for something else: status %d, want 409", code)
	}
	_, bob := add(tokenBob, `{"config":"project: cats\n"}`, "Idempotency-Key: k1")
	if bob.Experiments[0].ID != 2 || bob.Experiments[0].User != "bob" {
		t.Errorf("bob's use of the key gave %+v", bob.Experiments[0])
	}
	if code, _ := add(tokenAna, `{"config":"project: cats\n"}`, "Idempotency-Key: "+strings.Repeat("k", 257)); code != 400 {
		t.Errorf("a key of 257 bytes: status %d, want 400", code)
	}
}

// What the cluster could not do is told apart from what nobody knows.
func TestAnswersOfAClusterInTrouble(t *testing.T) {
	for _, c := range []struct {
		err     error
		status  int
		kind    string
		retry   bool
		keyTold bool
	}{
		{cluster.ErrUnknown, 503, TypeOutcomeUnknown, true, true},
		{fmt.Errorf("wait: %w", cluster.ErrUnknown), 503, TypeOutcomeUnknown, true, true},
		{cluster.ErrNoLeader, 503, "about:blank", true, false},
		{cluster.ErrNotApplied, 503, "about:blank", true, false},
		{cluster.ErrBusy, 503, "about:blank", true, false},
		{cluster.ErrNotUnderstood, 501, "about:blank", false, false},
		{io.ErrUnexpectedEOF, 500, "about:blank", false, false},
	} {
		l := newLab(t)
		l.before = func(int) error { return c.err }
		w := l.ask("POST", "/api/queue/add", tokenAna, `{"config":"project: cats\n"}`, "Idempotency-Key: k1")
		e := decoded[Error](t, w)
		if w.Code != c.status || e.Type != c.kind || (w.Header().Get("Retry-After") != "") != c.retry || (e.Key == "k1") != c.keyTold {
			t.Errorf("%v: status %d, Retry-After %q: %s", c.err, w.Code, w.Header().Get("Retry-After"), w.Body)
		}
		if c.status == 500 && strings.Contains(w.Body.String(), "EOF") {
			t.Error("an inner error is told to the world")
		}
	}
}

// S24: who sends a byte at a time is cut off.
func TestSlowBodyIsCutOff(t *testing.T) {
	l := newLab(t)
	l.srv.bodyTime = 50 * time.Millisecond
	conn, err := net.Dial("tcp", strings.TrimPrefix(l.serve(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /api/queue/add HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Length: 1000\r\n\r\n{", tokenAna)
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusRequestTimeout {
		t.Errorf("status %d, want 408", resp.StatusCode)
	}
}

func TestCommandSubmission(t *testing.T) {
	l := newLab(t)
	w := l.ask("POST", "/api/queue/add", tokenAna, `{"command":["python","train.py","--lr","0.1; rm -rf /"],"gpus":1,"project":"cats","hold":true}`)
	if w.Code != 201 {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	d := decoded[Detail](t, l.ask("GET", "/api/queue/1", tokenViewer, ""))
	if len(d.Spec.Command) != 4 || d.Spec.Command[3] != "0.1; rm -rf /" || d.Status != fsm.Held {
		t.Errorf("got %v, %s", d.Spec.Command, d.Status)
	}
}
