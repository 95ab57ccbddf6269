package mesh

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// junkLimit stands in for the 5 s of a real handshake.
const junkLimit = 150 * time.Millisecond

// rawDial connects to the port of n without any manners.
func rawDial(t *testing.T, n *node) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", n.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// tlsDial does the TLS handshake of a stranger and no hello.
func tlsDial(t *testing.T, n *node, change func(*tls.Config)) (*tls.Conn, error) {
	t.Helper()
	config := newNode(t).tlsConfig(func(string) error { return nil })
	change(config)
	c := tls.Client(rawDial(t, n), config)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return c, c.HandshakeContext(ctx)
}

func mustTLSDial(t *testing.T, n *node) *tls.Conn {
	t.Helper()
	c, err := tlsDial(t, n, func(*tls.Config) {})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestJunkOnThePortIsClosed(t *testing.T) {
	random := make([]byte, 64<<10)
	rand.Read(random)
	plain := map[string][]byte{
		"plain HTTP":                     []byte("GET / HTTP/1.1\r\nHost: gpu1:8001\r\n\r\n"),
		"random bytes":                   random,
		"length prefix of 64 KiB":        {0, 1, 0, 0},
		"length prefix of 4 GiB":         append([]byte{0xff, 0xff, 0xff, 0xff}, random...),
		"TLS record of 64 KiB":           append([]byte{22, 3, 1, 0xff, 0xff}, random...),
		"TLS hello of 16 MiB":            append([]byte{22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff}, random...),
		"first half of a TLS record":     {22, 3, 1, 0, 200, 1},
		"a connection that says nothing": nil,
	}
	hello := map[string][]byte{
		"hello of 64 KiB":        frameOf(bytes.Repeat([]byte{' '}, 64<<10)),
		"hello of 4 GiB":         {0xff, 0xff, 0xff, 0xff},
		"half a hello":           {0, 0, 1, 0, '{'},
		"no hello":               nil,
		"hello without JSON":     frameOf([]byte("raft")),
		"hello with more in it":  frameOf([]byte(`{"cluster":"lab","epoch":1,"protocol":"raft","admin":true}`)),
		"two values":             frameOf([]byte(`{"protocol":"raft"}{}`)),
		"protocol name of 1 KiB": frameOf([]byte(`{"cluster":"lab","epoch":1,"protocol":"` + strings.Repeat("x", 1<<10) + `"}`)),
	}
	a, b := newNode(t), newNode(t, "raft")
	b.limit = junkLimit
	a.roster.admit(b.id)
	b.roster.admit(a.id)
	a.run(t)
	b.run(t)
	for name, bytes := range plain {
		t.Run(name, func(t *testing.T) {
			c := rawDial(t, b)
			c.Write(bytes) // may be cut midway
			ended(t, c)
		})
	}
	for name, bytes := range hello {
		t.Run(name, func(t *testing.T) {
			c := mustTLSDial(t, b)
			c.Write(bytes)
			ended(t, c)
		})
	}
	await(t, "no connection is left", func() bool { return b.conns.size() == 0 })
	carries(t, a.mustDial(t, b, "raft"), b.accept(t, "raft"), "the port still serves")
}

func frameOf(body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

func TestTLSWithoutOurRulesIsRefused(t *testing.T) {
	b := newNode(t, "raft").run(t)
	tests := map[string]func(*tls.Config){
		"TLS 1.2":        func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
		"no certificate": func(c *tls.Config) { c.Certificates = nil },
		"no ALPN":        func(c *tls.Config) { c.NextProtos, c.VerifyConnection = nil, nil },
		"other ALPN":     func(c *tls.Config) { c.NextProtos, c.VerifyConnection = []string{"h2"}, nil },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			c, err := tlsDial(t, b, change)
			if err != nil {
				return
			}
			WriteFrame(c, hello{Cluster: "lab", Epoch: 1, Protocol: "raft"})
			var a answer
			c.SetDeadline(time.Now().Add(patience))
			if err := ReadFrame(c, helloLimit, &a); err == nil {
				t.Errorf("the node answered %+v", a)
			}
		})
	}
}

func TestNoSessionIsResumed(t *testing.T) {
	b := newNode(t, "raft").run(t)
	cache := tls.NewLRUClientSessionCache(4)
	for range 2 {
		c, err := tlsDial(t, b, func(c *tls.Config) { c.ClientSessionCache, c.SessionTicketsDisabled = cache, false })
		if err != nil {
			t.Fatal(err)
		}
		WriteFrame(c, hello{})
		var a answer
		if err := ReadFrame(c, helloLimit, &a); err != nil { // a ticket would come before the answer
			t.Fatal(err)
		}
		if c.ConnectionState().DidResume {
			t.Fatal("a resumed session skips the proof of the key")
		}
	}
}

// More silent connections than there are places must not keep a machine out until their deadline.
func TestIdleJunkDoesNotShutMachinesOut(t *testing.T) {
	a, b := newNode(t), newNode(t, "raft")
	b.gate = newGate(8, 20*time.Millisecond)
	b.limit = time.Hour // only the gate can make room
	a.roster.admit(b.id)
	b.roster.admit(a.id)
	a.run(t)
	b.run(t)
	var junk []net.Conn
	for range 20 {
		junk = append(junk, rawDial(t, b))
	}
	carries(t, a.mustDial(t, b, "raft"), b.accept(t, "raft"), "let me through")
	ended(t, junk[0])
}

func TestGateWaitsBeforeItCuts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(1, time.Second)
		first, firstEnd := net.Pipe()
		second, _ := net.Pipe()
		third, _ := net.Pipe()
		began := time.Now()
		if err := g.enter(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		var leaving sync.WaitGroup
		leaving.Go(func() { // the handshake of first fails when the gate cuts it
			firstEnd.Read(make([]byte, 1))
			g.leave(first)
		})
		if err := g.enter(t.Context(), second); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(began); waited != time.Second {
			t.Errorf("first was given %v, its due is 1s", waited)
		}
		leaving.Wait()

		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if err := g.enter(ctx, third); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("third: %v", err)
		}
	})
}

func TestDialGivesUpOnSilence(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel connects, nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	t.Run("after its own limit", func(t *testing.T) {
		a := newNode(t)
		a.limit = junkLimit
		_, err := a.DialUnknown(t.Context(), silent.Addr().String(), "join")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("when the caller does", func(t *testing.T) {
		a := newNode(t)
		ctx, cancel := context.WithTimeout(t.Context(), junkLimit)
		defer cancel()
		_, err := a.DialUnknown(ctx, silent.Addr().String(), "join")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("when the mesh closes", func(t *testing.T) {
		a := newNode(t)
		var dialling sync.WaitGroup
		var dialErr error
		dialling.Go(func() { _, dialErr = a.DialUnknown(context.Background(), silent.Addr().String(), "join") })
		await(t, "the dial is under way", func() bool { return a.conns.size() == 1 })
		a.Close()
		dialling.Wait()
		if !errors.Is(dialErr, net.ErrClosed) {
			t.Errorf("got %v", dialErr)
		}
	})
}

// answering runs a peer that holds the right key and answers every hello with body.
func answering(t *testing.T, n *node, body []byte) string {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", n.tlsConfig(func(string) error { return nil }))
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		var h hello
		if ReadFrame(c, helloLimit, &h) == nil {
			c.Write(body)
			io.Copy(io.Discard, c)
		}
	})
	t.Cleanup(func() {
		listener.Close()
		serving.Wait()
	})
	return listener.Addr().String()
}

func TestDiallerJudgesTheAnswer(t *testing.T) {
	text := func(a answer) []byte {
		body, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		return frameOf(body)
	}
	tests := []struct {
		name string
		body []byte
		want error
		says string
	}{
		{"welcome from another cluster", text(answer{OK: true, Cluster: "office", Epoch: 1}), ErrOtherCluster, `belongs to cluster "office"`},
		{"welcome from another epoch", text(answer{OK: true, Cluster: "lab", Epoch: 7}), ErrOtherEpoch, "at cluster epoch 7"},
		{"a code from the future", text(answer{Code: "too-\x1b[31mhot", Error: "x", Cluster: "lab", Epoch: 1}), nil, `"too-\x1b[31mhot"`},
		{"a giant", []byte{0xff, 0xff, 0xff, 0xff}, ErrFrameTooLarge, "wait for the peer's answer"},
		{"hang-up", nil, context.DeadlineExceeded, "did not complete the handshake"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, peer := newNode(t), newNode(t)
			a.limit = 2 * time.Second
			if tt.body == nil {
				a.limit = junkLimit
			}
			a.roster.admit(peer.id)
			_, err := a.Dial(t.Context(), peer.id, answering(t, peer, tt.body), "raft")
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("the sentence is: %s", err)
			}
			if n := a.conns.size(); n != 0 {
				t.Errorf("%d connections are left", n)
			}
		})
	}
}
