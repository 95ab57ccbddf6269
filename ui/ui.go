// Package ui serves the pages that come with the program. For now it is one plain page that says what a node offers, how to
// sign in, and how to submit; it has no script and shows nothing of the lab, so it needs no sign-in itself.
package ui

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed static
var static embed.FS

// page is one embedded file, ready to be sent.
type page struct {
	data []byte
	etag string
	kind string
}

// Handler serves the embedded pages: "/" and what it links to. Everything else is 404. Answers carry a strong ETag, a
// policy that forbids scripts from elsewhere, and no referrer.
func Handler() http.Handler {
	pages, err := load(static)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err != nil {
			http.Error(w, "the pages are damaged: build cvlab again", http.StatusInternalServerError)
			return
		}
		p, found := pages[r.URL.Path]
		if !found {
			http.Error(w, "there is no such page; begin at /", http.StatusNotFound)
			return
		}
		h := w.Header()
		h.Set("Content-Type", p.kind)
		h.Set("ETag", p.etag)
		h.Set("Cache-Control", "no-cache") // ask every time; the ETag makes that cheap
		h.Set("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(p.data))
	})
}

func load(files fs.FS) (map[string]page, error) {
	pages := map[string]page{}
	err := fs.WalkDir(files, "static", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(files, name)
		if err != nil {
			return fmt.Errorf("read page: %w", err)
		}
		sum := sha256.Sum256(data)
		p := page{data: data, etag: `"` + base64.RawURLEncoding.EncodeToString(sum[:18]) + `"`, kind: kindOf(name)}
		at := strings.TrimPrefix(name, "static")
		pages[at] = p
		if at == "/index.html" {
			pages["/"] = p
		}
		return nil
	})
	return pages, err
}

// kindOf does not ask the operating system's table, which differs between machines.
func kindOf(name string) string {
	switch path.Ext(name) {
	case ".html":
		return "text/html; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	}
	return "application/octet-stream"
}
