package node

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// systemd is a socket that notes what it is told.
type systemd struct {
	mu   sync.Mutex
	told []string
	at   []time.Time
}

func newSystemd(t *testing.T, watchdog time.Duration) *systemd {
	t.Helper()
	dir, err := os.MkdirTemp("", "sd") // the test's own directory may be longer than a socket's name may be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	s := &systemd{}
	wait := start(func() {
		buf := make([]byte, 1024)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.told, s.at = append(s.told, string(buf[:n])), append(s.at, time.Now())
			s.mu.Unlock()
		}
	})
	t.Cleanup(func() { c.Close(); wait() })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	if watchdog > 0 {
		t.Setenv("WATCHDOG_USEC", strconv.FormatInt(watchdog.Microseconds(), 10))
	}
	return s
}

func (s *systemd) times(word string) []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	var at []time.Time
	for i, w := range s.told {
		if w == word {
			at = append(at, s.at[i])
		}
	}
	return at
}

func runNotifier(t *testing.T, n *notifier) (stop func()) {
	n.logger = quiet()
	ctx, cancel := context.WithCancel(context.Background())
	wait := start(func() {
		if err := n.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); wait() })
	t.Cleanup(stop)
	return stop
}

func TestSystemdIsTold(t *testing.T) {
	const watchdog = 300 * time.Millisecond
	s := newSystemd(t, watchdog)
	ready := make(chan struct{})
	var asked atomic.Int32
	stop := runNotifier(t, &notifier{ready: ready, alive: func(context.Context) error { asked.Add(1); return nil }})
	if asked.Load() != 0 || len(s.times("READY=1")) != 0 {
		t.Error("told before the node was ready")
	}
	close(ready)
	until(t, "READY and some signs of life", func() bool { return len(s.times("READY=1")) == 1 && len(s.times("WATCHDOG=1")) >= 7 })
	signs := s.times("WATCHDOG=1")
	// Three in every interval of systemd's: on average, since this machine may be busy.
	if d := signs[6].Sub(signs[0]); d < 4*watchdog/3 {
		t.Errorf("seven signs of life in %s, want one each %s", d, watchdog/3)
	}
	if len(s.times("STOPPING=1")) != 0 {
		t.Error("stopping already")
	}
	stop()
	until(t, "STOPPING", func() bool { return len(s.times("STOPPING=1")) == 1 })
	if s.mu.Lock(); s.told[0] != "READY=1" || s.told[len(s.told)-1] != "STOPPING=1" {
		t.Errorf("told %v", s.told)
	}
	s.mu.Unlock()
}

func TestNoSignOfLifeWhileStuck(t *testing.T) {
	s := newSystemd(t, 90*time.Millisecond)
	ready := make(chan struct{})
	close(ready)
	var asked atomic.Int32
	var well atomic.Bool
	runNotifier(t, &notifier{ready: ready, alive: func(ctx context.Context) error {
		switch {
		case well.Load():
			return nil
		case asked.Add(1)%2 == 0:
			<-ctx.Done() // it hangs
			return ctx.Err()
		}
		return errors.New("no answer")
	}})
	until(t, "ten looks", func() bool { return asked.Load() >= 10 })
	if n := len(s.times("WATCHDOG=1")); n != 0 {
		t.Errorf("%d signs of life from a node that is stuck", n)
	}
	well.Store(true)
	until(t, "a sign of life", func() bool { return len(s.times("WATCHDOG=1")) > 0 })
}

func TestWithoutWatchdog(t *testing.T) {
	s := newSystemd(t, 0)
	ready := make(chan struct{})
	close(ready)
	stop := runNotifier(t, &notifier{ready: ready, alive: func(context.Context) error { t.Error("asked"); return nil }})
	until(t, "READY", func() bool { return len(s.times("READY=1")) == 1 })
	stop()
	until(t, "STOPPING", func() bool { return len(s.times("STOPPING=1")) == 1 })
	if !slices.Equal(s.told, []string{"READY=1", "STOPPING=1"}) {
		t.Errorf("told %v", s.told)
	}
}

func TestWithoutSystemd(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	ready := make(chan struct{})
	close(ready)
	runNotifier(t, &notifier{ready: ready, alive: func(context.Context) error { t.Error("asked"); return nil }})()
}
