package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/deveronica/cvlab/fsm"
)

// ear hears events in the background and remembers them.
type ear struct {
	mu     sync.Mutex
	heard  []Event
	cancel context.CancelFunc
	group  errgroup.Group
}

func listen(t *testing.T, c *Client, last uint64) *ear {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	e := &ear{cancel: cancel}
	e.group.Go(func() error {
		return c.Events(ctx, last, func(x Event) error {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.heard = append(e.heard, x)
			return nil
		})
	})
	t.Cleanup(e.stop)
	return e
}

func (e *ear) stop() {
	e.cancel()
	_ = e.group.Wait() // the cancelled context
}

func (e *ear) events() []Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.heard)
}

// last gives the newest state of each experiment that was told, and the newest ID.
func (e *ear) last() (map[uint64]Experiment, uint64) {
	known, id := map[uint64]Experiment{}, uint64(0)
	for _, x := range e.events() {
		id = max(id, x.ID)
		var body experimentsEvent
		if x.Type == "experiment" && json.Unmarshal(x.Data, &body) == nil {
			for _, y := range body.Experiments {
				known[y.ID] = y
			}
		}
	}
	return known, id
}

func (e *ear) has(kind string) bool {
	return slices.ContainsFunc(e.events(), func(x Event) bool { return x.Type == kind })
}

func TestEventsTellChanges(t *testing.T) {
	l := newLab(t)
	e := listen(t, l.client(l.serve(), tokenViewer), 0)
	within(t, "hello", func() bool { return e.has("hello") })
	id := l.submit("ana", fsm.Spec{Project: "cats"})
	within(t, "the submission", func() bool { k, _ := e.last(); return k[id].Reason == "experiment 1 waits for a GPU" })
	token := l.start(id)
	within(t, "the start", func() bool { k, _ := e.last(); return k[id].Status == fsm.Running && k[id].Node == "gpu1" })
	l.finish(token, fsm.ClassCompleted, 0)
	within(t, "the end", func() bool { k, _ := e.last(); return k[id].Status == fsm.Completed })
	within(t, "the device", func() bool { return e.has("device") })
	within(t, "the cluster", func() bool { return e.has("cluster") })
	before := len(e.events())
	l.setLeader(nodeB)
	within(t, "the new leader", func() bool {
		return slices.ContainsFunc(e.events()[before:], func(x Event) bool { return x.Type == "cluster" && strings.Contains(string(x.Data), nodeB) })
	})
}

// A reader that was away hears, on any node, exactly what it missed: also when one entry changed more than one event holds.
func TestEventsResume(t *testing.T) {
	l := newLab(t)
	first := listen(t, l.client(l.serve(), tokenViewer), 0)
	within(t, "hello", func() bool { return first.has("hello") })
	l.submit("ana", fsm.Spec{Project: "cats"})
	within(t, "the first", func() bool { k, _ := first.last(); return len(k) == 1 })
	_, seen := first.last()
	first.stop()

	values := make([]json.RawMessage, 3*perEvent+7)
	for i := range values {
		values[i] = json.RawMessage(fmt.Sprint(i))
	}
	l.submit("ana", fsm.Spec{Project: "cats", Axes: []fsm.Axis{{Key: "seed", Values: values}}})

	second := listen(t, l.client(l.serve(), tokenViewer), seen)
	within(t, "what was missed", func() bool { k, _ := second.last(); return len(k) == len(values) })
	known, id := second.last()
	if _, old := known[1]; old {
		t.Error("what was heard before is told again")
	}
	if id != l.state.Index() {
		t.Errorf("the reader is at %d, the facts at %d", id, l.state.Index())
	}
	// In the middle of an entry the reader must not believe that it has all of it.
	var ids []uint64
	for _, x := range second.events() {
		if x.Type == "experiment" {
			ids = append(ids, x.ID)
		}
	}
	if want := []uint64{seen, seen, seen, id}; !slices.Equal(ids, want) {
		t.Errorf("the events have the IDs %v, want %v", ids, want)
	}
	if second.has("hello") {
		t.Error("a resumed stream begins anew")
	}
}

func TestEventsRefuseAForeignID(t *testing.T) {
	l := newLab(t)
	if w := l.ask("GET", "/api/events", tokenViewer, "", "Last-Event-ID: yesterday"); w.Code != 400 {
		t.Errorf("status %d, want 400", w.Code)
	}
}

// A stream outlives the server's write deadline, and ends when its token is revoked.
func TestEventsOutliveDeadlinesButNotTokens(t *testing.T) {
	l := newLab(t)
	url := l.serve()
	resp := openStream(t, url+"/api/events", tokenAna, "")
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	began := time.Now()
	sawLate := false
	for lines.Scan() {
		switch late := time.Since(began) > 2500*time.Millisecond; {
		case !late:
			l.setLeader(fmt.Sprint(time.Since(began))) // something to tell each second
		case !sawLate:
			sawLate = true
			l.apply(&fsm.Revoke{ID: "id-ana"})
		}
		if time.Since(began) > 8*time.Second {
			t.Fatal("the stream goes on with a revoked token")
		}
	}
	if !sawLate {
		t.Errorf("the stream ended after %s: %v", time.Since(began), lines.Err())
	}
}

func openStream(t *testing.T, url, token, last string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Accept", "text/event-stream")
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	resp, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 200 {
		t.Fatalf("status %d", resp.StatusCode)
	}
	return resp
}

// A reader that reads nothing holds up nobody: facts change, and others hear of it.
func TestSlowReaderHoldsUpNobody(t *testing.T) {
	l := newLab(t)
	url := l.serve()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /api/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n", tokenViewer)
	quick := listen(t, l.client(url, tokenViewer), 0)
	within(t, "hello", func() bool { return quick.has("hello") })
	values := make([]json.RawMessage, 5000)
	for i := range values {
		values[i] = json.RawMessage(fmt.Sprint(i))
	}
	l.submit("ana", fsm.Spec{Project: "cats", Notify: []string{strings.Repeat("x", 100)}, Axes: []fsm.Axis{{Key: "seed", Values: values}}})
	within(t, "all of it, by the other reader", func() bool { k, _ := quick.last(); return len(k) == len(values) })
}

func TestReaderOfEventsSeesWholeEventsOnly(t *testing.T) {
	var got []string
	err := readEvents(strings.NewReader(": hi\n\nid: 4\r\nevent: a\r\ndata: one\r\ndata: two\r\n\r\nevent: b\ndata:three\n\nevent: c\ndata: cut off"), func(e rawEvent) error {
		got = append(got, fmt.Sprintf("%s/%s/%s", e.id, e.name, e.data))
		return nil
	})
	if want := []string{"4/a/one\ntwo", "/b/three"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if err := readEvents(strings.NewReader("data: "+strings.Repeat("x", maxEvent+1)), func(rawEvent) error { return nil }); !errors.Is(err, errEventTooLong) {
		t.Errorf("an endless event: %v", err)
	}
}
