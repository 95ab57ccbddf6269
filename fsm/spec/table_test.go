package spec_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/fsm/spec"
)

func TestDevice(t *testing.T) {
	auto := fsm.Device{Kind: fsm.DeviceAuto, Count: 1}
	gpus := func(n int) fsm.Device { return fsm.Device{Kind: fsm.DeviceGPU, Count: n} }
	there := func(n int, node string, indexes ...int) fsm.Device {
		return fsm.Device{Kind: fsm.DeviceGPU, Count: n, Node: node, Indexes: indexes}
	}
	cpu := fsm.Device{Kind: fsm.DeviceCPU}
	for _, c := range []struct {
		name, text string
		o          spec.Options
		want       fsm.Device
		refused    string // what the problem must say
	}{
		{name: "absent", text: "a: 1", want: auto},
		{name: "any", text: "device: any", want: auto},
		{name: "auto", text: "device: auto", want: auto},
		{name: "cuda", text: "device: cuda", want: auto},
		{name: "null", text: "device:", want: auto},
		{name: "cpu", text: "device: cpu", want: cpu},
		{name: "index", text: "device: 1", want: gpus(1)},
		{name: "index as text", text: `device: "1"`, want: gpus(1)},
		{name: "cuda index", text: "device: cuda:1", want: gpus(1)},
		{name: "list", text: "device: [0, 1, 2, 3]", want: gpus(4)},
		{name: "list of cuda", text: "device: [cuda:0, cuda:1]", want: gpus(2)},
		{name: "list as text", text: `device: "[0, 1]"`, want: gpus(2)},
		{name: "list of one", text: "device: [3]", want: gpus(1)},
		{name: "node", text: "device: gpu-server-1", want: fsm.Device{Kind: fsm.DeviceAuto, Count: 1, Node: "gpu-server-1"}},
		{name: "node with index", text: "device: gpu-server-1:1", want: there(1, "gpu-server-1", 1)},
		{name: "node with list", text: "device: box:[0,1]", want: there(2, "box", 0, 1)},
		{name: "node with cpu", text: "device: box:cpu", want: fsm.Device{Kind: fsm.DeviceCPU, Node: "box"}},
		{name: "gpus", text: "cvlab: {gpus: 2}", want: gpus(2)},
		{name: "no gpus", text: "cvlab: {gpus: 0}", want: cpu},
		{name: "gpus agree", text: "device: [0, 1]\ncvlab: {gpus: 2}", want: gpus(2)},
		{name: "gpus on a node", text: "device: box\ncvlab: {gpus: 2}", want: there(2, "box")},
		{name: "gpus keep indexes", text: "device: box:[2,3]\ncvlab: {gpus: 2}", want: there(2, "box", 2, 3)},
		{name: "memory", text: "cvlab: {gpu_memory: 20GB}", want: fsm.Device{Kind: fsm.DeviceAuto, Count: 1, Memory: 20_000_000_000}},

		{name: "request any", text: "device: cpu", o: spec.Options{Device: "any"}, want: cpu},
		{name: "request cpu", text: "device: [0, 1]", o: spec.Options{Device: "cpu"}, want: cpu},
		{name: "request card", text: "device: cpu", o: spec.Options{Device: "cuda:0"}, want: gpus(1)},
		{name: "request node keeps count", text: "device: [0, 1]", o: spec.Options{Device: "box"}, want: there(2, "box")},
		{name: "request node and card", o: spec.Options{Device: "gpu-server-1:1"}, text: "device: cpu", want: there(1, "gpu-server-1", 1)},
		{name: "request list", text: "a: 1", o: spec.Options{Device: "[0,1]"}, want: gpus(2)},
		{name: "request node list", text: "a: 1", o: spec.Options{Device: "box:[0, 1]"}, want: there(2, "box", 0, 1)},
		{name: "request gpus", text: "device: cpu", o: spec.Options{GPUs: 3}, want: gpus(3)},
		{name: "request gpus on the node of the text", text: "device: box:1", o: spec.Options{GPUs: 3}, want: there(3, "box")},
		{name: "request node and gpus", text: "a: 1", o: spec.Options{Device: "box", GPUs: 3}, want: there(3, "box")},
		{name: "request contradicts itself", text: "a: 1", o: spec.Options{Device: "cpu", GPUs: 1}, refused: "asks for one GPU"},
		{name: "request nonsense", text: "a: 1", o: spec.Options{Device: "a b"}, refused: "not a device"},
		{name: "request negative", text: "a: 1", o: spec.Options{GPUs: -1}, refused: "not from 0 to 128"},

		{name: "contradiction", text: "device: [0, 1]\ncvlab: {gpus: 3}", refused: "line 2, column 15: cvlab.gpus: it asks for 3 GPUs, but device asks for 2 GPUs"},
		{name: "cpu contradiction", text: "device: cpu\ncvlab: {gpus: 1}", refused: "but device asks for a CPU slot"},
		{name: "negative", text: "device: -1", refused: "line 1, column 9"},
		{name: "fraction", text: "device: 0.5", refused: "not a device"},
		{name: "not a number", text: "device: .nan", refused: "not a device"},
		{name: "too great", text: "device: 9223372036854775808", refused: "not a device"},
		{name: "bool", text: "device: true", refused: "not a device"},
		{name: "map", text: "device: {a: 1}", refused: "a map is not a device"},
		{name: "empty list", text: "device: []", refused: "empty"},
		{name: "twice", text: "device: [1, 1]", refused: "GPU 1 is there twice"},
		{name: "nested", text: "device: [[0, 1]]", refused: "item 1"},
		{name: "cpu index", text: "device: cpu:0", refused: "not a device"},
		{name: "cuda word", text: "device: cuda:x", refused: "not a device"},
		{name: "two gpus words", text: "device: 2 gpus", refused: "not a device"},
		{name: "gang", text: "cvlab: {nodes: 2}", refused: "line 1, column 16: cvlab.nodes: gangs over several machines are not supported yet"},
		{name: "gang of one", text: "cvlab: {gpus: 2, nodes: 1}", want: gpus(2)},
		{name: "gang on one node", text: "device: box\ncvlab: {nodes: 2}", refused: "line 2, column 16: cvlab.nodes: it asks for 2 machines, but device names one, box (remove one of the two"},
		{name: "gang on GPUs of one node", text: "device: box:[0, 1]\ncvlab: {nodes: 2}", refused: "it asks for 2 machines"},
		{name: "request puts a gang on one node", text: "cvlab: {nodes: 3}", o: spec.Options{Device: "box"}, refused: "line 1, column 16: cvlab.nodes: it asks for 3 machines, but device names one, box"},
		{name: "many gpus", text: "cvlab: {gpus: 129}", refused: "not from 0 to 128"},
		{name: "gpus not a number", text: "cvlab: {gpus: .nan}", refused: "not a whole number"},
		{name: "gpus 2^63", text: "cvlab: {gpus: 9223372036854775808}", refused: "not a whole number"},
	} {
		t.Run(c.name, func(t *testing.T) {
			made, err := spec.Parse(c.text, c.o)
			if c.refused != "" {
				if err == nil || !strings.Contains(err.Error(), c.refused) {
					t.Fatalf("got %v, want a refusal that says %q", err, c.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(c.want.Indexes) == 0 {
				c.want.Indexes = nil
			}
			if diff := cmp.Diff(c.want, made.Spec.Device); diff != "" {
				t.Errorf("device (-want +got):\n%s", diff)
			}
		})
	}
}

// TestBlock goes through the keys of the cvlab: block, one by one.
func TestBlock(t *testing.T) {
	hours := func(h float64) fsm.Duration { return fsm.Duration(h * float64(time.Hour)) }
	for _, c := range []struct {
		key, value string
		get        func(s *fsm.Spec) any
		want       any // nil: refused
	}{
		{"priority", "low", func(s *fsm.Spec) any { return s.Priority }, fsm.Low},
		{"priority", "urgent", func(s *fsm.Spec) any { return s.Priority }, fsm.Urgent},
		{"priority", "", func(s *fsm.Spec) any { return s.Priority }, fsm.Normal},
		{"priority", "highest", nil, nil},
		{"priority", "-1", nil, nil},
		{"time_limit", "12h", func(s *fsm.Spec) any { return s.TimeLimit }, hours(12)},
		{"time_limit", "90m", func(s *fsm.Spec) any { return s.TimeLimit }, hours(1.5)},
		{"time_limit", "1d12h", func(s *fsm.Spec) any { return s.TimeLimit }, hours(36)},
		{"time_limit", "90", func(s *fsm.Spec) any { return s.TimeLimit }, fsm.Duration(90 * time.Second)},
		{"time_limit", "1.5", func(s *fsm.Spec) any { return s.TimeLimit }, fsm.Duration(1500 * time.Millisecond)},
		{"time_limit", "0", nil, nil},
		{"time_limit", "-1h", nil, nil},
		{"time_limit", ".nan", nil, nil},
		{"time_limit", "1e309", nil, nil},
		{"time_limit", "9223372036854775808", nil, nil},
		{"time_limit", "366d", nil, nil},
		{"time_limit", "soon", nil, nil},
		{"time_limit", "[1h]", nil, nil},
		{"gpu_memory", "20GiB", func(s *fsm.Spec) any { return s.Device.Memory }, uint64(20 << 30)},
		{"gpu_memory", "500MiB", func(s *fsm.Spec) any { return s.Device.Memory }, uint64(500 << 20)},
		{"gpu_memory", "1.5 TiB", func(s *fsm.Spec) any { return s.Device.Memory }, uint64(3 << 39)},
		{"gpu_memory", "24gb", func(s *fsm.Spec) any { return s.Device.Memory }, uint64(24_000_000_000)},
		{"gpu_memory", "8G", func(s *fsm.Spec) any { return s.Device.Memory }, uint64(8 << 30)},
		{"gpu_memory", "20", nil, nil},
		{"gpu_memory", "-1GiB", nil, nil},
		{"gpu_memory", "0GiB", nil, nil},
		{"gpu_memory", "99999999TiB", nil, nil},
		{"gpu_memory", ".inf", nil, nil},
		{"retries", "0", func(s *fsm.Spec) any { return s.Retries }, 0},
		{"retries", "100", func(s *fsm.Spec) any { return s.Retries }, 100},
		{"retries", "101", nil, nil},
		{"retries", "-1", nil, nil},
		{"retries", "1.5", nil, nil},
		{"max_parallel", "4", func(s *fsm.Spec) any { return s.MaxParallel }, 4},
		{"max_parallel", "0", nil, nil},
		{"after", "[17, 18, 17]", func(s *fsm.Spec) any { return s.After }, []uint64{17, 18}},
		{"after", "3", func(s *fsm.Spec) any { return s.After }, []uint64{3}},
		{"after", "[0]", nil, nil},
		{"after", "[-1]", nil, nil},
		{"after", "[.nan]", nil, nil},
		{"after", "[9223372036854775808]", nil, nil},
		{"after", "[[1]]", nil, nil},
		{"after", "{a: 1}", nil, nil},
		{"env", "{A: 1, B: yes, C: }", func(s *fsm.Spec) any { return s.Env }, map[string]string{"A": "1", "B": "yes", "C": ""}},
		{"env", "{LD_PRELOAD: x}", func(s *fsm.Spec) any { return s.Env }, map[string]string{"LD_PRELOAD": "x"}},
		{"env", "{CVLAB_TOKEN: x}", nil, nil},
		{"env", `{"A=B": x}`, nil, nil},
		{"env", `{"A\0": x}`, nil, nil},
		{"env", `{A: "\0"}`, nil, nil},
		{"env", "{A: [1]}", nil, nil},
		{"env", "[A]", nil, nil},
		{"where", "{zone: b, rack: 3}", func(s *fsm.Spec) any { return s.Where }, map[string]string{"zone": "b", "rack": "3"}},
		{"where", "{zone: [a]}", nil, nil},
		{"where", `{zone: ""}`, nil, nil},
		{"launcher", "none", func(s *fsm.Spec) any { return s.Launcher }, "none"},
		{"launcher", "torchrun", func(s *fsm.Spec) any { return s.Launcher }, "torchrun"},
		{"launcher", "mpi", nil, nil},
		{"on_contact_loss", "keep", func(s *fsm.Spec) any { return s.OnContactLoss }, "keep"},
		{"on_contact_loss", "", func(s *fsm.Spec) any { return s.OnContactLoss }, "freeze"},
		{"on_contact_loss", "explode", nil, nil},
		{"lease", "hold", func(s *fsm.Spec) any { return s.Lease }, "hold"},
		{"lease", "10m", func(s *fsm.Spec) any { return s.Lease }, "10m0s"},
		{"lease", "90", func(s *fsm.Spec) any { return s.Lease }, "1m30s"},
		{"lease", "", func(s *fsm.Spec) any { return s.Lease }, ""},
		{"lease", "59s", nil, nil},
		{"lease", "8d", nil, nil},
		{"lease", "soon", nil, nil},
		{"notify", "https://a.example/x", func(s *fsm.Spec) any { return s.Notify }, []string{"https://a.example/x"}},
		{"notify", "[http://a.example, https://b.example]", func(s *fsm.Spec) any { return s.Notify }, []string{"http://a.example", "https://b.example"}},
		{"notify", "file:///etc/passwd", nil, nil},
		{"notify", "https://", nil, nil},
		{"command", "python x.py; echo $?", func(s *fsm.Spec) any { return s.Shell }, "python x.py; echo $?"},
		{"command", `[python, "-c", "a\nb; $(c)", 1]`, func(s *fsm.Spec) any { return s.Command }, []string{"python", "-c", "a\nb; $(c)", "1"}},
		{"command", `"  "`, nil, nil},
		{"command", "[]", nil, nil},
		{"command", `[""]`, nil, nil},
		{"command", `[a, "\0"]`, nil, nil},
		{"command", "[a, [b]]", nil, nil},
		{"command", "{a: b}", nil, nil},
		{"sweep", "true", func(s *fsm.Spec) any { return len(s.Axes) }, 1},
		{"sweep", "false", func(s *fsm.Spec) any { return len(s.Axes) }, 0},
		{"sweep", "1", nil, nil},
		{"nodes", "1", func(s *fsm.Spec) any { return s.Device.Kind }, fsm.DeviceAuto},
		{"nodes", "0", nil, nil},
		{"nodes", "65", nil, nil},
		{"nodes", "1.5", nil, nil},
		{"nodes", "[2]", nil, nil},
		{"nodes", "a", nil, nil},
	} {
		t.Run(fmt.Sprintf("%s=%s", c.key, c.value), func(t *testing.T) {
			made, err := spec.Parse(fmt.Sprintf("lr: [1, 2]\ncvlab:\n  %s: %s\n", c.key, c.value), spec.Options{})
			if c.want == nil {
				bad, ok := errors.AsType[*spec.Error](err)
				if !ok || len(bad.Problems) != 1 || bad.Problems[0].Line != 3 {
					t.Fatalf("got %v, want one problem in line 3", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, c.get(&made.Spec)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestUnknownKeyNamesTheNearest(t *testing.T) {
	for key, want := range map[string]string{"gpu": "gpus", "prioritty": "priority", "retry": "retries", "Time_limit": "time_limit", "evn": "env"} {
		_, err := spec.Parse("cvlab: {"+key+": 1}", spec.Options{})
		if key == "retry" { // three letters away from anything: the list of known keys helps
			want = "known keys: after, command"
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "line 1, column 9") {
			t.Errorf("%s: %v, want the place and %q", key, err, want)
		}
	}
}

func TestOptionsAreStronger(t *testing.T) {
	high, retries := fsm.High, 0
	made, err := spec.Parse("project: p\nrun_name: r\nepochs: 3\ncvlab: {priority: low, retries: 5, env: {A: 1, B: 2}, after: [1], time_limit: 1h, max_parallel: 1}", spec.Options{
		Name: "n", Project: "q", Priority: &high, Retries: &retries, Env: map[string]string{"B": "3"}, After: []uint64{7},
		TimeLimit: time.Minute, MaxParallel: 2, Code: "abc",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := fsm.Spec{
		Config: made.Spec.Config, Name: "n", Project: "q", Priority: fsm.High, Epochs: 3, Device: fsm.Device{Kind: fsm.DeviceAuto, Count: 1},
		TimeLimit: fsm.Duration(time.Minute), After: []uint64{7}, MaxParallel: 2, Env: map[string]string{"A": "1", "B": "3"},
		Launcher: "none", OnContactLoss: "freeze", Code: "abc",
	}
	if diff := cmp.Diff(want, made.Spec); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestOptionsHaveLimits(t *testing.T) {
	bad, many, none := fsm.Priority(7), 101, -1
	for name, o := range map[string]spec.Options{
		"priority":       {Priority: &bad},
		"retries":        {Retries: &many},
		"fewer retries":  {Retries: &none},
		"time limit":     {TimeLimit: -1},
		"long limit":     {TimeLimit: spec.MaxTimeLimit + 1},
		"parallel":       {MaxParallel: -1},
		"after":          {After: []uint64{0}},
		"env":            {Env: map[string]string{"CVLAB_NODE": "x"}},
		"env NUL":        {Env: map[string]string{"A": "\x00"}},
		"name with line": {Name: "a\nb"},
		"long name":      {Name: strings.Repeat("x", 4096)},
		"long project":   {Project: strings.Repeat("x", 4096)},
		"code":           {Code: "a\x00"},
	} {
		if _, err := spec.Parse("a: 1", o); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestLauncherFollowsTheGPUs(t *testing.T) {
	for text, want := range map[string]string{
		"device: [0, 1]":                   "torchrun",
		"device: 0":                        "none",
		"cvlab: {gpus: 2, command: x}":     "none",
		"cvlab: {gpus: 2, launcher: none}": "none",
		"cvlab: {gpus: 2, command: [x], launcher: torchrun}": "torchrun",
	} {
		made, err := spec.Parse(text, spec.Options{})
		if err != nil || made.Spec.Launcher != want {
			t.Errorf("%s: launcher %q, %v; want %s", text, made.Spec.Launcher, err, want)
		}
	}
}
