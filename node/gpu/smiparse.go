package gpu

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// What nvidia-smi is asked for, in the order in which the parsers expect it.
const (
	smiFields    = "uuid,index,name,memory.used,memory.total,utilization.gpu,temperature.gpu,power.draw"
	smiAppFields = "gpu_uuid,pid,used_memory"
)

// maxBytes keeps a nonsensical number of MiB from wrapping around.
const maxBytes = math.MaxInt64

// parseSMI reads the answer to smiFields, one line for each card, without header and units. A line that names no card is
// an error but hides no other line. A card whose memory cannot be read because of a fault is Bad; a field that the card
// does not have is 0.
func parseSMI(out []byte) ([]GPU, error) {
	var gpus []GPU
	var errs []error
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		g, err := parseSMILine(line)
		if err == nil && slices.ContainsFunc(gpus, func(o GPU) bool { return o.UUID == g.UUID }) {
			err = fmt.Errorf("read nvidia-smi: gpu %s is listed twice", g.UUID)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		gpus = append(gpus, g)
	}
	return gpus, errors.Join(errs...)
}

func parseSMILine(line string) (GPU, error) {
	f := smiSplit(line)
	if len(f) < 8 {
		return GPU{}, fmt.Errorf("read nvidia-smi: not a line about a GPU: %.120q", line)
	}
	// A name may hold commas; all other fields do not.
	name, tail := strings.Join(f[2:len(f)-5], ", "), f[len(f)-5:]
	if !strings.HasPrefix(f[0], "GPU-") {
		return GPU{}, fmt.Errorf("read nvidia-smi: a card without a UUID: %.120q", line)
	}
	index, err := strconv.Atoi(f[1])
	if err != nil || index < 0 {
		return GPU{}, fmt.Errorf("read nvidia-smi: gpu %s without an index: %.120q", f[0], line)
	}
	g := GPU{UUID: f[0], Index: index, Name: name, State: OK}
	used, usedState := smiNumber(tail[0])
	total, totalState := smiNumber(tail[1])
	use, _ := smiNumber(tail[2])
	g.Temperature, _ = smiNumber(tail[3])
	g.Power, _ = smiNumber(tail[4])
	g.MemoryUsed, g.MemoryTotal = mebibytes(used), mebibytes(total)
	g.Utilization = int(min(use, 100))
	g.State = worse(usedState, totalState)
	if g.State != OK {
		g.MemoryUsed, g.MemoryTotal = 0, 0
	}
	return g, nil
}

type smiApp struct {
	gpu    string
	pid    int
	memory uint64 // bytes
}

// parseSMIApps reads the answer to smiAppFields, one line for each process and card.
func parseSMIApps(out []byte) ([]smiApp, error) {
	var apps []smiApp
	var errs []error
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "No running") {
			continue
		}
		f := smiSplit(line)
		if len(f) != 3 || !strings.HasPrefix(f[0], "GPU-") {
			errs = append(errs, fmt.Errorf("read nvidia-smi: not a line about a process: %.120q", line))
			continue
		}
		pid, err := strconv.Atoi(f[1])
		if err != nil || pid <= 0 {
			errs = append(errs, fmt.Errorf("read nvidia-smi: a process without a number: %.120q", line))
			continue
		}
		memory, _ := smiNumber(f[2])
		apps = append(apps, smiApp{gpu: f[0], pid: pid, memory: mebibytes(memory)})
	}
	return apps, errors.Join(errs...)
}

func smiSplit(line string) []string {
	f := strings.Split(line, ",")
	for i := range f {
		f[i] = strings.TrimSpace(f[i])
	}
	return f
}

// smiNumber reads a field that is a number of 0 or more. "[N/A]" and "[Not Supported]" are OK, the card just does not have
// it; "[GPU is lost]" is Lost; everything else, such as "ERR!" or "[Unknown Error]", is Bad.
func smiNumber(field string) (float64, State) {
	n, err := strconv.ParseFloat(field, 64)
	if err == nil && !math.IsNaN(n) && !math.IsInf(n, 0) {
		return max(n, 0), OK
	}
	word := strings.ToLower(strings.Trim(field, "[]"))
	switch {
	case word == "n/a", word == "not supported", word == "not available":
		return 0, OK
	case strings.Contains(word, "lost"):
		return 0, Lost
	}
	return 0, Bad
}

func mebibytes(n float64) uint64 {
	if n >= maxBytes>>20 {
		return maxBytes
	}
	return uint64(n * (1 << 20))
}

// worse is the worse of two states of one card.
func worse(a, b State) State {
	order := []State{OK, Suspect, Bad, Lost}
	if slices.Index(order, a) >= slices.Index(order, b) {
		return a
	}
	return b
}
