package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Times of a stream.
const (
	keepAlive     = 15 * time.Second
	streamWrite   = 30 * time.Second // a reader that takes nothing for so long is cut off
	streamRecheck = time.Second      // how often a stream looks whether its token is still good
)

// sse writes one stream of server-sent events. Nothing is queued: a slow reader holds up only itself, and what it is told
// next is what is true then.
type sse struct {
	w       http.ResponseWriter
	control *http.ResponseController
	last    time.Time // of the last byte
}

func openSSE(w http.ResponseWriter) (*sse, error) {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // proxies that collect answers would hold events back
	e := &sse{w: w, control: http.NewResponseController(w)}
	// Where deadlines are not possible (a test's recorder), none are set either.
	_ = e.control.SetReadDeadline(time.Time{})
	w.WriteHeader(http.StatusOK)
	return e, e.comment("cvlab")
}

// send writes an event; an empty id leaves the reader's last one as it is.
func (e *sse) send(id, name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s event: %w", name, err)
	}
	var b bytes.Buffer
	if id != "" {
		fmt.Fprintf(&b, "id: %s\n", id)
	}
	fmt.Fprintf(&b, "event: %s\ndata: %s\n\n", name, data)
	return e.write(b.Bytes())
}

func (e *sse) comment(text string) error { return e.write([]byte(": " + text + "\n\n")) }

// breathe keeps the connection alive when nothing was sent for long.
func (e *sse) breathe() error {
	if time.Since(e.last) < keepAlive {
		return nil
	}
	return e.comment("still here")
}

func (e *sse) write(data []byte) error {
	_ = e.control.SetWriteDeadline(time.Now().Add(streamWrite))
	if _, err := e.w.Write(data); err != nil {
		return fmt.Errorf("write event: %w", err)
	}
	if err := e.control.Flush(); err != nil {
		return fmt.Errorf("flush event: %w", err)
	}
	e.last = time.Now()
	return nil
}
