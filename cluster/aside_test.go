package cluster

import (
	"os"
	"path/filepath"
	"testing"
)

func TestAside(t *testing.T) {
	write := func(dir, what string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, "raft"), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"cluster.json", "raft/raft.db"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(what), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	read := func(dir, name string) string {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return "none"
		}
		return string(text)
	}
	for _, c := range []struct {
		name string
		end  func(*Aside) error
		want string
	}{
		{"a join that failed", (*Aside).Restore, "old"},
		{"a join that worked", (*Aside).Drop, "new"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			write(dir, "old")
			a, err := PutAside(dir)
			if err != nil {
				t.Fatal(err)
			}
			if got := read(dir, "cluster.json"); got != "none" {
				t.Fatalf("put aside, and still there: %s", got)
			}
			write(dir, "new")
			if err := c.end(a); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"cluster.json", "raft/raft.db"} {
				if got := read(dir, name); got != c.want {
					t.Errorf("%s is the %s one, want the %s one", name, got, c.want)
				}
			}
			if _, err := os.Stat(filepath.Join(dir, asideDir)); err == nil {
				t.Error("the copy is still there")
			}
		})
	}
}
