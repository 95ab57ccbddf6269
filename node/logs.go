package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/ui/api"
)

// logs reads the output of attempts: from this machine's disk, or through the node that has it.
type logs struct {
	self  string // this node's ID
	state *fsm.State
	peers *peers
	// path is where the output of an attempt of this machine lies.
	path func(token string) string
}

// Limits of one read. A page or a follower asks again; nothing is ever held in memory as a whole.
const (
	maxLogRead = 1 << 20
	maxLogWait = 10 * time.Second
	// lookForOutput is how often a waiting read looks at the file's size: a line appears within a blink, and a hundred
	// followers cost two thousand stat calls a second.
	lookForOutput = 50 * time.Millisecond
)

// Read implements api.Logs.
func (l *logs) Read(ctx context.Context, q api.LogRequest) (api.LogChunk, error) {
	if q.Max <= 0 || q.Max > maxLogRead {
		q.Max = maxLogRead
	}
	if q.Attempt.Node == l.self {
		return l.readLocal(ctx, q)
	}
	chunk, err := l.readRemote(ctx, q)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && ctx.Err() == nil {
		name := q.Attempt.Node
		if n := l.state.View().Node(name); n != nil {
			name = n.Name
		}
		return chunk, fmt.Errorf("read the output on %s, where it ran: %w", name, err)
	}
	return chunk, err
}

// readLocal reads from the file, waiting for more if asked to.
func (l *logs) readLocal(ctx context.Context, q api.LogRequest) (api.LogChunk, error) {
	deadline := time.NewTimer(maxLogWait)
	defer deadline.Stop()
	tick := time.NewTicker(lookForOutput)
	defer tick.Stop()
	for {
		// Asked before the file is read: output is complete before its attempt is reported as ended.
		ended := l.ended(q.Attempt.Token)
		chunk, err := l.readFile(q)
		if errors.Is(err, fs.ErrNotExist) && !ended {
			err = nil // not launched yet
		}
		chunk.Ended = ended
		if err != nil || len(chunk.Data) > 0 || ended || !q.Wait {
			return chunk, err
		}
		select {
		case <-ctx.Done():
			return chunk, ctx.Err()
		case <-deadline.C:
			return chunk, nil
		case <-tick.C:
		}
	}
}

// ended says whether the attempt is over as far as this replica knows.
func (l *logs) ended(token fsm.Token) bool {
	a := l.state.View().Attempt(token)
	return a != nil && !a.Open()
}

func (l *logs) readFile(q api.LogRequest) (api.LogChunk, error) {
	from := max(q.From, 0)
	chunk := api.LogChunk{From: from, Next: from}
	f, err := os.Open(l.path(q.Attempt.Token.String()))
	if err != nil {
		return chunk, fmt.Errorf("open the output: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return chunk, fmt.Errorf("open the output: %w", err)
	}
	chunk.Size = info.Size()
	if q.From < 0 {
		from = max(0, chunk.Size+q.From)
	}
	chunk.From, chunk.Next = from, from
	if from >= chunk.Size {
		return chunk, nil
	}
	chunk.Data = make([]byte, min(int64(q.Max), chunk.Size-from))
	n, err := f.ReadAt(chunk.Data, from)
	chunk.Data = chunk.Data[:n]
	chunk.Next = from + int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		return chunk, fmt.Errorf("read the output: %w", err)
	}
	return chunk, nil
}

// readRemote asks the node that ran the attempt.
func (l *logs) readRemote(ctx context.Context, q api.LogRequest) (api.LogChunk, error) {
	resp, err := l.peers.get(ctx, q.Attempt.Node, "/log", url.Values{
		"token": {q.Attempt.Token.String()}, "from": {strconv.FormatInt(q.From, 10)},
		"max": {strconv.Itoa(q.Max)}, "wait": {strconv.FormatBool(q.Wait)},
	})
	if err != nil {
		return api.LogChunk{}, err
	}
	defer resp.Body.Close()
	if resp.Header.Get("X-Missing") != "" {
		return api.LogChunk{}, fmt.Errorf("the output is no longer on its node: %w", fs.ErrNotExist)
	}
	chunk := api.LogChunk{Ended: resp.Header.Get("X-Ended") == "true"}
	chunk.From, err = strconv.ParseInt(resp.Header.Get("X-From"), 10, 64)
	if err == nil {
		chunk.Size, err = strconv.ParseInt(resp.Header.Get("X-Size"), 10, 64)
	}
	if err == nil {
		chunk.Data, err = io.ReadAll(io.LimitReader(resp.Body, int64(q.Max)))
	}
	if err != nil {
		return api.LogChunk{}, fmt.Errorf("read the output: %w", err)
	}
	chunk.Next = chunk.From + int64(len(chunk.Data))
	return chunk, nil
}

// log answers another node's readRemote.
func (s *peerServer) log(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	token, err := fsm.ParseToken(query.Get("token"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	from, err1 := strconv.ParseInt(query.Get("from"), 10, 64)
	most, err2 := strconv.Atoi(query.Get("max"))
	if err := errors.Join(err1, err2); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	chunk, err := s.logs.readLocal(r.Context(), api.LogRequest{
		Attempt: &fsm.Attempt{Token: token}, From: from, Max: min(max(most, 1), maxLogRead), Wait: query.Get("wait") == "true",
	})
	h := w.Header()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		h.Set("X-Missing", "true")
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	h.Set("Content-Type", "application/octet-stream")
	h.Set("X-From", strconv.FormatInt(chunk.From, 10))
	h.Set("X-Size", strconv.FormatInt(chunk.Size, 10))
	h.Set("X-Ended", strconv.FormatBool(chunk.Ended))
	_, _ = w.Write(chunk.Data) // a broken connection is the reader's to repeat
}
