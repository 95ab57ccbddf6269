package api

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// TypeOutcomeUnknown is the problem type of a write of which nobody knows whether it happened. Repeating it with the
// same key is harmless and gives the answer.
const TypeOutcomeUnknown = "urn:cvlab:outcome-unknown"

// Error is a refusal as RFC 9457 writes it, and what every Client method returns when a server answered with one.
type Error struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	// Hint says what to do next.
	Hint string `json:"hint,omitempty"`
	// Problems are the places of a config that are wrong.
	Problems []Problem `json:"errors,omitempty"`
	// Key is the idempotency key the write was made under, when a repeat needs it.
	Key string `json:"key,omitempty"`
	// RetryAfter is the seconds to wait before the next try, 0 when waiting does not help.
	RetryAfter int `json:"-"`
}

// Error gives detail, places and hint as lines for people.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Detail)
	if e.Detail == "" {
		b.WriteString(strings.ToLower(e.Title))
	}
	for _, p := range e.Problems {
		if p.Message == e.Detail && p.Line == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n  %s", p)
	}
	if e.Hint != "" {
		fmt.Fprintf(&b, "\n%s", e.Hint)
	}
	return b.String()
}

// String gives "line 3, column 5: message (hint)".
func (p Problem) String() string {
	var b strings.Builder
	if p.Line > 0 {
		fmt.Fprintf(&b, "line %d, column %d: ", p.Line, p.Column)
	}
	b.WriteString(p.Message)
	if p.Hint != "" {
		fmt.Fprintf(&b, " (%s)", p.Hint)
	}
	return b.String()
}

// NotAllowed says whether the caller is unknown or lacks the role (exit code 4).
func (e *Error) NotAllowed() bool {
	return e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden
}

// OutcomeUnknown says whether the write may or may not have happened (exit code 5).
func (e *Error) OutcomeUnknown() bool { return e.Type == TypeOutcomeUnknown }

// ErrUnreachable marks a call that no server answered (exit code 3).
var ErrUnreachable = errors.New("no cvlab server answers")

// problem makes an Error with the title that belongs to its status.
func problem(status int, detail, hint string) *Error {
	return &Error{Type: "about:blank", Title: statusTitle(status), Status: status, Detail: detail, Hint: hint}
}

func statusTitle(status int) string {
	if t := http.StatusText(status); t != "" {
		return t
	}
	return "Error"
}
