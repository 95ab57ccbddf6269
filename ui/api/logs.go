package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

// Sizes of reading output.
const (
	logPiece  = 128 << 10 // bytes read at once, and in one event
	tailPiece = 64 << 10
	tailMost  = 64 << 20 // bytes looked through backwards for the last lines
	maxTail   = 1_000_000
)

// logQuery is what a request asks for.
type logQuery struct {
	attempt int // 0: the newest
	from    int64
	tail    int
}

func parseLogQuery(r *http.Request) (logQuery, error) {
	v := r.URL.Query()
	var q logQuery
	var err error
	if q.attempt, err = boundedInt(v, "attempt", 0, 0, 1<<31-1); err != nil {
		return q, err
	}
	if q.tail, err = boundedInt(v, "tail", 0, 0, maxTail); err != nil {
		return q, err
	}
	from, err := boundedInt(v, "from", 0, 0, 1<<62)
	q.from = int64(from)
	return q, err
}

func (s *Server) logs(w http.ResponseWriter, r *http.Request) error {
	q, err := parseLogQuery(r)
	if err != nil {
		return err
	}
	view := s.o.Cluster.State().View()
	e, err := newShower(view).named(r)
	if err != nil {
		return err
	}
	if q.attempt > e.Attempts {
		return problem(http.StatusNotFound, fmt.Sprintf("experiment %d has no attempt %d", e.ID, q.attempt), fmt.Sprintf("it has made %d", e.Attempts))
	}
	if strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
		return s.followLogs(w, r, e.ID, q)
	}
	return s.plainLogs(w, r, attemptOf(view, e, q.attempt), q)
}

// attemptOf gives the attempt with the number, the newest for 0, nil if there is none.
func attemptOf(view fsm.View, e *fsm.Experiment, number int) *fsm.Attempt {
	if number == 0 || number == e.Attempts {
		return view.Attempt(e.Token)
	}
	for a := range view.Attempts(e.ID) {
		if a.Number == number {
			return a
		}
	}
	return nil
}

// plainLogs copies the output as it is now, piece by piece: no output is too long for it.
func (s *Server) plainLogs(w http.ResponseWriter, r *http.Request, a *fsm.Attempt, q logQuery) error {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if a == nil {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	h.Set("X-Cvlab-Attempt", strconv.Itoa(a.Number))
	size, err := s.logSize(r.Context(), a)
	if errors.Is(err, fs.ErrNotExist) && a.Open() {
		size, err = 0, nil // it has written nothing yet
	}
	if err == nil && q.tail > 0 {
		q.from, err = s.tailStart(r.Context(), a, size, q.tail)
	}
	if err != nil {
		return s.logError(r, a, err)
	}
	from := min(q.from, size)
	// The length is told before, so that a copy that breaks off is not taken for a whole one.
	h.Set("Content-Length", strconv.FormatInt(size-from, 10))
	h.Set("X-Cvlab-From", strconv.FormatInt(from, 10))
	h.Set("X-Cvlab-Next", strconv.FormatInt(size, 10))
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{})
	_ = control.SetWriteDeadline(time.Now().Add(streamWrite))
	w.WriteHeader(http.StatusOK)
	for from < size {
		c, err := s.o.Logs.Read(r.Context(), LogRequest{Attempt: a, From: from, Max: int(min(logPiece, size-from))})
		if err != nil || len(c.Data) == 0 {
			s.log.WarnContext(r.Context(), "output broke off", "experiment", a.Experiment, "attempt", a.Number, "at", from, "error", err)
			return nil // the connection is closed, since the promised length was not written
		}
		_ = control.SetWriteDeadline(time.Now().Add(streamWrite))
		if _, err := w.Write(c.Data[:min(int64(len(c.Data)), size-from)]); err != nil {
			return nil
		}
		from += int64(len(c.Data))
	}
	return nil
}

func (s *Server) logSize(ctx context.Context, a *fsm.Attempt) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, handlerTime)
	defer cancel()
	c, err := s.o.Logs.Read(ctx, LogRequest{Attempt: a, From: 0, Max: 1})
	return c.Size, err
}

func (s *Server) logError(r *http.Request, a *fsm.Attempt, err error) error {
	node := newShower(s.o.Cluster.State().View()).nodeName(a.Node)
	if errors.Is(err, fs.ErrNotExist) {
		return problem(http.StatusNotFound, fmt.Sprintf("attempt %d of experiment %d left no output that can be reached", a.Number, a.Experiment), "it ran on "+node)
	}
	return s.notNow(r, err, "the output lies on "+node+", which does not answer now")
}

// tailStart gives the offset at which the last lines begin.
func (s *Server) tailStart(ctx context.Context, a *fsm.Attempt, size int64, lines int) (int64, error) {
	end := size
	for end > 0 && size-end < tailMost {
		from := max(0, end-tailPiece)
		data, err := s.readAll(ctx, a, from, end)
		if err != nil {
			return 0, err
		}
		for i := len(data) - 1; i >= 0; i-- {
			if data[i] != '\n' || from+int64(i) == size-1 {
				continue
			}
			if lines--; lines == 0 {
				return from + int64(i) + 1, nil
			}
		}
		end = from
	}
	return end, nil
}

func (s *Server) readAll(ctx context.Context, a *fsm.Attempt, from, to int64) ([]byte, error) {
	var b bytes.Buffer
	for at := from; at < to; {
		c, err := s.o.Logs.Read(ctx, LogRequest{Attempt: a, From: at, Max: int(to - at)})
		if err != nil {
			return nil, err
		}
		if len(c.Data) == 0 {
			return nil, fmt.Errorf("read output: nothing at %d of %d", at, c.Size)
		}
		b.Write(c.Data)
		at += int64(len(c.Data))
	}
	return b.Bytes()[:to-from], nil
}
