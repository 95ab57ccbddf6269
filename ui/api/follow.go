package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// LogOptions says which output to read.
type LogOptions struct {
	// Attempt is the number of an attempt; 0 is the newest, and when following, all that come after it.
	Attempt int
	From    int64 // bytes to leave out at the start
	Tail    int   // only the last lines, 0 for all; From is then not looked at
}

func (o LogOptions) values() url.Values {
	v := url.Values{}
	if o.Attempt > 0 {
		v.Set("attempt", strconv.Itoa(o.Attempt))
	}
	if o.From > 0 {
		v.Set("from", strconv.FormatInt(o.From, 10))
	}
	if o.Tail > 0 {
		v.Set("tail", strconv.Itoa(o.Tail))
	}
	return v
}

// LogPiece is output that was followed.
type LogPiece struct {
	Attempt int
	From    int64 // offset of the first byte within the attempt's output
	Data    []byte
	// Note is a sentence of cvlab's instead of output, such as that the next attempt begins; Data is then empty.
	Note string
}

// Logs gives the output so far as a stream of bytes. The caller closes it.
func (c *Client) Logs(ctx context.Context, id uint64, o LogOptions) (io.ReadCloser, error) {
	resp, err := c.open(ctx, call{method: http.MethodGet, path: queuePath(id, "/logs"), query: o.values(), accept: "text/plain"})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// FollowLogs hands each piece of output to fn as it comes, across attempts, and returns when the experiment has ended
// (with o.Attempt: when that attempt has). It goes on where it was on another server when one dies. An error of fn ends
// it. The result is how it ended.
func (c *Client) FollowLogs(ctx context.Context, id uint64, o LogOptions, fn func(LogPiece) error) (FinalStatus, error) {
	f := follower{fn: fn}
	q := call{method: http.MethodGet, path: queuePath(id, "/logs"), query: o.values(), accept: "text/event-stream"}
	err := c.stream(ctx, q, f.event)
	if errors.Is(err, errStreamDone) {
		return f.final, nil
	}
	return f.final, err
}

// errStreamDone is how a stream's reader says that it has all it wanted.
var errStreamDone = errors.New("stream is complete")

type follower struct {
	fn    func(LogPiece) error
	final FinalStatus
}

func (f *follower) event(e rawEvent) error {
	switch e.name {
	case "log":
		var l logEvent
		if err := json.Unmarshal(e.data, &l); err != nil {
			return fmt.Errorf("decode log event: %w", err)
		}
		data := []byte(l.Data)
		if len(l.Bytes) > 0 {
			data = l.Bytes
		}
		return f.fn(LogPiece{Attempt: l.Attempt, From: l.From, Data: data})
	case "note":
		var n noteEvent
		if err := json.Unmarshal(e.data, &n); err != nil {
			return fmt.Errorf("decode note event: %w", err)
		}
		return f.fn(LogPiece{Attempt: n.Attempt, Note: n.Sentence})
	case "end":
		if err := json.Unmarshal(e.data, &f.final); err != nil {
			return fmt.Errorf("decode end event: %w", err)
		}
		return errStreamDone
	}
	return nil
}

// logEvent is the data of a "log" event. Bytes is there when Data had to be made valid text.
type logEvent struct {
	Attempt int    `json:"attempt"`
	From    int64  `json:"from"`
	Next    int64  `json:"next"`
	Data    string `json:"data"`
	Bytes   []byte `json:"b64,omitempty"`
}

// noteEvent is the data of a "note" event: a sentence to the reader.
type noteEvent struct {
	Attempt  int    `json:"attempt"`
	Sentence string `json:"sentence"`
}

// Events hands each event after lastID (0: from now on) to fn and goes on after lost connections, until the context
// ends or fn gives an error.
func (c *Client) Events(ctx context.Context, lastID uint64, fn func(Event) error) error {
	q := call{method: http.MethodGet, path: "/api/events", accept: "text/event-stream"}
	if lastID > 0 {
		q.lastID = strconv.FormatUint(lastID, 10)
	}
	return c.stream(ctx, q, func(e rawEvent) error {
		if id, err := strconv.ParseUint(e.id, 10, 64); err == nil {
			lastID = id // an event without an ID leaves the reader where it was
		}
		return fn(Event{ID: lastID, Type: e.name, Data: e.data})
	})
}

// stream reads server-sent events and reconnects with the last ID until fn ends it, nobody answers, or ctx ends.
func (c *Client) stream(ctx context.Context, q call, fn func(rawEvent) error) error {
	for try := 0; ; try++ {
		resp, err := c.open(ctx, q)
		if err != nil {
			return err
		}
		var ours error // what fn said; everything else is the connection's
		err = readEvents(resp.Body, func(e rawEvent) error {
			try = 0
			if ours = fn(e); ours == nil && e.id != "" {
				q.lastID = e.id
			}
			return ours
		})
		resp.Body.Close()
		if ours != nil {
			return ours
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, errEventTooLong) {
			return err
		}
		c.current.Add(1) // it hung up: ask the next one first
		if err := sleep(ctx, backoff(try, true)); err != nil {
			return err
		}
	}
}

// rawEvent is one server-sent event.
type rawEvent struct {
	id   string
	name string
	data []byte
}

// maxEvent bounds one event in bytes, on both sides.
const maxEvent = 8 << 20

var errEventTooLong = errors.New("server-sent event is longer than 8 MiB")

// readEvents parses a stream of server-sent events until it ends; an unfinished event at the end is dropped.
func readEvents(r io.Reader, fn func(rawEvent) error) error {
	in := bufio.NewScanner(r)
	in.Buffer(make([]byte, 0, 64<<10), maxEvent)
	e, some := rawEvent{}, false
	for in.Scan() {
		line := in.Text()
		if line == "" {
			if some {
				if err := fn(e); err != nil {
					return err
				}
			}
			e, some = rawEvent{}, false
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			e.id = value
		case "event":
			e.name = value
		case "data":
			if some {
				e.data = append(e.data, '\n')
			}
			if len(e.data)+len(value) > maxEvent {
				return errEventTooLong
			}
			e.data, some = append(e.data, value...), true
		}
	}
	if errors.Is(in.Err(), bufio.ErrTooLong) {
		return errEventTooLong
	}
	return in.Err()
}

// followPause is how long a stream waits before it asks again for what is not there yet.
const followPause = time.Second
