package node

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDataDirectoryHasOneNode(t *testing.T) {
	dir := t.TempDir()
	first, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = lock(dir)
	if err == nil || !strings.Contains(err.Error(), "another node uses it") {
		t.Errorf("locked twice: %v", err)
	}
	data, err := marshalRunning(Running{PID: 4711, HTTP: "http://127.0.0.1:8000"})
	if err != nil {
		t.Fatal(err)
	}
	if err := writeFile(filepath.Join(dir, "node.json"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = lock(dir)
	for _, word := range []string{"process 4711", "http://127.0.0.1:8000", "--data"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("got %v, want a sentence with %q", err, word)
		}
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := lock(dir) // node.json of a node that was killed is no reason
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func TestWriteFileIsAllOrNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "node.json")
	short, long := bytes.Repeat([]byte("s"), 10), bytes.Repeat([]byte("l"), 100_000)
	if err := writeFile(path, short, 0o600); err != nil {
		t.Fatal(err)
	}
	var writing sync.WaitGroup
	done := make(chan struct{})
	writing.Go(func() {
		defer close(done)
		for i := range 30 {
			data := short
			if i%2 == 0 {
				data = long
			}
			if err := writeFile(path, data, 0o600); err != nil {
				t.Error(err)
			}
		}
	})
	for reading := true; reading; {
		select {
		case <-done:
			reading = false
		case <-time.After(100 * time.Microsecond):
		}
		if data, err := os.ReadFile(path); err != nil || !bytes.Equal(data, short) && !bytes.Equal(data, long) {
			t.Fatalf("read %d bytes, %v", len(data), err)
		}
	}
	writing.Wait()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	t.Run("a failure leaves the old one", func(t *testing.T) {
		target := filepath.Join(dir, "directory")
		if err := os.MkdirAll(filepath.Join(target, "full"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := writeFile(target, short, 0o644); err == nil || !strings.Contains(err.Error(), target) {
			t.Errorf("got %v", err)
		}
		if err := writeFile(filepath.Join(dir, "missing", "file"), short, 0o644); err == nil {
			t.Error("written into a directory that is not there")
		}
	})
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".new-") {
			t.Errorf("%s was left behind", e.Name())
		}
	}
}

func TestRunningRoundTrip(t *testing.T) {
	dir := t.TempDir()
	want := Running{PID: 1, Node: nodeA, Name: "a", HTTP: "http://127.0.0.1:1", Mesh: "10.0.0.1:2"}
	data, err := marshalRunning(want)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeFile(filepath.Join(dir, "node.json"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := ReadRunning(dir)
	if err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("%v\n%s", err, cmp.Diff(want, got))
	}
	if err := os.WriteFile(filepath.Join(dir, "node.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadRunning(dir); err == nil || !strings.Contains(err.Error(), "read where the node is") {
		t.Errorf("got %v", err)
	}
}

func TestReachable(t *testing.T) {
	outside := "127.0.0.1"
	for _, ip := range ownAddresses() {
		if ip.Is4() && !ip.IsLoopback() && !ip.IsLinkLocalUnicast() {
			outside = ip.String()
			break
		}
	}
	for _, c := range []struct{ bound, advertise, want string }{
		{"127.0.0.1:8001", "", "127.0.0.1:8001"},
		{"10.1.2.3:8001", "", "10.1.2.3:8001"},
		{"[::1]:8001", "", "[::1]:8001"},
		{"0.0.0.0:8001", "", outside + ":8001"},
		{"[::]:8001", "", outside + ":8001"},
		{"0.0.0.0:8001", "gpu1.lab", "gpu1.lab:8001"},
		{"127.0.0.1:8001", "fd00::1", "[fd00::1]:8001"},
	} {
		if got := reachable(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.bound)), c.advertise); got != c.want {
			t.Errorf("bound to %s, advertised as %q: %s, want %s", c.bound, c.advertise, got, c.want)
		}
	}
}

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		name string
		give Options
		want string // part of the error; empty: none
		ok   func(o Options) bool
	}{
		{"no data directory", Options{}, "--data", nil},
		{"defaults", Options{DataDir: "d"}, "", func(o Options) bool {
			return o.Name == "host" && o.ClusterName == "host" && o.HTTP == ":8000" && o.Mesh == ":8001" && o.Gossip == ":8002" && o.CPUSlots == 4 && o.Logger != nil
		}},
		{"own name", Options{DataDir: "d", Name: "gpu1"}, "", func(o Options) bool { return o.Name == "gpu1" && o.ClusterName == "gpu1" }},
		{"own cluster", Options{DataDir: "d", ClusterName: "lab"}, "", func(o Options) bool { return o.ClusterName == "lab" }},
		{"HTTP without a port", Options{DataDir: "d", HTTP: "localhost"}, "--http", nil},
		{"mesh without a port", Options{DataDir: "d", Mesh: "8001"}, "--mesh", nil},
		{"gossip without a port", Options{DataDir: "d", Gossip: "::1"}, "--gossip", nil},
		{"any port", Options{DataDir: "d", HTTP: "127.0.0.1:0"}, "", func(o Options) bool { return o.HTTP == "127.0.0.1:0" }},
		{"a peer's name", Options{DataDir: "d", Join: "gpu2"}, "", func(o Options) bool { return o.Join == "gpu2:8001" }},
		{"a peer's port", Options{DataDir: "d", Join: "gpu2:99"}, "", func(o Options) bool { return o.Join == "gpu2:99" }},
		{"a peer's IPv6", Options{DataDir: "d", Join: "fd00::1"}, "", func(o Options) bool { return o.Join == "[fd00::1]:8001" }},
		{"a peer's IPv6 in brackets", Options{DataDir: "d", Join: "[fd00::1]"}, "", func(o Options) bool { return o.Join == "[fd00::1]:8001" }},
		{"neither runs nor serves", Options{DataDir: "d", NoExec: true, NoUI: true}, "exclude each other", nil},
		{"negative slots", Options{DataDir: "d", CPUSlots: -1}, "--cpu-slots", nil},
		{"too many pretended GPUs", Options{DataDir: "d", SimulatedGPUs: 65}, "--sim-gpus", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.give.withDefaults("host", 16)
			switch {
			case c.want == "" && err != nil, c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %q", err, c.want)
			case c.ok != nil && !c.ok(got):
				t.Errorf("got %+v", got)
			}
		})
	}
	for cores, want := range map[int]int{1: 1, 3: 1, 4: 1, 8: 2, 128: 32} {
		if o, err := (Options{DataDir: "d"}).withDefaults("host", cores); err != nil || o.CPUSlots != want {
			t.Error(fmt.Sprint(cores, " cores: ", o.CPUSlots, " slots, want ", want, err))
		}
	}
}
