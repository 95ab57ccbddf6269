package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/deveronica/cvlab/fsm"
)

func TestPlainLogs(t *testing.T) {
	l := newLab(t)
	id := l.submit("ana", fsm.Spec{Project: "cats", Retries: 1})
	first := l.start(id)
	l.write(first, "one\ntwo\n")
	l.finish(first, fsm.ClassUserError, 1)
	second := l.start(id)
	l.write(second, "three\nfour\nfive")
	for _, c := range []struct{ query, want string }{
		{"", "three\nfour\nfive"}, {"?attempt=1", "one\ntwo\n"}, {"?attempt=2", "three\nfour\nfive"},
		{"?from=6", "four\nfive"}, {"?from=1000", ""}, {"?tail=1", "five"}, {"?tail=2", "four\nfive"}, {"?tail=99", "three\nfour\nfive"},
		{"?attempt=1&tail=1", "two\n"}, {"?attempt=1&tail=2", "one\ntwo\n"},
	} {
		w := l.ask("GET", "/api/queue/1/logs"+c.query, tokenViewer, "")
		if w.Code != 200 || w.Body.String() != c.want {
			t.Errorf("%q: status %d, %q; want %q", c.query, w.Code, w.Body, c.want)
		}
		if got := w.Header().Get("Content-Type"); got != "text/plain; charset=utf-8" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%q: content type %q", c.query, got)
		}
	}
	for query, want := range map[string]int{"?attempt=3": 404, "?attempt=-1": 400, "?from=-5": 400, "?tail=x": 400, "?from=99999999999999999999": 400} {
		if w := l.ask("GET", "/api/queue/1/logs"+query, tokenViewer, ""); w.Code != want {
			t.Errorf("%q: status %d, want %d", query, w.Code, want)
		}
	}
}

func TestLogsThatAreNotThere(t *testing.T) {
	l := newLab(t)
	id := l.submit("ana", fsm.Spec{Project: "cats"})
	if w := l.ask("GET", "/api/queue/1/logs", tokenViewer, ""); w.Code != 200 || w.Body.Len() > 0 {
		t.Errorf("before the first attempt: status %d, %q; want nothing", w.Code, w.Body)
	}
	token := l.start(id)
	if w := l.ask("GET", "/api/queue/1/logs", tokenViewer, ""); w.Code != 200 || w.Body.Len() > 0 {
		t.Errorf("before the first byte: status %d, %q; want nothing", w.Code, w.Body)
	}
	l.mu.Lock()
	l.outputErr = errors.New("dial gpu1: no route")
	l.mu.Unlock()
	if w := l.ask("GET", "/api/queue/1/logs", tokenViewer, ""); w.Code != 503 || !strings.Contains(w.Body.String(), "gpu1") || strings.Contains(w.Body.String(), "no route") {
		t.Errorf("its node is away: status %d: %s", w.Code, w.Body)
	}
	l.mu.Lock()
	l.outputErr = nil
	l.mu.Unlock()
	l.finish(token, fsm.ClassStartFailed, 1)
	if w := l.ask("GET", "/api/queue/1/logs", tokenViewer, ""); w.Code != 404 {
		t.Errorf("it never wrote: status %d, want 404", w.Code)
	}
}

// junk is output that no text editor likes: all bytes, long lines, cut characters.
func junk(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	copy(b[n/3:], strings.Repeat("é한", 5000))
	return b
}

// Large binary output comes through to the last byte, whole or live, in pieces of bounded size.
func TestLargeBinaryLogs(t *testing.T) {
	l := newLab(t)
	id := l.submit("ana", fsm.Spec{Project: "cats"})
	token := l.start(id)
	want := junk(20 << 20)
	l.write(token, string(want))
	c := l.client(l.serve(), tokenViewer)
	body, err := c.Logs(t.Context(), id, LogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(body)
	body.Close()
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("whole: %d of %d bytes, equal %t, %v", len(got), len(want), bytes.Equal(got, want), err)
	}
	if l.asked < 100 {
		t.Errorf("20 MiB were read in %d pieces: too large ones", l.asked)
	}
	l.finish(token, fsm.ClassCompleted, 0)
	var live []byte
	final, err := c.FollowLogs(t.Context(), id, LogOptions{From: 5}, func(p LogPiece) error {
		if p.From != int64(len(live))+5 {
			return fmt.Errorf("a piece begins at %d, want %d", p.From, len(live)+5)
		}
		live = append(live, p.Data...)
		return nil
	})
	if err != nil || !bytes.Equal(live, want[5:]) || final.Status != fsm.Completed {
		t.Errorf("live: %d of %d bytes, %s, %v", len(live), len(want)-5, final.Status, err)
	}
}

// When reading breaks off in the middle, the reader notices.
func TestBrokenOffLogsAreNoticed(t *testing.T) {
	l := newLab(t)
	id := l.submit("ana", fsm.Spec{Project: "cats"})
	l.write(l.start(id), strings.Repeat("x", 1<<20))
	c := l.client(l.serve(), tokenViewer)
	body, err := c.Logs(t.Context(), id, LogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	l.mu.Lock()
	l.outputErr = errors.New("disk on fire")
	l.mu.Unlock()
	// What was on its way already may be a good part of it; all of it would mean that nothing broke.
	if got, err := io.ReadAll(body); err == nil && len(got) < 1<<20 {
		t.Errorf("%d bytes were taken for the whole output", len(got))
	}
}

// follow collects what a follower hears.
type follow struct {
	mu    sync.Mutex
	text  string
	notes []string
	final FinalStatus
	group errgroup.Group
}

func (f *follow) so() (string, []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.text, slices.Clone(f.notes)
}

func startFollow(t *testing.T, c *Client, id uint64, o LogOptions) *follow {
	t.Helper()
	f := &follow{}
	f.group.Go(func() error {
		final, err := c.FollowLogs(t.Context(), id, o, func(p LogPiece) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.text += string(p.Data)
			if p.Note != "" {
				f.notes = append(f.notes, p.Note)
			}
			return nil
		})
		f.final = final
		return err
	})
	return f
}

// A follower comes before the first attempt and stays over a retry to the end.
func TestFollowFromPendingOverARetryToTheEnd(t *testing.T) {
	l := newLab(t)
	id := l.submit("ana", fsm.Spec{Project: "cats", Retries: 1})
	f := startFollow(t, l.client(l.serve(), tokenViewer), id, LogOptions{})
	within(t, "why it waits", func() bool { _, n := f.so(); return slices.Contains(n, "experiment 1 waits for a GPU") })
	first := l.start(id)
	l.write(first, "epoch 1 한")
	within(t, "the first line", func() bool { s, _ := f.so(); return s == "epoch 1 한" })
	l.write(first, "글\n")
	within(t, "the rest of the line", func() bool { s, _ := f.so(); return s == "epoch 1 한글\n" })
	l.finish(first, fsm.ClassUserError, 1)
	second := l.start(id)
	l.write(second, "again\n")
	within(t, "the second attempt", func() bool {
		s, n := f.so()
		return s == "epoch 1 한글\nagain\n" && slices.Contains(n, "attempt 2 begins on gpu1")
	})
	l.finish(second, fsm.ClassUserError, 7)
	if err := f.group.Wait(); err != nil {
		t.Fatal(err)
	}
	if f.final.Status != fsm.Failed || f.final.ExitCode == nil || *f.final.ExitCode != 7 || f.final.Experiment.ID != id {
		t.Errorf("ended with %+v", f.final)
	}
}

func TestFollowOneAttemptEndsWithIt(t *testing.T) {
	l := newLab(t)
	id := l.submit("ana", fsm.Spec{Project: "cats", Retries: 1})
	first := l.start(id)
	l.write(first, "one\n")
	f := startFollow(t, l.client(l.serve(), tokenViewer), id, LogOptions{Attempt: 1})
	within(t, "its output", func() bool { s, _ := f.so(); return s == "one\n" })
	l.finish(first, fsm.ClassUserError, 4)
	if err := f.group.Wait(); err != nil {
		t.Fatal(err)
	}
	if f.final.ExitCode == nil || *f.final.ExitCode != 4 || f.final.Status != fsm.Pending {
		t.Errorf("ended with %+v; want exit code 4 of an experiment that waits again", f.final)
	}
}

// The node with the output goes away and comes back; nothing is lost or told twice.
func TestFollowWaitsForANodeThatIsAway(t *testing.T) {
	l := newLab(t)
	id := l.submit("ana", fsm.Spec{Project: "cats"})
	token := l.start(id)
	l.write(token, "one\n")
	f := startFollow(t, l.client(l.serve(), tokenViewer), id, LogOptions{})
	within(t, "the first line", func() bool { s, _ := f.so(); return s == "one\n" })
	l.mu.Lock()
	l.outputErr = errors.New("dial gpu1: no route")
	l.output[token] = append(l.output[token], "two\n"...)
	asked := l.asked
	l.mu.Unlock()
	within(t, "some tries", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.asked > asked+1 })
	l.mu.Lock()
	l.outputErr = nil
	l.mu.Unlock()
	within(t, "the second line", func() bool { s, _ := f.so(); return s == "one\ntwo\n" })
	l.finish(token, fsm.ClassCompleted, 0)
	if err := f.group.Wait(); err != nil || f.final.Status != fsm.Completed {
		t.Errorf("ended with %+v, %v", f.final, err)
	}
}

func TestFollowOfOutputThatIsGone(t *testing.T) {
	l := newLab(t)
	id := l.submit("ana", fsm.Spec{Project: "cats"})
	l.finish(l.start(id), fsm.ClassStartFailed, 1)
	f := startFollow(t, l.client(l.serve(), tokenViewer), id, LogOptions{})
	if err := f.group.Wait(); err != nil || f.final.Class != fsm.ClassStartFailed {
		t.Errorf("ended with %+v, %v", f.final, err)
	}
	if _, notes := f.so(); len(notes) != 1 || !strings.Contains(notes[0], "cannot be reached") {
		t.Errorf("notes: %q", notes)
	}
}

func TestFollowWithTailBeginsNearTheEnd(t *testing.T) {
	l := newLab(t)
	id := l.submit("ana", fsm.Spec{Project: "cats"})
	token := l.start(id)
	l.write(token, strings.Repeat("old\n", 100_000)+"new 1\nnew 2\n")
	l.finish(token, fsm.ClassCompleted, 0)
	f := startFollow(t, l.client(l.serve(), tokenViewer), id, LogOptions{Tail: 2})
	if err := f.group.Wait(); err != nil {
		t.Fatal(err)
	}
	if s, _ := f.so(); s != "new 1\nnew 2\n" {
		t.Errorf("got %d bytes ending in %q", len(s), s[max(0, len(s)-20):])
	}
}

func TestWholeRunes(t *testing.T) {
	for text, want := range map[string]int{"": 0, "abc": 3, "é": 2, "é"[:1]: 0, "a한"[:3]: 1, "a한": 4, "\xff\xff\xff\xff": 4, "a\xf0\x9f\x98": 1, "\x80\x80\x80\x80\x80": 5} {
		if got := wholeRunes([]byte(text)); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}
