package fsm_test

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deveronica/cvlab/fsm"
)

var update = flag.Bool("update", false, "write the golden files anew")

func ptr[T any](v T) *T { return &v }

// everyCommand has one full example of each kind: every field is set, so that a renamed tag is seen.
func everyCommand() []fsm.Command {
	node := fsm.Node{
		ID: "NODEIDNODEIDNODEIDNODEIDNO", Name: "gpu1", Mesh: "10.0.0.1:7000", Gossip: "10.0.0.1:7001", HTTP: "10.0.0.1:7002",
		NoExec: true, NoUI: true, GPUs: []fsm.GPU{{UUID: "GPU-1", Index: 1, Name: "RTX 4090", Memory: 24 << 30}}, CPUSlots: 4,
		Labels: map[string]string{"zone": "b"}, BootID: "boot", Version: "v1", Draining: true, Removed: true, JoinedAt: epoch,
	}
	spec := fsm.Spec{
		Config: "lr: [0.1, 0.2] # swept\n", Command: []string{"python", "train.py"}, Shell: "true", Name: "n", Project: "p", Priority: fsm.High, Epochs: 3,
		Device:    fsm.Device{Kind: fsm.DeviceGPU, Count: 2, Node: "gpu1", Indexes: []int{0, 1}, Memory: 20 << 30},
		Where:     map[string]string{"gpu": "RTX"},
		TimeLimit: fsm.Duration(12 * time.Hour), Retries: 2, After: []uint64{17}, MaxParallel: 4, Env: map[string]string{"A": "b"},
		Launcher: "torchrun", OnContactLoss: "freeze", Notify: []string{"https://example.org"}, Code: "sha",
		Axes: []fsm.Axis{{Key: "lr", Values: []json.RawMessage{json.RawMessage(`0.1`), json.RawMessage(`"x\u003cy"`)}}},
	}
	access := fsm.Access{
		ID: "t1", Kind: fsm.AccessUser, User: "ana", Role: fsm.Member, Secret: []byte("sixteen bytes ok"), Uses: 1, By: "root",
		CreatedAt: epoch, ExpiresAt: epoch.Add(time.Hour),
	}
	token := fsm.Token{Epoch: 1, Index: 42}
	return []fsm.Command{
		&fsm.Found{Cluster: "c", Name: "lab", Node: node},
		&fsm.Submit{Spec: spec, Hold: true},
		&fsm.Assign{Experiment: 7, Node: node.ID, GPUs: []string{"GPU-1"}},
		&fsm.Withdraw{Token: token, Reason: "gpu1 was last heard 4 s ago"},
		&fsm.Start{Token: token, Node: node.ID, BootID: "boot"},
		&fsm.Publish{Token: token, Node: node.ID, Seq: 3, Path: "checkpoints/last.pt", Files: 1, Size: 4096, Digest: digestOf("last.pt")},
		&fsm.NewEpoch{Node: node.ID},
		&fsm.Adopt{Token: token, Experiment: 7, Number: 2, Node: node.ID, GPUs: []string{"GPU-1"}, Lease: fsm.Duration(5 * time.Minute), BootID: "boot", StartedAt: epoch},
		&fsm.Finish{Token: token, Node: node.ID, Class: fsm.ClassUserError, ExitCode: ptr(1), Message: "it failed"},
		&fsm.Cancel{Experiments: []uint64{1, 2}, Reason: "no longer wanted"},
		&fsm.Hold{Experiments: []uint64{1}, Reason: "wait for data"},
		&fsm.Release{Experiments: []uint64{1}},
		&fsm.Retry{Experiments: []uint64{1}},
		&fsm.Annotate{Experiments: []uint64{1}, Priority: ptr(fsm.Low), Name: ptr("n"), Tags: ptr([]string{"a"}), Notes: ptr("see log")},
		&fsm.Admit{Node: node, Access: "t1"},
		&fsm.Update{Node: node},
		&fsm.Drain{Node: node.ID, On: true},
		&fsm.Remove{Node: node.ID, Off: true},
		&fsm.Grant{Access: access},
		&fsm.Revoke{ID: "t1"},
		&fsm.Reign{Node: node.ID},
		&fsm.Expire{Token: token, Reign: 40, Silent: fsm.Duration(331 * time.Second)},
	}
}

// grownCommands have the fields that came later. Their kinds' first goldens stay, since old logs have them.
func grownCommands() map[string]fsm.Command {
	return map[string]fsm.Command{
		"assign-lease": &fsm.Assign{Experiment: 7, Node: "NODEIDNODEIDNODEIDNODEIDNO", Lease: fsm.Duration(5 * time.Minute)},
		"assign-gang": &fsm.Assign{Experiment: 7, Node: "NODEIDNODEIDNODEIDNODEIDNO", GPUs: []string{"GPU-1"},
			Others: []fsm.Slot{{Node: "NODEIDNODEIDNODEIDNODEIDN2", GPUs: []string{"GPU-2"}}, {Node: "NODEIDNODEIDNODEIDNODEIDN3"}}},
		"expire-gang":   &fsm.Expire{Token: fsm.Token{Epoch: 1, Index: 42}, Node: "NODEIDNODEIDNODEIDNODEIDN2", Reign: 40, Silent: fsm.Duration(331 * time.Second)},
		"start-gang":    &fsm.Start{Token: fsm.Token{Epoch: 1, Index: 42}, Node: "NODEIDNODEIDNODEIDNODEIDNO", BootID: "boot", Port: 29500},
		"submit-gang":   &fsm.Submit{Spec: fsm.Spec{Project: "p", Device: fsm.Device{Kind: fsm.DeviceGPU, Count: 4, Nodes: 2}}},
		"withdraw-gang": &fsm.Withdraw{Token: fsm.Token{Epoch: 1, Index: 42}, Reason: "gpu2 was last heard 4 s ago", Node: "NODEIDNODEIDNODEIDNODEIDN2"},
		"drain-now":     &fsm.Drain{Node: "NODEIDNODEIDNODEIDNODEIDNO", On: true, Now: true},
		"start-resumed": &fsm.Start{
			Token: fsm.Token{Epoch: 1, Index: 42}, Node: "NODEIDNODEIDNODEIDNODEIDNO", BootID: "boot",
			Resumed: &fsm.Resumed{Token: fsm.Token{Epoch: 1, Index: 17}, Seq: 3},
		},
		"submit-lease": &fsm.Submit{Spec: fsm.Spec{Project: "p", Device: fsm.Device{Kind: fsm.DeviceCPU}, Lease: "10m0s"}},
	}
}

// What a released version wrote must be read for ever, and read as the same. A golden that differs means that old logs
// cannot be applied any more: add a field or a kind instead.
func TestWire(t *testing.T) {
	seen := map[string]bool{}
	commands := grownCommands()
	for _, c := range everyCommand() {
		commands[c.Kind()] = c
	}
	for name, c := range commands {
		seen[name+".json"] = true
		t.Run(name, func(t *testing.T) {
			want := fsm.Entry{By: "ana", At: epoch, Key: "k1", Command: c}
			data := encode(t, want)
			path := filepath.Join("testdata", "wire", name+".json")
			if *update {
				if err := os.WriteFile(path, append(data, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			stored, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(stored), string(data)+"\n"); diff != "" {
				t.Errorf("Encode writes something else (-stored +now):\n%s", diff)
			}
			got, err := fsm.Decode(stored)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("Decode reads something else (-want +got):\n%s", diff)
			}
		})
	}
	files, err := filepath.Glob("testdata/wire/*.json")
	if err != nil || len(files) != len(seen) {
		t.Fatalf("%d goldens for %d kinds, %v", len(files), len(seen), err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := string(encode(t, fsm.Entry{By: "ana", At: epoch, Command: &fsm.Release{Experiments: []uint64{1}}}))
	for _, c := range []struct{ name, data string }{
		{"nothing", ""},
		{"no JSON", "release 1"},
		{"cut off", good[:len(good)-2]},
		{"a kind of a later version", strings.Replace(good, `"release"`, `"preempt"`, 1)},
		{"no kind", strings.Replace(good, `"kind":"release",`, ``, 1)},
		{"an unknown field of the entry", strings.Replace(good, `"by"`, `"gang":2,"by"`, 1)},
		{"an unknown field of the body", strings.Replace(good, `"experiments"`, `"force":true,"experiments"`, 1)},
		{"a field of another type", strings.Replace(good, `[1]`, `"1"`, 1)},
		{"no body", strings.Replace(good, `,"body":{"experiments":[1]}`, ``, 1)},
		{"two entries", good + good},
		{"junk behind", good + "}"},
		{"a priority nobody knows", `{"kind":"annotate","at":"2026-03-01T12:00:00Z","body":{"experiments":[1],"priority":"asap"}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.data == good {
				t.Fatal("the case changes nothing")
			}
			if e, err := fsm.Decode([]byte(c.data)); !errors.Is(err, fsm.ErrUnknownCommand) {
				t.Errorf("Decode(%s) = %+v, %v", c.data, e, err)
			}
			l := foundedLab(t)
			before, index := digest(l.state), l.state.Index()
			if _, err := l.state.Apply(index+1, []byte(c.data)); !errors.Is(err, fsm.ErrUnknownCommand) {
				t.Errorf("Apply(%s): %v", c.data, err)
			}
			if digest(l.state) != before || l.state.Index() != index {
				t.Error("it left a trace")
			}
		})
	}
}

func TestEncodeLimits(t *testing.T) {
	if _, err := fsm.Encode(fsm.Entry{Key: strings.Repeat("k", fsm.MaxKey+1), Command: &fsm.Release{}}); err == nil {
		t.Error("a key that is too long is encoded")
	}
	if _, err := fsm.Encode(fsm.Entry{Command: &fsm.Submit{Spec: fsm.Spec{Config: strings.Repeat("c", fsm.MaxEntry)}}}); err == nil {
		t.Error("an entry that is too large is encoded")
	}
}

func TestToken(t *testing.T) {
	for _, bad := range []string{"", "1", "-", "1-", "-1", "01-2", "1-02", "+1-2", "1-2-3", "a-b", " 1-2", "1-18446744073709551616"} {
		if got, err := fsm.ParseToken(bad); err == nil {
			t.Errorf("ParseToken(%q) = %v", bad, got)
		}
	}
	want := fsm.Token{Epoch: 1, Index: 42}
	if got, err := fsm.ParseToken("1-42"); err != nil || got != want || got.String() != "1-42" {
		t.Errorf("ParseToken(1-42) = %v, %v", got, err)
	}
	if !want.Less(fsm.Token{Epoch: 2}) || !want.Less(fsm.Token{Epoch: 1, Index: 43}) || want.Less(want) {
		t.Error("tokens are ordered by epoch, then by index")
	}
}

func TestPriority(t *testing.T) {
	for _, p := range []fsm.Priority{fsm.Low, fsm.Normal, fsm.High, fsm.Urgent} {
		if got, err := fsm.ParsePriority(p.String()); err != nil || got != p {
			t.Errorf("ParsePriority(%s) = %v, %v", p, got, err)
		}
	}
	if got, err := fsm.ParsePriority(""); err != nil || got != fsm.Normal {
		t.Errorf(`ParsePriority("") = %v, %v`, got, err)
	}
}

// The grid is walked as cvlab-kit walks it: the last key turns fastest.
func TestParams(t *testing.T) {
	s := fsm.Spec{Axes: []fsm.Axis{
		{Key: "lr", Values: []json.RawMessage{[]byte("1"), []byte("2")}},
		{Key: "seed", Values: []json.RawMessage{[]byte("7"), []byte("8"), []byte("9")}},
	}}
	var got []string
	for i := range s.Count() {
		var words []string
		for _, p := range s.Params(i) {
			words = append(words, p.Key+"="+string(p.Value))
		}
		got = append(got, strings.Join(words, " "))
	}
	want := []string{"lr=1 seed=7", "lr=1 seed=8", "lr=1 seed=9", "lr=2 seed=7", "lr=2 seed=8", "lr=2 seed=9"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
