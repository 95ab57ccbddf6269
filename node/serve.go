package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// front is the HTTP port. The first byte of a connection says whether it speaks TLS; plain HTTP is served to this
// machine itself (or to all, when asked to) and redirected to HTTPS for others.
type front struct {
	listener net.Listener
	secure   *http.Server
	plain    *http.Server
	logger   *slog.Logger
	patience time.Duration // for the first byte of a connection
	drain    time.Duration // for open requests, after the node was told to end
}

type frontOptions struct {
	listener  net.Listener
	cert      tls.Certificate
	handler   http.Handler
	plainHTTP bool
	logger    *slog.Logger
}

func newFront(o frontOptions) *front {
	server := func(h http.Handler) *http.Server {
		return &http.Server{
			Handler:           h,
			ReadHeaderTimeout: 5 * time.Second,
			ReadTimeout:       60 * time.Second,
			WriteTimeout:      60 * time.Second, // streams lift it for themselves
			IdleTimeout:       120 * time.Second,
			MaxHeaderBytes:    16 << 10,
			ErrorLog:          slog.NewLogLogger(o.logger.Handler(), slog.LevelDebug),
		}
	}
	f := &front{listener: o.listener, secure: server(o.handler), plain: server(o.handler), logger: o.logger, patience: 5 * time.Second, drain: 2 * time.Second}
	f.secure.TLSConfig = &tls.Config{Certificates: []tls.Certificate{o.cert}, MinVersion: tls.VersionTLS12}
	if !o.plainHTTP {
		f.plain.Handler = loopbackOnly(o.handler)
	}
	return f
}

// loopbackOnly serves this machine and sends everybody else to HTTPS, so that no token crosses the network in the clear.
func loopbackOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fromHere(r) {
			h.ServeHTTP(w, r)
			return
		}
		http.Redirect(w, r, "https://"+r.Host+r.URL.RequestURI(), http.StatusPermanentRedirect)
	})
}

// fromHere says whether a request comes from this machine: from loopback, or from the very address it was sent to, as
// happens when the port is bound to one address of the machine.
func fromHere(r *http.Request) bool {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	to, _ := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return from.Addr().Unmap().IsLoopback() || to != nil && from.Addr().Unmap() == to.AddrPort().Addr().Unmap()
}

// Run serves until ctx ends.
func (f *front) Run(ctx context.Context) error {
	secure, plain := newHandoff(f.listener.Addr()), newHandoff(f.listener.Addr())
	g, gctx := errgroup.WithContext(ctx)
	f.secure.BaseContext = func(net.Listener) context.Context { return gctx }
	f.plain.BaseContext = f.secure.BaseContext
	g.Go(func() error { return f.accept(gctx, secure, plain) })
	g.Go(func() error { return serving(f.secure.ServeTLS(secure, "", "")) })
	g.Go(func() error { return serving(f.plain.Serve(plain)) })
	g.Go(func() error {
		<-gctx.Done()
		f.listener.Close()
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.drain)
		defer cancel()
		for _, s := range []*http.Server{f.secure, f.plain} {
			if err := s.Shutdown(bounded); err != nil {
				s.Close()
			}
		}
		secure.Close()
		plain.Close()
		return nil
	})
	return g.Wait()
}

func serving(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fmt.Errorf("serve HTTP: %w", err)
}

func (f *front) accept(ctx context.Context, secure, plain *handoff) error {
	var sniffing sync.WaitGroup
	defer sniffing.Wait()
	for {
		c, err := f.listener.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			f.logger.Warn("accept on the HTTP port", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond): // out of file descriptors: let some end
			}
			continue
		}
		sniffing.Go(func() { f.sort(ctx, c, secure, plain) })
	}
}

// tlsHandshake is the first byte of a TLS connection (RFC 8446 §5.1); no HTTP method begins with it.
const tlsHandshake = 0x16

// sort looks at the first byte and hands the connection to the server that understands it.
func (f *front) sort(ctx context.Context, c net.Conn, secure, plain *handoff) {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	c.SetReadDeadline(time.Now().Add(f.patience))
	var head [1]byte
	_, err := io.ReadFull(c, head[:])
	if !stop() || err != nil {
		c.Close()
		return
	}
	c.SetReadDeadline(time.Time{})
	to := plain
	if head[0] == tlsHandshake {
		to = secure
	}
	to.give(&peeked{Conn: c, first: head[0]})
}

// peeked is a connection whose first byte was read already.
type peeked struct {
	net.Conn
	first byte
	given bool
}

// Read gives the first byte, then the rest.
func (p *peeked) Read(b []byte) (int, error) {
	if p.given || len(b) == 0 {
		return p.Conn.Read(b)
	}
	p.given = true
	b[0] = p.first
	return 1, nil
}

// handoff is a listener whose connections come from somebody who has looked at them.
type handoff struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	addr  net.Addr
}

func newHandoff(addr net.Addr) *handoff {
	return &handoff{conns: make(chan net.Conn), done: make(chan struct{}), addr: addr}
}

func (h *handoff) give(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.done:
		c.Close()
	}
}

// Accept implements net.Listener.
func (h *handoff) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handoff) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr implements net.Listener.
func (h *handoff) Addr() net.Addr { return h.addr }
