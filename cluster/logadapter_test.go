package cluster

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

func TestLibrariesSpeakAtTheirRank(t *testing.T) {
	var b bytes.Buffer
	out := slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelInfo}))
	raft := newRaftLog(out).Named("store").With("peer", "p")
	raft.Warn("disk is slow", "took", hclog.Fmt("%d ms", 3))
	raft.Info("entering follower state")
	raft.Error("failed to heartbeat to", "peer", "p")
	gossip := newGossipLog(out)
	gossip.Print("[ERR] memberlist: broken")
	gossip.Print("[DEBUG] memberlist: nothing")
	got := b.String()
	for _, want := range []string{"level=WARN", "raft.store: disk is slow", "peer=p", `took="3 ms"`, "memberlist: broken"} {
		if !strings.Contains(got, want) {
			t.Errorf("log lacks %q:\n%s", want, got)
		}
	}
	if n := strings.Count(got, "\n"); n != 2 {
		t.Errorf("%d lines, want the two that matter:\n%s", n, got)
	}
}
