package cluster

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"github.com/deveronica/cvlab/cluster/mesh"
)

func TestTheClusterFileIsPrivateAndWhole(t *testing.T) {
	dir := t.TempDir()
	s, err := openFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	err = s.update(func(f *clusterFile) { f.Phase, f.ID = phaseMember, "x" })
	if err == nil {
		t.Fatal("a file without epoch and key was written")
	}
	if s.get().ID != "" {
		t.Fatal("a refused update was kept in memory")
	}
	key := make([]byte, gossipKeySize)
	err = s.update(func(f *clusterFile) {
		f.Phase, f.ID, f.Name, f.Epoch, f.GossipKeys = phaseMember, "x", "lab", 1, [][]byte{key}
		f.Peers = []peer{{ID: "p", Mesh: "127.0.0.1:1", Gossip: "[::1]:2"}}
	})
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(s.path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	again, err := openFile(dir)
	if err != nil || again.get().Peers[0].ID != "p" || again.get().Name != "lab" {
		t.Fatalf("read back %+v, %v", again.get(), err)
	}
}

func FuzzClusterFile(f *testing.F) {
	f.Add([]byte(`{"format":1,"phase":"member","id":"x","name":"lab","epoch":1,"gossip_keys":["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="],"peers":[{"id":"p","mesh":"h:1","gossip":"h:2"}]}`))
	f.Add([]byte(`{"format":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := decodeClusterFile(data)
		if err != nil {
			return
		}
		if len(file.GossipKeys) == 0 || file.Epoch == 0 || file.ID == "" {
			t.Fatalf("accepted %+v", file)
		}
		text, err := json.Marshal(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeClusterFile(text); err != nil {
			t.Fatalf("%s does not read back: %v", text, err)
		}
	})
}

// Frames come from strangers: reading one must never panic, whatever it holds.
func FuzzFrames(f *testing.F) {
	for _, v := range []any{
		joinRequest{Op: opJoin, Token: "t", Proof: []byte("p")}, joinAnswer{Status: joinOK, ID: "x"},
		forwardRequest{Op: opPropose, Entry: []byte(`{}`)}, forwardAnswer{Status: statusOK},
	} {
		var b bytes.Buffer
		if err := mesh.WriteFrame(&b, v); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var jr joinRequest
		_ = mesh.ReadFrame(bytes.NewReader(b), maxJoin, &jr)
		var ja joinAnswer
		_ = mesh.ReadFrame(bytes.NewReader(b), maxAdmitted, &ja)
		var fr forwardRequest
		_ = mesh.ReadFrame(bytes.NewReader(b), maxForward, &fr)
		var fa forwardAnswer
		if mesh.ReadFrame(bytes.NewReader(b), maxAnswer, &fa) == nil && fa.Status != statusOK && fa.err() == nil {
			t.Fatalf("answer %+v is taken for a success", fa)
		}
	})
}
