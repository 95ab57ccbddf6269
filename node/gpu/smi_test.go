package gpu

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const gib = 1 << 30

func TestWhatNvidiaSMIPrints(t *testing.T) {
	healthy := GPU{
		UUID: "GPU-1", Index: 0, Name: "NVIDIA A100-SXM4-80GB", State: OK, MemoryUsed: gib, MemoryTotal: 80 * gib,
		Utilization: 37, Temperature: 41, Power: 62.53,
	}
	tests := []struct {
		name, out string
		want      []GPU
		err       string
	}{
		{"nothing", "\n", nil, ""},
		{"one card", "GPU-1, 0, NVIDIA A100-SXM4-80GB, 1024, 81920, 37, 41, 62.53\n", []GPU{healthy}, ""},
		{"Windows line ends", "GPU-1, 0, NVIDIA A100-SXM4-80GB, 1024, 81920, 37, 41, 62.53\r\n", []GPU{healthy}, ""},
		{
			"a laptop without power and use", "GPU-2, 1, Quadro, 5, 2048, [N/A], 50, [Not Supported]\n",
			[]GPU{{UUID: "GPU-2", Index: 1, Name: "Quadro", State: OK, MemoryUsed: 5 << 20, MemoryTotal: 2 * gib, Temperature: 50}}, "",
		},
		{
			"memory shared with the host", "GPU-3, 0, NVIDIA GB10, [N/A], [N/A], 3, 50, 10.00",
			[]GPU{{UUID: "GPU-3", Name: "NVIDIA GB10", State: OK, Utilization: 3, Temperature: 50, Power: 10}}, "",
		},
		{
			"a broken card beside a healthy one",
			"GPU-4, 1, Tesla, [Unknown Error], [Unknown Error], [Unknown Error], ERR!, [Unknown Error]\n" +
				"GPU-1, 0, NVIDIA A100-SXM4-80GB, 1024, 81920, 37, 41, 62.53\n",
			[]GPU{{UUID: "GPU-4", Index: 1, Name: "Tesla", State: Bad}, healthy}, "",
		},
		{
			"only the fan sensor is broken", "GPU-5, 0, GTX, 1, 1024, 0, 30, ERR!\n",
			[]GPU{{UUID: "GPU-5", Name: "GTX", State: OK, MemoryUsed: 1 << 20, MemoryTotal: gib, Temperature: 30}}, "",
		},
		{"a lost card", "GPU-6, 2, H100, [GPU is lost], [GPU is lost], [GPU is lost], [GPU is lost], [GPU is lost]\n", []GPU{{UUID: "GPU-6", Index: 2, Name: "H100", State: Lost}}, ""},
		{"a name with a comma", "GPU-7, 0, Card, big, 0, 1024, 0, 30, 9\n", []GPU{{UUID: "GPU-7", Name: "Card, big", State: OK, MemoryTotal: gib, Temperature: 30, Power: 9}}, ""},
		{
			"a complaint before the cards",
			"Unable to determine the device handle for GPU0000:3D:00.0: Unknown Error\nGPU-1, 0, NVIDIA A100-SXM4-80GB, 1024, 81920, 37, 41, 62.53\n",
			[]GPU{healthy}, "not a line about a GPU",
		},
		{"no driver", "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", nil, "not a line about a GPU"},
		{"no UUID", "[N/A], 0, Card, 0, 1024, 0, 30, 9\n", nil, "without a UUID"},
		{"no index", "GPU-1, [N/A], Card, 0, 1024, 0, 30, 9\n", nil, "without an index"},
		{"twice", strings.Repeat("GPU-1, 0, NVIDIA A100-SXM4-80GB, 1024, 81920, 37, 41, 62.53\n", 2), []GPU{healthy}, "twice"},
		{"numbers beyond reason", "GPU-8, 0, Card, NaN, 1e300, 900, -5, Inf\n", []GPU{{UUID: "GPU-8", Name: "Card", State: Bad, Utilization: 100}}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseSMI([]byte(tt.out))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("cards (-want +got):\n%s", diff)
			}
			wantError(t, err, tt.err)
		})
	}
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("got error %v, want %q", err, want)
	}
}

func TestWhatNvidiaSMIPrintsAboutProcesses(t *testing.T) {
	tests := []struct {
		name, out string
		want      []smiApp
		err       string
	}{
		{"none", "", nil, ""},
		{"none, in words", "No running processes found\n", nil, ""},
		{"two", "GPU-1, 10, 300\nGPU-2, 11, [N/A]\n", []smiApp{{"GPU-1", 10, 300 << 20}, {"GPU-2", 11, 0}}, ""},
		{"junk between", "GPU-1, 10, 300\nwhat?\nGPU-1, x, 1\nGPU-2, 11, 1\n", []smiApp{{"GPU-1", 10, 300 << 20}, {"GPU-2", 11, 1 << 20}}, "not a line about a process"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseSMIApps([]byte(tt.out))
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(smiApp{})); diff != "" {
				t.Errorf("processes (-want +got):\n%s", diff)
			}
			wantError(t, err, tt.err)
		})
	}
}

// fakeSMI puts a shell script called nvidia-smi on the PATH. The script finds its directory in $dir.
func fakeSMI(t *testing.T, script string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	text := fmt.Sprintf("#!/bin/sh\ndir='%s'\n%s\n", dir, script)
	if err := os.WriteFile(filepath.Join(dir, "nvidia-smi"), []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return dir
}

func openSMI(t *testing.T) *smi {
	t.Helper()
	path, err := exec.LookPath("nvidia-smi")
	if err != nil {
		t.Fatal(err)
	}
	return newSMI(path)
}

func TestProcessesAreListedAgainWhenMemoryMoves(t *testing.T) {
	dir := fakeSMI(t, fmt.Sprintf(`case "$1" in
	--query-gpu=uuid,index,name,memory.used,*) echo "GPU-1, 0, Card, $(cat "$dir/used"), 1024, 5, 30, 9.5" ;;
	--query-compute-apps=*) echo x >> "$dir/listed"; echo "GPU-1, %d, 7" ;;
	*) echo "bad arguments $*" >&2; exit 9 ;;
	esac`, os.Getpid()))
	s := openSMI(t)
	probe := func(used string) GPU {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "used"), []byte(used), 0o600); err != nil {
			t.Fatal(err)
		}
		gpus, err := s.Probe(t.Context())
		if err != nil || len(gpus) != 1 {
			t.Fatalf("got %v, %v", gpus, err)
		}
		return gpus[0]
	}
	listings := func() int {
		data, err := os.ReadFile(filepath.Join(dir, "listed"))
		if err != nil {
			t.Fatal(err)
		}
		return len(data) / 2
	}
	me := newPeople().describe(os.Getpid(), 7<<20)
	if me.User == "" || me.Name == "" {
		t.Fatalf("cannot describe this very process: %+v", me)
	}
	if diff := cmp.Diff([]Process{me}, probe("100").Processes); diff != "" {
		t.Errorf("processes (-want +got):\n%s", diff)
	}
	probe("100")
	if n := listings(); n != 1 {
		t.Errorf("memory is the same: got %d listings, want 1", n)
	}
	if diff := cmp.Diff([]Process{me}, probe("200").Processes); diff != "" || listings() != 2 {
		t.Errorf("memory moved: got %d listings, want 2 (-want +got):\n%s", listings(), diff)
	}
	for range smiListEvery {
		probe("200")
	}
	if n := listings(); n != 3 {
		t.Errorf("after a while: got %d listings, want 3", n)
	}
}

func TestAHangingNvidiaSMIIsKilledWithItsChildren(t *testing.T) {
	dir := fakeSMI(t, `sleep 1000 & echo $! > "$dir/child"; wait`)
	s := openSMI(t)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	before := time.Now()
	gpus, err := s.Probe(ctx)
	if gpus != nil || err == nil {
		t.Errorf("got %v, %v; want silence", gpus, err)
	}
	if d := time.Since(before); d > 10*time.Second {
		t.Errorf("it took %s, want about the deadline", d)
	}
	data, err := os.ReadFile(filepath.Join(dir, "child"))
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(data), &pid); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for !gone(pid) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d of the killed nvidia-smi lives on", pid)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// gone is true for a process that has ended, also when nobody has waited for it.
func gone(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

func TestAnNvidiaSMIThatFailsHidesNoCardItToldAbout(t *testing.T) {
	fakeSMI(t, `echo "GPU-1, 0, Card, 1, 1024, 5, 30, 9.5"; echo "GPU 1 is lost" >&2; exit 15`)
	gpus, err := openSMI(t).Probe(t.Context())
	if len(gpus) != 1 || err == nil || !strings.Contains(err.Error(), "GPU 1 is lost") {
		t.Errorf("got %v, %v; want the card and the complaint", gpus, err)
	}
}

func TestAnNvidiaSMIWithoutADriverIsSilence(t *testing.T) {
	fakeSMI(t, `echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."; exit 9`)
	gpus, err := openSMI(t).Probe(t.Context())
	if gpus != nil || err == nil || !strings.Contains(err.Error(), "run it by hand") {
		t.Errorf("got %v, %v; want silence and what to do", gpus, err)
	}
}

func FuzzSMI(f *testing.F) {
	f.Add([]byte("GPU-1, 0, NVIDIA A100-SXM4-80GB, 1024, 81920, 37, 41, 62.53\n"))
	f.Add([]byte("GPU-4, 1, Tesla, [Unknown Error], [N/A], ERR!, ERR!, [GPU is lost]\n"))
	f.Add([]byte("GPU-8, 0, a,b,c, NaN, 1e300, 900, -5, Inf\nGPU-8"))
	f.Fuzz(func(t *testing.T, out []byte) {
		gpus, _ := parseSMI(out)
		for _, g := range gpus {
			if g.UUID == "" || g.Index < 0 || g.Utilization < 0 || g.Utilization > 100 || g.Power < 0 || g.Temperature < 0 || g.State == "" {
				t.Errorf("impossible GPU: %+v", g)
			}
			if g.MemoryTotal > maxBytes || g.MemoryUsed > maxBytes {
				t.Errorf("memory wrapped around: %+v", g)
			}
		}
	})
}

func FuzzSMIApps(f *testing.F) {
	f.Add([]byte("GPU-1, 10, 300\nGPU-2, 11, [N/A]\n"))
	f.Add([]byte("No running processes found\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		apps, _ := parseSMIApps(out)
		for _, a := range apps {
			if a.pid <= 0 || !strings.HasPrefix(a.gpu, "GPU-") {
				t.Errorf("impossible process: %+v", a)
			}
		}
	})
}
