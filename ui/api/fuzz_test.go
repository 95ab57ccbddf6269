package api

import (
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func discardLog() *log.Logger { return log.New(io.Discard, "", 0) }

// Whatever comes as a submission is either taken or refused as the caller's mistake, never as ours.
func FuzzAddBody(f *testing.F) {
	for _, s := range []string{`{"config":"a: 1"}`, `{"command":["x"],"gpus":1,"time_limit":"12h","retries":2,"after":[1]}`, `{`, `[]`, `{"time_limit":1e999}`, `{"env":{"A":"b"}}`, "\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r := httptest.NewRequest("POST", "/api/queue/add", strings.NewReader(string(body)))
		q, _, err := readAdd(r)
		if err == nil {
			_, err = parseAdd(q)
		}
		e, ours := errors.AsType[*Error](err)
		if err != nil && (!ours || e.Status < 400 || e.Status >= 500 || e.Detail == "") {
			t.Errorf("%q: %v", body, err)
		}
	})
}

// A cursor that was read is the one that was given out; everything else is refused.
func FuzzCursor(f *testing.F) {
	f.Add(cursor{Sort: "-id", ID: 7}.encode())
	f.Add(cursor{Sort: "name", Key: "\xff\"x", ID: 1 << 63}.encode())
	f.Add("e30")
	f.Add("!")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parseCursor(text)
		if err != nil {
			return
		}
		again, err := parseCursor(c.encode())
		if err != nil && len(c.encode()) <= maxCursor || err == nil && *again != *c {
			t.Errorf("%q: %+v became %+v, %v", text, c, again, err)
		}
	})
}

func FuzzEvents(f *testing.F) {
	f.Add("id: 1\nevent: log\ndata: {}\n\n")
	f.Add(": x\n\ndata\ndata:\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		size := 0
		err := readEvents(strings.NewReader(text), func(e rawEvent) error {
			size += len(e.data)
			return (&follower{fn: func(LogPiece) error { return nil }}).event(e)
		})
		if size > len(text) {
			t.Errorf("%d bytes came out of %d (%v)", size, len(text), err)
		}
	})
}

func FuzzDuration(f *testing.F) {
	for _, s := range []string{`1`, `"12h"`, `1e300`, `-1`, `null`, `"x"`, `0.5`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var d Duration
		if json.Unmarshal(data, &d) == nil && (d < 0 || time.Duration(d) > 101*365*24*time.Hour) {
			t.Errorf("%s became %s", data, time.Duration(d))
		}
	})
}

func FuzzParams(f *testing.F) {
	f.Add([]byte(`{"b":1,"a":"x","c":{"d":[1]}}`))
	f.Add([]byte(`{"a":`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var p Params
		if json.Unmarshal(data, &p) != nil {
			return
		}
		out, err := json.Marshal(p)
		if err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		var again Params
		if err := json.Unmarshal(out, &again); err != nil || len(again) != len(p) {
			t.Errorf("%q became %q: %v", data, out, err)
		}
	})
}

func FuzzLogID(f *testing.F) {
	f.Add("1:4096")
	f.Add("x:-1")
	f.Fuzz(func(t *testing.T, text string) {
		if attempt, offset, ok := parseLogID(text); ok && (attempt < 0 || offset < 0) {
			t.Errorf("%q became %d, %d", text, attempt, offset)
		}
	})
}
