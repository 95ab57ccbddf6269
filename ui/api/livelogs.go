package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/deveronica/cvlab/fsm"
)

// liveLogs is one reader that follows the output of an experiment.
type liveLogs struct {
	s   *Server
	r   *http.Request
	out *sse
	id  uint64
	// only is set when one attempt was asked for; the stream then ends with it.
	only    bool
	attempt int   // being read; 0 before the first
	from    int64 // next byte of it
	checked time.Time
	waits   string // why it waits, as told last
}

// followLogs tells output as it is written, goes on with the next attempt when there is one, and ends with an "end" event.
func (s *Server) followLogs(w http.ResponseWriter, r *http.Request, id uint64, q logQuery) error {
	l := &liveLogs{s: s, r: r, id: id, only: q.attempt > 0, attempt: q.attempt, from: q.from, checked: time.Now()}
	e := s.o.Cluster.State().View().Experiment(id)
	if l.attempt == 0 {
		l.attempt = e.Attempts
	}
	if err := l.resume(r.Header.Get("Last-Event-ID"), q); err != nil {
		return err
	}
	var err error
	if l.out, err = openSSE(w); err != nil {
		return nil
	}
	if err := l.run(r.Context()); err != nil {
		s.log.DebugContext(r.Context(), "log stream ended", "experiment", id, "error", err)
	}
	return nil
}

// resume finds the place to begin at: after what the reader has, or at the last lines.
func (l *liveLogs) resume(last string, q logQuery) error {
	if last != "" {
		number, offset, ok := parseLogID(last)
		if !ok {
			return problem(http.StatusBadRequest, "Last-Event-ID is not one that this stream gave out", "begin without it")
		}
		l.attempt, l.from = number, offset
		return nil
	}
	a := l.current()
	if q.tail == 0 || a == nil {
		return nil
	}
	size, err := l.s.logSize(l.r.Context(), a)
	if err == nil {
		l.from, err = l.s.tailStart(l.r.Context(), a, size, q.tail)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return l.s.logError(l.r, a, err)
	}
	return nil
}

func (l *liveLogs) current() *fsm.Attempt {
	view := l.s.o.Cluster.State().View()
	e := view.Experiment(l.id)
	if e == nil || l.attempt == 0 {
		return nil
	}
	return attemptOf(view, e, l.attempt)
}

// logID is where a reader of live output is, for Last-Event-ID: attempt and offset.
func logID(attempt int, offset int64) string {
	return strconv.Itoa(attempt) + ":" + strconv.FormatInt(offset, 10)
}

func parseLogID(text string) (attempt int, offset int64, ok bool) {
	a, o, found := strings.Cut(text, ":")
	attempt, err1 := strconv.Atoi(a)
	offset, err2 := strconv.ParseInt(o, 10, 64)
	return attempt, offset, found && err1 == nil && err2 == nil && attempt >= 0 && offset >= 0
}

func (l *liveLogs) run(ctx context.Context) error {
	for {
		if l.attempt > 0 {
			if err := l.readAttempt(ctx); err != nil {
				return err
			}
		}
		ended, err := l.awaitNext(ctx)
		if ended || err != nil {
			return err
		}
	}
}

// readAttempt tells the output of the current attempt until that can grow no more.
func (l *liveLogs) readAttempt(ctx context.Context) error {
	misses := 0
	for {
		if err := l.check(); err != nil {
			return err
		}
		a := l.current()
		if a == nil {
			return nil
		}
		c, err := l.s.o.Logs.Read(ctx, LogRequest{Attempt: a, From: l.from, Max: logPiece, Wait: true})
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && a.Open():
			// Not started yet, or its node is away: it may come back for hours.
			if err := l.pause(ctx, followPause/4); err != nil {
				return err
			}
			continue
		case err != nil:
			if misses++; misses < 3 && !errors.Is(err, fs.ErrNotExist) {
				if err := l.pause(ctx, followPause); err != nil {
					return err
				}
				continue
			}
			return l.note(fmt.Sprintf("the rest of the output of attempt %d cannot be reached now", a.Number))
		}
		misses = 0
		if len(c.Data) > 0 {
			if err := l.tell(a.Number, c); err != nil {
				return err
			}
		}
		switch {
		case c.Ended && l.from >= c.Size:
			return nil
		case !a.Open() && len(c.Data) == 0:
			return nil // its end is a fact, and nothing more came
		case len(c.Data) < logPiece/8:
			// A chatty program becomes forty events a second, not one per line.
			if err := l.pause(ctx, followPause/40); err != nil {
				return err
			}
		}
	}
}

// tell sends a piece of output. Text is not cut within a character, unless that is all there is.
func (l *liveLogs) tell(attempt int, c LogChunk) error {
	data := c.Data
	if !c.Ended || c.Next < c.Size {
		if whole := wholeRunes(data); whole > 0 {
			data = data[:whole]
		}
	}
	e := logEvent{Attempt: attempt, From: c.From, Next: c.From + int64(len(data)), Data: string(data)}
	if !utf8.Valid(data) {
		e.Data, e.Bytes = strings.ToValidUTF8(e.Data, "\uFFFD"), data
	}
	l.from, l.waits = e.Next, ""
	return l.out.send(logID(attempt, e.Next), "log", e)
}

// wholeRunes gives the length without an unfinished character at the end.
func wholeRunes(data []byte) int {
	for back := 1; back < utf8.UTFMax && back <= len(data); back++ {
		b := data[len(data)-back]
		if utf8.RuneStart(b) {
			if !utf8.FullRune(data[len(data)-back:]) {
				return len(data) - back
			}
			break
		}
	}
	return len(data)
}

// awaitNext waits until there is another attempt to read, or tells the end.
func (l *liveLogs) awaitNext(ctx context.Context) (ended bool, err error) {
	state := l.s.o.Cluster.State()
	for {
		changed := state.Changed()
		view := state.View()
		e := view.Experiment(l.id)
		a := attemptOf(view, e, l.attempt)
		switch {
		case l.only && a != nil && !a.Open():
			return true, l.end(view, e, a)
		case !l.only && e.Attempts > l.attempt:
			return false, l.begin(view, e)
		case !l.only && e.Status.Ended():
			return true, l.end(view, e, a)
		}
		if err := l.waiting(ctx, e); err != nil {
			return false, err
		}
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-changed:
		case <-time.After(followPause):
		}
		if err := l.check(); err != nil {
			return false, err
		}
	}
}

func (l *liveLogs) begin(view fsm.View, e *fsm.Experiment) error {
	first := l.attempt == 0
	l.attempt, l.from = l.attempt+1, 0
	a := attemptOf(view, e, l.attempt)
	if first || a == nil {
		return nil
	}
	return l.note(fmt.Sprintf("attempt %d begins on %s", l.attempt, newShower(view).nodeName(a.Node)))
}

// waiting tells once why it waits.
func (l *liveLogs) waiting(ctx context.Context, e *fsm.Experiment) error {
	if e.Status != fsm.Pending && e.Status != fsm.Held {
		return nil
	}
	shown := []Experiment{newShower(l.s.o.Cluster.State().View()).experiment(e)}
	l.s.live(ctx, shown)
	if shown[0].Reason == l.waits {
		return nil
	}
	l.waits = shown[0].Reason
	return l.note(l.waits)
}

func (l *liveLogs) note(sentence string) error {
	return l.out.send(logID(l.attempt, l.from), "note", noteEvent{Attempt: l.attempt, Sentence: sentence})
}

func (l *liveLogs) end(view fsm.View, e *fsm.Experiment, a *fsm.Attempt) error {
	sh := newShower(view)
	f := FinalStatus{Status: e.Status, ExitCode: e.ExitCode, Class: e.Class, Sentence: cmp.Or(e.Message, string(e.Status)), Experiment: sh.experiment(e)}
	if a != nil {
		f.Sentence = sh.sentence(a)
		if l.only {
			f.ExitCode, f.Class = a.ExitCode, a.Class
		}
	}
	return l.out.send("", "end", f)
}

// pause waits a little, with the look that every wait needs.
func (l *liveLogs) pause(ctx context.Context, d time.Duration) error {
	if err := l.check(); err != nil {
		return err
	}
	return sleep(ctx, d)
}

var errRevoked = errors.New("the token is not valid any more")

// check keeps the connection alive and ends it when its token was revoked.
func (l *liveLogs) check() error {
	if time.Since(l.checked) >= streamRecheck {
		l.checked = time.Now()
		if !l.s.stillGood(l.r) {
			return errRevoked
		}
	}
	return l.out.breathe()
}
