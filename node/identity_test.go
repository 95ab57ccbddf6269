package node

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/deveronica/cvlab/cluster"
	"github.com/deveronica/cvlab/cluster/mesh"
)

// founded makes a data directory of a node that was up once, on machine A.
func founded(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	n, err := open(t, dir, "A")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { err = n.Run(ctx) })
	for id := ""; id == ""; id, _, _ = n.seat.State().View().Cluster() {
		select {
		case <-n.seat.State().Changed():
		case <-time.After(50 * time.Millisecond):
		}
	}
	cancel()
	running.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func open(t *testing.T, dir, machine string) (*Node, error) {
	return New(t.Context(), Options{
		DataDir: dir, Name: "m1", Advertise: "127.0.0.1", HTTP: "127.0.0.1:0", Mesh: "127.0.0.1:0", Gossip: "127.0.0.1:0",
		SimulatedGPUs: 1, Machine: machine, Logger: slog.New(slog.DiscardHandler),
	})
}

// begin opens a node and closes it; want is the error that it must refuse with.
func begin(t *testing.T, dir, machine string, want error) string {
	t.Helper()
	t.Helper()
	n, err := open(t, dir, machine)
	if want != nil {
		if err == nil {
			n.Close()
		}
		if !errors.Is(err, want) {
			t.Fatalf("start gave %v, want %v", err, want)
		}
		return err.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	return ""
}

func TestAKeyIsNeverReplacedInSilence(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(path string) error
	}{
		{"deleted", os.Remove},
		{"empty", func(p string) error { return os.Truncate(p, 0) }},
		{"cut", func(p string) error { return os.Truncate(p, 100) }},
		{"another key", func(p string) error {
			if err := os.Remove(p); err != nil {
				return err
			}
			_, _, err := mesh.LoadOrCreateIdentity(p)
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := founded(t)
			if err := c.do(filepath.Join(dir, keyFile)); err != nil {
				t.Fatal(err)
			}
			said := begin(t, dir, "A", cluster.ErrDamaged)
			for _, want := range []string{keyFile, "cvlab recover", "go on"} {
				if !strings.Contains(said, want) {
					t.Errorf("%q is not in: %s", want, said)
				}
			}
			// The way out.
			r, err := Recover(t.Context(), RecoverOptions{DataDir: dir, Name: "m1", Carry: true, Logger: slog.New(slog.DiscardHandler)})
			if err != nil || !r.NewKey || r.Kept == "" {
				t.Fatalf("recover: %+v, %v", r, err)
			}
			begin(t, dir, "A", nil)
			if was, err := readFormer(dir); err != nil || was == "" || was == cluster.Owner(dir) {
				t.Errorf("the former self is noted as %q, %v", was, err)
			}
		})
	}
}

func TestADirectoryOfAnotherMachineIsRefused(t *testing.T) {
	dir := founded(t)
	said := begin(t, dir, "B", mesh.ErrCopied)
	if !strings.Contains(said, "cvlab reset-identity") || !strings.Contains(said, "--keep") {
		t.Errorf("no advice: %s", said)
	}
	begin(t, dir, "A", nil)
	// The same machine with a new mainboard.
	if err := KeepIdentity(dir, "B"); err != nil {
		t.Fatal(err)
	}
	begin(t, dir, "B", nil)
	owner := cluster.Owner(dir)
	// A copy starts over; its original is not removed from the cluster.
	kept, err := StartAnew(context.Background(), AnewOptions{DataDir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil || kept == "" {
		t.Fatalf("start anew: %q, %v", kept, err)
	}
	if _, err := os.Stat(formerPath(dir)); !os.IsNotExist(err) {
		t.Errorf("a copy tells the cluster that its original is gone: %v", err)
	}
	begin(t, dir, "C", nil)
	if now := cluster.Owner(dir); now == owner || now == "" {
		t.Errorf("after it started over it is %q, was %q", now, owner)
	}
}

func TestMarksThatAreDamagedAreMadeAnew(t *testing.T) {
	for _, text := range []string{"", "{}", `{"machine_id":"B","board":"B","macs":["B"]}` + "\n\"00000000\"\n"} {
		dir := founded(t)
		if err := os.WriteFile(filepath.Join(dir, machineFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		begin(t, dir, "A", nil)
		begin(t, dir, "B", mesh.ErrCopied)
	}
}

func TestAJoinThatWasCutShortBringsTheOldClusterBack(t *testing.T) {
	dir := founded(t)
	owner := cluster.Owner(dir)
	if _, err := cluster.PutAside(dir); err != nil {
		t.Fatal(err)
	}
	begin(t, dir, "A", nil)
	if now := cluster.Owner(dir); now != owner {
		t.Errorf("it is %q after a crash in a join, was %q", now, owner)
	}
}
