package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/deveronica/cvlab/cluster"
	"github.com/deveronica/cvlab/fsm"
)

// messageAnswer is the answer of actions that have nothing else to tell.
type messageAnswer struct {
	Message string `json:"message"`
}

// answer writes JSON. Encoding happens before the first byte, so that an error can still be told.
func answer(w http.ResponseWriter, status int, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(data)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // the reader is gone; nobody is left to be told
	return nil
}

func setAge(w http.ResponseWriter, age time.Duration) {
	w.Header().Set(headerAge, strconv.FormatInt(age.Milliseconds(), 10))
}

// refuse writes an error as application/problem+json.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	e := s.asProblem(r, err)
	data, err := json.Marshal(e)
	if err != nil {
		data = []byte(`{"title":"Internal Server Error","status":500}`)
	}
	h := w.Header()
	h.Del("Content-Length")
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(e.RetryAfter))
	}
	if e.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="cvlab"`)
	}
	w.WriteHeader(e.Status)
	_, _ = w.Write(append(data, '\n'))
}

// asProblem gives every error its status; what is not known is a 500 whose cause goes to the log only.
func (s *Server) asProblem(r *http.Request, err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return problem(http.StatusRequestEntityTooLarge, "the request is larger than 1 MiB", "put large data into files that the run reads")
	}
	key := r.Header.Get(headerKey)
	if trouble, ok := errors.AsType[*cluster.TroubleError](err); ok {
		return troubled(trouble, key)
	}
	switch {
	case errors.Is(err, cluster.ErrUnknown):
		return outcomeUnknown(key, err)
	case errors.Is(err, cluster.ErrNotUnderstood):
		return problem(http.StatusNotImplemented, err.Error(), "")
	case errors.Is(err, cluster.ErrBusy):
		return later("too many changes are in flight; nothing was changed")
	case errors.Is(err, cluster.ErrNoLeader):
		return later("the cluster has no leader now; nothing was changed")
	case errors.Is(err, cluster.ErrVoteNeeded):
		return later("others cannot take over this machine's part in the decisions yet; nothing was changed")
	case errors.Is(err, cluster.ErrNotApplied):
		return later("the change was not taken; nothing was changed")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return later("the answer took too long")
	}
	s.log.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	return problem(http.StatusInternalServerError, "something went wrong on this node", "its log says what: journalctl -u cvlab")
}

// troubled answers in the cluster's own words, which name the machines that are the reason.
func troubled(e *cluster.TroubleError, key string) *Error {
	switch {
	case errors.Is(e, cluster.ErrUnknown):
		return outcomeUnknown(key, fmt.Errorf("%s; %w", e.Sentence, cluster.ErrUnknown))
	case errors.Is(e, cluster.ErrNoRoom):
		return problem(http.StatusInsufficientStorage, e.Sentence+"; nothing was changed", "the machines notice by themselves; cvlab cluster shows their disks")
	}
	return later(e.Sentence + "; nothing was changed")
}

func outcomeUnknown(key string, err error) *Error {
	e := problem(http.StatusServiceUnavailable, err.Error(), "repeat the request with the same key (header "+headerKey+"); it is done at most once")
	e.Type, e.Title, e.Key, e.RetryAfter = TypeOutcomeUnknown, "Outcome unknown", key, 1
	return e
}

func later(detail string) *Error {
	e := problem(http.StatusServiceUnavailable, detail, "try again in a moment; cvlab cluster shows who is missing")
	e.RetryAfter = 1
	return e
}

// refusal turns the facts' own no into an answer.
func refusal(res fsm.Result) *Error {
	status := http.StatusInternalServerError
	switch res.Code {
	case fsm.NotFound:
		status = http.StatusNotFound
	case fsm.Conflict:
		status = http.StatusConflict
	case fsm.Invalid:
		status = http.StatusUnprocessableEntity
	case fsm.Forbidden:
		status = http.StatusForbidden
	}
	return problem(status, res.Message, "")
}

// commit proposes a command in the caller's name and answers a refusal as an error.
func (s *Server) commit(w http.ResponseWriter, r *http.Request, c fsm.Command) (fsm.Result, error) {
	key, err := requestKey(r)
	if err != nil {
		return fsm.Result{}, err
	}
	w.Header().Set(headerKey, key)
	return s.propose(w, r, fsm.Entry{By: callerOf(r).user, At: time.Now(), Key: key, Command: c})
}

func (s *Server) propose(w http.ResponseWriter, r *http.Request, e fsm.Entry) (fsm.Result, error) {
	res, err := s.o.Cluster.Propose(r.Context(), e)
	if err != nil {
		if errors.Is(err, cluster.ErrUnknown) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			if trouble, ok := errors.AsType[*cluster.TroubleError](err); ok {
				return res, troubled(trouble, e.Key)
			}
			return res, outcomeUnknown(e.Key, cluster.ErrUnknown)
		}
		return res, err
	}
	w.Header().Set(headerIndex, strconv.FormatUint(res.Index, 10))
	if res.Refused() {
		return res, refusal(res)
	}
	return res, nil
}

// requestKey gives the caller's idempotency key, or a fresh one that the answer tells.
func requestKey(r *http.Request) (string, error) {
	key := r.Header.Get(headerKey)
	if key == "" {
		return rand.Text(), nil
	}
	return key, checkKey(key)
}

func checkKey(key string) error {
	if len(key) > fsm.MaxKey {
		return problem(http.StatusBadRequest, fmt.Sprintf("the idempotency key has %d bytes, the limit is %d", len(key), fsm.MaxKey), "")
	}
	for _, c := range key {
		if c < ' ' || c == 0x7f {
			return problem(http.StatusBadRequest, "the idempotency key has control characters", "")
		}
	}
	return nil
}

// readBody decodes a JSON body strictly into v. An empty body leaves v as it is when it may.
func readBody(r *http.Request, v any, mayBeEmpty bool) error {
	if err := wantJSON(r); err != nil {
		return err
	}
	data, err := io.ReadAll(r.Body)
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return err
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return problem(http.StatusRequestTimeout, "the request's body took too long to arrive", "send it again")
		}
		return problem(http.StatusBadRequest, "the request's body did not arrive whole", "send it again")
	}
	if len(bytes.TrimSpace(data)) == 0 && mayBeEmpty {
		return nil
	}
	return decodeJSON(data, v)
}

// wantJSON refuses bodies that a form of another site could send, and compressed ones.
func wantJSON(r *http.Request) error {
	if r.Header.Get("Content-Encoding") != "" {
		return problem(http.StatusUnsupportedMediaType, "compressed requests are not read", "send it without Content-Encoding")
	}
	text := r.Header.Get("Content-Type")
	if text == "" {
		return nil
	}
	media, _, err := mime.ParseMediaType(text)
	if err != nil || media != "application/json" {
		return problem(http.StatusUnsupportedMediaType, "the request must be JSON", "set Content-Type: application/json (curl: --json, Python requests: json=)")
	}
	return nil
}

func decodeJSON(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("there is more than one JSON value")
		}
	}
	if err == nil {
		return nil
	}
	e := problem(http.StatusBadRequest, "the request is not the JSON that is expected: "+clip(err.Error(), 200), "GET /api/openapi.json describes it")
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		e.Problems = []Problem{placed(data, syntax.Offset, err.Error())}
	}
	if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		p := placed(data, kind.Offset, fmt.Sprintf("%s is not possible here", kind.Value))
		p.Key = kind.Field
		e.Problems = []Problem{p}
	}
	return e
}

// placed gives the line and column of an offset in a text.
func placed(data []byte, offset int64, message string) Problem {
	before := data[:min(max(offset, 0), int64(len(data)))]
	line := bytes.Count(before, []byte("\n")) + 1
	column := len(before) - bytes.LastIndexByte(before, '\n')
	return Problem{Line: line, Column: max(column-1, 1), Message: message}
}

// clip shortens what came from outside before it is shown or logged.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}
