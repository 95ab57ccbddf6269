package api

import (
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxBody bounds a request: a config of 1 MiB, which JSON may make longer by escaping it, and room for the rest.
const (
	maxConfig = 1 << 20
	maxBody   = 2*maxConfig + 64<<10
)

// limited bounds body and time of a request; streams lift the time themselves.
func (s *Server) limited(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Cache-Control", "no-store")
		if r.ContentLength > maxBody {
			s.refuse(w, r, &http.MaxBytesError{Limit: maxBody})
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		// A connection that cannot do this (a test's recorder) has no slow readers either.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.bodyTime))
		next.ServeHTTP(w, r)
	})
}

// knownHost refuses names this node is not known by. A page of another site can make its own name resolve to our address,
// and would then count as our own origin in the browser. An address in place of a name cannot be faked that way.
func (s *Server) knownHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.knows(hostOf(r.Host)) {
			s.refuse(w, r, problem(http.StatusMisdirectedRequest, "this node is not known by the name "+clip(r.Host, 100),
				"use its address, or start it with that name"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

func hostOf(hostport string) string {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	return strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
}

func (s *Server) knows(host string) bool {
	if host == "localhost" || net.ParseIP(host) != nil || host != "" && strings.EqualFold(host, s.o.NodeName) {
		return true
	}
	if s.o.AllowedHosts == nil || host == "" {
		return false
	}
	for _, name := range s.o.AllowedHosts() {
		if strings.EqualFold(strings.TrimSuffix(name, "."), host) {
			return true
		}
	}
	return false
}

// sameOrigin refuses what another site's page makes a browser send, for every method that may change something.
func (s *Server) sameOrigin(next http.Handler) http.Handler {
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.refuse(w, r, problem(http.StatusForbidden, "the request comes from a page of another site", ""))
	}))
	return protection.Handler(next)
}

// logged writes one record per request: changes and refusals at Info, reads at Debug. Secrets in the query are masked.
func (s *Server) logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		seen := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(seen, r)
		level := slog.LevelInfo
		if (r.Method == http.MethodGet || r.Method == http.MethodHead) && seen.status < 400 {
			level = slog.LevelDebug
		}
		s.log.LogAttrs(r.Context(), level, "request",
			slog.String("method", r.Method), slog.String("path", clip(r.URL.Path, 200)), slog.String("query", maskQuery(r.URL)),
			slog.Int("status", seen.status), slog.String("user", callerOf(r).user), slog.String("from", addressOf(r)),
			slog.Duration("took", time.Since(began)))
	})
}

// secretKeys are the names under which people put secrets into a query, where they do not belong.
func secretKey(name string) bool {
	switch strings.ToLower(name) {
	case "token", "access_token", "api_key", "apikey", "code", "auth", "password", "secret", "bearer":
		return true
	}
	return false
}

func maskQuery(u *url.URL) string {
	if u.RawQuery == "" {
		return ""
	}
	var parts []string
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		name, _, _ := strings.Cut(pair, "=")
		if plain, err := url.QueryUnescape(name); err != nil || secretKey(plain) {
			pair = name + "=***"
		}
		parts = append(parts, pair)
	}
	return clip(strings.Join(parts, "&"), 300)
}

// statusWriter remembers the status for the log.
type statusWriter struct {
	http.ResponseWriter
	status int
	wrote  bool
}

// WriteHeader implements http.ResponseWriter.
func (w *statusWriter) WriteHeader(status int) {
	if !w.wrote {
		w.status, w.wrote = status, true
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func addressOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
