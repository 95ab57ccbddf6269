package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// call is one request of a Client.
type call struct {
	method string
	path   string
	query  url.Values
	body   any    // nil for none
	key    string // idempotency key; writes get one when it is empty
	accept string // empty: JSON
	lastID string // Last-Event-ID of a stream
	out    any    // where the JSON answer goes; nil to drop it
	once   bool   // do not repeat it when it may have happened: each repeat would make one more
}

func (q *call) writes() bool { return q.method != http.MethodGet }

// do asks until there is an answer worth giving back, decodes it, and gives its X-Cvlab-Index.
func (c *Client) do(ctx context.Context, q call) (uint64, error) {
	resp, err := c.open(ctx, q)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	index, _ := strconv.ParseUint(resp.Header.Get(headerIndex), 10, 64)
	if q.out == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer))
	} else {
		err = json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(q.out)
	}
	if err != nil {
		return index, fmt.Errorf("read answer of %s: %w", q.path, err)
	}
	return index, nil
}

// maxAnswer bounds what a client holds of one answer: 10,000 experiments are about 10 MB.
const maxAnswer = 256 << 20

// open repeats a request until a server gives a final answer, and returns that answer when it is a good one.
func (c *Client) open(ctx context.Context, q call) (*http.Response, error) {
	body, err := encodeBody(q.body)
	if err != nil {
		return nil, err
	}
	if q.writes() && q.key == "" {
		q.key = rand.Text()
	}
	began := time.Now()
	answered, unsure := false, false
	for try := 0; ; try++ {
		got := c.ask(ctx, try, q, body)
		if got.err == nil {
			c.current.Store(got.server)
			return got.resp, nil
		}
		err := got.err
		var refusal *Error
		if errors.As(err, &refusal) {
			answered = true
			unsure = unsure || refusal.OutcomeUnknown()
			if refusal.Status != http.StatusServiceUnavailable {
				return nil, err
			}
		} else {
			unsure = unsure || got.sent && q.writes()
		}
		patience := c.retryFor
		if !answered && !unsure {
			patience /= 3
		}
		pause := backoff(try/len(c.servers), (try+1)%len(c.servers) == 0)
		if unsure && q.once || ctx.Err() != nil || time.Since(began)+pause > patience || sleep(ctx, pause) != nil {
			return nil, c.giveUp(ctx, q, err, unsure)
		}
	}
}

// silence is how long a server may say nothing before another one is asked beside it.
const silence = time.Second

// reply is what one server of a try came to.
type reply struct {
	server int32
	turn   int // in this try, from 0
	resp   *http.Response
	sent   bool // the request may have reached it
	err    error
}

// ask makes one try. When the server says nothing for a second, its host may be gone without a word: then one more is
// asked beside it, and the first answer counts. The key makes it harmless that two have done it.
func (c *Client) ask(ctx context.Context, try int, q call, body []byte) reply {
	most := len(c.servers)
	if q.once {
		most = 1
	}
	replies := make(chan reply, most)
	var asking sync.WaitGroup
	var ends []context.CancelFunc
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-next.C:
			turn := len(ends)
			server, e := c.server(try + turn)
			ctx, end := context.WithCancel(ctx)
			ends = append(ends, end)
			asking.Go(func() {
				resp, sent, err := c.once(ctx, e, q, body)
				replies <- reply{server, turn, resp, sent, err}
			})
			if len(ends) < most {
				next.Reset(silence)
			}
		case r := <-replies:
			return settle(r, replies, ends, &asking)
		}
	}
}

// settle ends the other requests of a try and waits for that; the answer's own context ends with its body.
func settle(r reply, others chan reply, ends []context.CancelFunc, asking *sync.WaitGroup) reply {
	for i, end := range ends {
		if i != r.turn || r.err != nil {
			end()
		}
	}
	asking.Wait()
	close(others)
	for o := range others {
		r.sent = r.sent || o.sent
		if o.err == nil {
			o.resp.Body.Close()
		}
	}
	if r.err == nil {
		r.resp.Body = &endingBody{r.resp.Body, ends[r.turn]}
	}
	return r
}

// endingBody ends the request's context when the answer was read.
type endingBody struct {
	io.ReadCloser
	end context.CancelFunc
}

func (b *endingBody) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}

// giveUp names what is known after the last try.
func (c *Client) giveUp(ctx context.Context, q call, err error, unsure bool) error {
	var refusal *Error
	switch {
	case unsure:
		return &Error{
			Type: TypeOutcomeUnknown, Title: "Outcome unknown", Status: http.StatusServiceUnavailable, Key: q.key,
			Detail: "nobody could say whether it was done: " + err.Error(),
			Hint:   "repeat it with --key " + q.key + "; it is done at most once",
		}
	case errors.As(err, &refusal):
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("%s %s: %w", q.method, q.path, context.Cause(ctx))
	}
	return fmt.Errorf("%w at %s: %w", ErrUnreachable, c.names(), err)
}

func (c *Client) names() string {
	names := make([]string, 0, len(c.servers))
	for _, s := range c.servers {
		names = append(names, s.base.String())
	}
	return strings.Join(names, ", ")
}

// backoff grows from about 10 ms to half a second once every server was asked; from one server to the next it is nothing.
func backoff(round int, last bool) time.Duration {
	if !last {
		return 0
	}
	d := min(10*time.Millisecond<<min(round, 6), 500*time.Millisecond)
	return d/2 + mathrand.N(d)
}

// once asks one server once; sent says whether the request may have reached it.
func (c *Client) once(ctx context.Context, e endpoint, q call, body []byte) (*http.Response, bool, error) {
	var sent atomic.Bool
	trace := &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }}
	target := *e.base
	target.Path += q.path
	target.RawQuery = q.query.Encode()
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), q.method, target.String(), bytes.NewReader(body))
	if err != nil {
		return nil, false, fmt.Errorf("make request: %w", err)
	}
	c.header(req, q, len(body) > 0)
	resp, err := e.http.Do(req)
	if err != nil {
		return nil, sent.Load(), err
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		return nil, true, readProblem(resp)
	}
	return resp, true, nil
}

func (c *Client) header(req *http.Request, q call, hasBody bool) {
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if hasBody {
		req.Header.Set("Content-Type", "application/json")
	}
	if q.key != "" {
		req.Header.Set(headerKey, q.key)
	}
	if q.lastID != "" {
		req.Header.Set("Last-Event-ID", q.lastID)
	}
	accept := q.accept
	if accept == "" {
		accept = "application/json"
	}
	req.Header.Set("Accept", accept)
	req.Header.Set("User-Agent", "cvlab")
}

func encodeBody(v any) ([]byte, error) {
	if v == nil {
		return nil, nil
	}
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	return data, nil
}

// readProblem makes an *Error of an answer that is not 2xx, also when it is not from cvlab.
func readProblem(resp *http.Response) *Error {
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	e := &Error{}
	if err != nil || json.Unmarshal(data, e) != nil || e.Title == "" {
		e = problem(resp.StatusCode, fmt.Sprintf("the server answered %s", resp.Status), "is there a cvlab server at this address?")
	}
	e.Status = resp.StatusCode
	e.RetryAfter, _ = strconv.Atoi(resp.Header.Get("Retry-After"))
	return e
}

// The headers of the API.
const (
	headerKey   = "Idempotency-Key"
	headerIndex = "X-Cvlab-Index"
	headerAge   = "X-Cvlab-Age-Ms"
)
