package ui_test

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/deveronica/cvlab/ui"
)

func get(t *testing.T, path string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	ui.Handler().ServeHTTP(w, r)
	return w
}

func TestPageSaysWhatIsOffered(t *testing.T) {
	w := get(t, "/")
	if w.Code != http.StatusOK {
		t.Fatalf("status %d", w.Code)
	}
	body := w.Body.String()
	for _, want := range []string{"/login", "/api/queue/add", "/api/openapi.json", "cvlab run", `lang="ko"`, "/style.css"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	for name, want := range map[string]string{
		"Content-Security-Policy": "default-src 'self'", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
		"Content-Type": "text/html",
	} {
		if got := w.Header().Get(name); !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if strings.Contains(w.Header().Get("Content-Security-Policy"), "unsafe") {
		t.Error("the policy allows something unsafe")
	}
}

// The policy would block these; a page that needs them would be broken in silence.
func TestPageHasNothingInline(t *testing.T) {
	for _, bad := range []string{"<script", "<style", " style=", "javascript:", "http://", " onclick="} {
		if strings.Contains(get(t, "/").Body.String(), bad) {
			t.Errorf("the page contains %q", bad)
		}
	}
}

func TestLinkedFilesAreThere(t *testing.T) {
	links := regexp.MustCompile(`(?:href|src)="(/[^"]*)"`).FindAllStringSubmatch(get(t, "/").Body.String(), -1)
	if len(links) < 5 {
		t.Fatalf("found %d links", len(links))
	}
	for _, l := range links {
		if path := l[1]; strings.HasSuffix(path, ".css") && get(t, path).Code != http.StatusOK {
			t.Errorf("%s is linked and not there", path)
		}
	}
}

func TestETagSavesTheBody(t *testing.T) {
	tag := get(t, "/").Header().Get("ETag")
	if tag == "" || strings.HasPrefix(tag, "W/") {
		t.Fatalf("ETag %q is not strong", tag)
	}
	if w := get(t, "/", "If-None-Match", tag); w.Code != http.StatusNotModified || w.Body.Len() != 0 {
		t.Errorf("unchanged page: status %d with %d bytes, want 304 without any", w.Code, w.Body.Len())
	}
	if get(t, "/style.css").Header().Get("ETag") == tag {
		t.Error("two files have one ETag")
	}
}

func TestOnlyEmbeddedFilesAreServed(t *testing.T) {
	for _, path := range []string{"/ui.go", "/../ui.go", "/static", "/static/", "/%2e%2e/ui.go", "/nothing"} {
		if code := get(t, path).Code; code != http.StatusNotFound {
			t.Errorf("%s: status %d, want 404", path, code)
		}
	}
}
