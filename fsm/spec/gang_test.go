package spec

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deveronica/cvlab/fsm"
)

// What a gang asks of each machine is what one machine would be asked for. Parse still refuses them, so this looks before
// that.
func TestGangDevice(t *testing.T) {
	for _, c := range []struct {
		text     string
		want     fsm.Device
		launcher string
	}{
		{"cvlab: {nodes: 2}", fsm.Device{Kind: fsm.DeviceAuto, Count: 1, Nodes: 2}, "torchrun"},
		{"cvlab: {nodes: 64, gpus: 8, gpu_memory: 1GiB}", fsm.Device{Kind: fsm.DeviceGPU, Count: 8, Nodes: 64, Memory: 1 << 30}, "torchrun"},
		{"device: cpu\ncvlab: {nodes: 3, launcher: none}", fsm.Device{Kind: fsm.DeviceCPU, Nodes: 3}, "none"},
		{"device: [0, 1]\ncvlab: {nodes: 2, command: x}", fsm.Device{Kind: fsm.DeviceGPU, Count: 2, Nodes: 2}, "none"},
		{"cvlab: {nodes: 1}", fsm.Device{Kind: fsm.DeviceAuto, Count: 1}, "none"},
	} {
		root, err := load(c.text)
		if err != nil {
			t.Fatal(err)
		}
		m := maker{root: root}
		b := readBlock(root, &m.report)
		m.command(b)
		m.schedule(b)
		m.device(b)
		if diff := cmp.Diff(c.want, m.spec.Device); diff != "" || m.spec.Launcher != c.launcher {
			t.Errorf("%s: launcher %s, device (-want +got):\n%s", c.text, m.spec.Launcher, diff)
		}
	}
}
