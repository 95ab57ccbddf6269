package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// serveAsks runs a server whose job answers everything with yes.
func serveAsks(t *testing.T, dir string) {
	t.Helper()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	s, err := listen(d, "the right nonce", logger(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.run(ctx); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() {
		for {
			select {
			case q := <-s.asks:
				q.reply <- Answer{OK: true, Phase: q.req.Op}
			case <-ctx.Done():
				return
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		d.Close()
	})
}

func longDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 40)) // longer than a socket's address may be
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestAsk(t *testing.T) {
	dir := longDir(t)
	if _, err := Ask(t.Context(), dir, "n", Request{Op: OpStatus}); err == nil || errors.Is(err, ErrRefused) {
		t.Errorf("nobody there: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, SocketFile), nil, 0o600); err != nil { // from a former life
		t.Fatal(err)
	}
	serveAsks(t, dir)
	a, err := Ask(t.Context(), dir, "the right nonce", Request{Op: OpStatus})
	if err != nil || !a.OK || a.Phase != OpStatus {
		t.Errorf("got %+v, %v", a, err)
	}
	for _, nonce := range []string{"", "the wrong nonce", "the right nonce "} {
		if _, err := Ask(t.Context(), dir, nonce, Request{Op: OpStop}); !errors.Is(err, ErrRefused) {
			t.Errorf("nonce %q: %v", nonce, err)
		}
	}
	if _, err := Ask(t.Context(), dir, "the right nonce", Request{Op: OpStop, Why: strings.Repeat("because ", 10_000)}); err != nil {
		t.Errorf("a long reason: %v", err)
	}
}

func TestSocketSurvivesBadCallers(t *testing.T) {
	dir := longDir(t)
	serveAsks(t, dir)
	for range maxCallers - 1 { // silent ones, who keep the line
		c, err := dial(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	for name, text := range map[string]string{
		"too long": strings.Repeat("x", 3*maxRequest),
		"garbage":  "\x00\xff\n",
		"newer":    `{"v":9,"nonce":"the right nonce","op":"status"}` + "\n",
	} {
		c, err := dial(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte(text)) // it may hang up before it has heard it all
		if line, err := readLine(c); err == nil && !strings.Contains(string(line), `"ok":false`) {
			t.Errorf("%s: answered %s", name, line)
		}
		c.Close()
	}
	if _, err := Ask(t.Context(), dir, "the right nonce", Request{Op: OpStatus}); err != nil {
		t.Errorf("a good caller: %v", err)
	}
}

func TestOtherUsersAreRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can pose as another user")
	}
	dir := t.TempDir()
	serveAsks(t, dir)
	// The directory keeps others out; here it is left open to see the second lock.
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	if err := os.Chmod(filepath.Join(dir, SocketFile), 0o777); err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var connected error
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread() // and never back: this thread becomes nobody, and ends with the goroutine
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, ^uintptr(0), 65534, ^uintptr(0)); errno != 0 {
			connected = fmt.Errorf("become nobody: %w", errno)
			return
		}
		connected = unix.Connect(fd, &unix.SockaddrUnix{Name: socketPath(d)})
	})
	wg.Wait()
	if connected != nil {
		t.Skipf("nobody cannot even reach the socket: %v", connected)
	}
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	line, err := readLine(c)
	if err != nil || !strings.Contains(string(line), "65534 is not") {
		t.Errorf("got %q, %v", line, err)
	}
}
