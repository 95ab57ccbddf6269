package api

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A host that is cut off takes connections that were open, and says nothing. The client asks the next server beside it,
// with the same key.
func TestSilentServerIsPassedBy(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var holding sync.WaitGroup
	holding.Go(func() {
		var held []net.Conn
		for {
			c, err := silent.Accept()
			if err != nil {
				for _, c := range held {
					c.Close()
				}
				return
			}
			held = append(held, c)
		}
	})
	defer holding.Wait()
	defer silent.Close()
	var asked atomic.Int32
	keys := make(chan string, 10)
	speaking := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		keys <- r.Header.Get(headerKey)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"experiments":[{"id":1,"params":{}}]}`))
	}))
	defer speaking.Close()
	c, err := NewClient(ClientOptions{URL: "http://" + silent.Addr().String(), Token: "cvu_x", Fallback: []Address{{URL: speaking.URL}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	added, err := c.Add(ctx, AddRequest{Command: []string{"true"}, Key: "once"})
	if err != nil || len(added.Experiments) != 1 {
		t.Fatalf("added %+v, %v", added, err)
	}
	if n := asked.Load(); n != 1 || <-keys != "once" {
		t.Errorf("the server that answers was asked %d times", n)
	}
	// It is asked first from now on.
	if _, err := c.Add(ctx, AddRequest{Command: []string{"true"}, Key: "twice"}); err != nil || <-keys != "twice" {
		t.Errorf("the second time: %v", err)
	}
}
