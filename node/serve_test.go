package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/deveronica/cvlab/cluster/mesh"
)

// door is a front on a port of its own.
type door struct {
	*front
	t    *testing.T
	addr string
	cert tls.Certificate
}

// newDoor makes a front that does not run yet.
func newDoor(t *testing.T, h http.HandlerFunc) *door {
	t.Helper()
	id, _, err := mesh.LoadOrCreateIdentity(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := id.CertificateFor("localhost", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := newFront(frontOptions{listener: l, cert: cert, handler: h, logger: quiet()})
	return &door{front: f, t: t, addr: l.Addr().String(), cert: cert}
}

// open runs the front; close ends it and waits.
func (d *door) open() (close func() time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := d.Run(ctx); err != nil {
			d.t.Errorf("the front ended with: %v", err)
		}
	})
	close = sync.OnceValue(func() time.Duration {
		began := time.Now()
		cancel()
		running.Wait()
		return time.Since(began)
	})
	d.t.Cleanup(func() { close() })
	return close
}

func (d *door) dial() net.Conn {
	d.t.Helper()
	c, err := net.Dial("tcp", d.addr)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		d.t.Fatal(err)
	}
	return c
}

func (d *door) client() *http.Client {
	t := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	d.t.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t, Timeout: 10 * time.Second}
}

func (d *door) get(url string) (*http.Response, string) {
	d.t.Helper()
	resp, err := d.client().Get(url)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return resp, string(body)
}

func hello(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "hello, TLS %v, %s", r.TLS != nil, r.Proto)
}

func TestFrontSpeaksBoth(t *testing.T) {
	d := newDoor(t, hello)
	d.open()
	if _, body := d.get("http://" + d.addr); body != "hello, TLS false, HTTP/1.1" {
		t.Errorf("plain on loopback: %q", body)
	}
	resp, body := d.get("https://" + d.addr)
	if body != "hello, TLS true, HTTP/2.0" && body != "hello, TLS true, HTTP/1.1" {
		t.Errorf("TLS: %q", body)
	}
	if !bytes.Equal(resp.TLS.PeerCertificates[0].Raw, d.cert.Certificate[0]) {
		t.Error("TLS by another certificate than the node's: its fingerprint is what clients trust")
	}
}

func TestPlainHTTPIsForThisMachine(t *testing.T) {
	d := newDoor(t, hello)
	t.Cleanup(func() { d.listener.Close() })
	own := &net.TCPAddr{IP: net.ParseIP("192.0.2.1"), Port: 8000}
	for _, c := range []struct {
		name, from string
		code       int
	}{
		{"loopback", "127.0.0.1:999", 200},
		{"loopback of IPv6", "[::1]:999", 200},
		{"loopback in IPv6 clothes", "[::ffff:127.0.0.1]:999", 200},
		{"the address it was sent to", "192.0.2.1:999", 200},
		{"another machine", "192.0.2.7:999", 308},
		{"another machine by IPv6", "[2001:db8::7]:999", 308},
		{"nobody knows", "@", 308},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "http://lab.example:8000/api/v1/queue?q=a%20b", nil)
			r.RemoteAddr = c.from
			r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, own))
			w := httptest.NewRecorder()
			d.plain.Handler.ServeHTTP(w, r)
			if w.Code != c.code {
				t.Errorf("answered %d, want %d", w.Code, c.code)
			}
			if want := "https://lab.example:8000/api/v1/queue?q=a%20b"; c.code == 308 && w.Header().Get("Location") != want {
				t.Errorf("sent to %q, want %q", w.Header().Get("Location"), want)
			}
			if c.code == 308 && bytes.Contains(w.Body.Bytes(), []byte("hello")) {
				t.Error("answered in the clear")
			}
		})
	}
	t.Run("unless all may", func(t *testing.T) {
		f := newFront(frontOptions{listener: d.listener, cert: d.cert, handler: http.HandlerFunc(hello), plainHTTP: true, logger: quiet()})
		r := httptest.NewRequest(http.MethodGet, "http://lab:8000/", nil)
		w := httptest.NewRecorder()
		if f.plain.Handler.ServeHTTP(w, r); w.Code != 200 {
			t.Errorf("answered %d", w.Code)
		}
	})
}

func TestJunkDoesNoHarm(t *testing.T) {
	d := newDoor(t, hello)
	d.open()
	for _, junk := range []string{"\x00\x01\x02\r\n\r\n", "\x16\x03\x01\x00\x05junk!", "\x16garbage that is no TLS at all\r\n\r\n", "\xff", "GET", "SSH-2.0-OpenSSH\r\n\r\n"} {
		c := d.dial()
		if _, err := io.WriteString(c, junk); err != nil {
			t.Fatal(err)
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(c)
		if err, ok := errors.AsType[net.Error](err); ok && err.Timeout() {
			t.Errorf("%q: not closed", junk)
		}
		if bytes.Contains(answer, []byte("hello")) {
			t.Errorf("%q was answered: %q", junk, answer)
		}
	}
	if _, body := d.get("http://" + d.addr); body != "hello, TLS false, HTTP/1.1" {
		t.Errorf("afterwards: %q", body)
	}
}

func TestSilentClientIsClosedAndHoldsNobodyUp(t *testing.T) {
	d := newDoor(t, hello)
	d.patience = 200 * time.Millisecond
	d.open()
	silent := d.dial()
	if _, body := d.get("http://" + d.addr); body == "" {
		t.Error("no answer while another connection is silent")
	}
	if _, err := silent.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read %v, want the end", err)
	}
}

func TestEndIsBounded(t *testing.T) {
	t.Run("a stream that listens ends at once", func(t *testing.T) {
		entered := make(chan struct{})
		d := newDoor(t, func(w http.ResponseWriter, r *http.Request) { close(entered); <-r.Context().Done() })
		d.drain = time.Hour
		end := d.open()
		if _, err := io.WriteString(d.dial(), "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		<-entered
		if took := end(); took > 10*time.Second {
			t.Errorf("took %s", took)
		}
	})
	t.Run("one that does not is cut off", func(t *testing.T) {
		entered, release := make(chan struct{}), make(chan struct{})
		var handler sync.WaitGroup
		handler.Add(1)
		d := newDoor(t, func(http.ResponseWriter, *http.Request) { defer handler.Done(); close(entered); <-release })
		d.drain = 100 * time.Millisecond
		end := d.open()
		c := d.dial()
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		<-entered
		if took := end(); took < d.drain || took > 10*time.Second {
			t.Errorf("took %s, want a little more than %s", took, d.drain)
		}
		close(release)
		handler.Wait()
	})
	t.Run("silent connections are closed", func(t *testing.T) {
		d := newDoor(t, hello)
		d.patience = time.Hour
		end := d.open()
		c := d.dial()
		if _, body := d.get("http://" + d.addr); body == "" { // by now the silent one was accepted
			t.Fatal("no answer")
		}
		if took := end(); took > 10*time.Second {
			t.Errorf("took %s", took)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("still open")
		}
	})
}
