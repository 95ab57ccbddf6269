package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/mux"

	"github.com/deveronica/cvlab/fsm"
)

type devicesAnswer struct {
	Devices []Device `json:"devices"`
}

func (s *Server) listDevices(w http.ResponseWriter, r *http.Request) error {
	devices, age := s.allDevices(r.Context())
	setAge(w, age)
	return answer(w, http.StatusOK, devicesAnswer{Devices: devices})
}

// allDevices joins how the machines feel with the facts: members nobody has heard of are there too, machines that are no
// members are not.
func (s *Server) allDevices(ctx context.Context) ([]Device, time.Duration) {
	felt, age := s.o.Machines.Devices(ctx)
	byID := make(map[string]Device, len(felt))
	for _, d := range felt {
		byID[d.ID] = d
	}
	view := s.o.Cluster.State().View()
	out := []Device{}
	for n := range view.Nodes() {
		d, known := byID[n.ID]
		if !known {
			d = Device{ID: n.ID, State: "unknown"}
		}
		out = append(out, withFacts(d, n, view))
	}
	slices.SortFunc(out, func(a, b Device) int { return strings.Compare(a.Name, b.Name) })
	return out, age
}

func withFacts(d Device, n *fsm.Node, view fsm.View) Device {
	d.Name, d.Draining, d.NoExec, d.CPUSlots, d.Labels = n.Name, n.Draining, n.NoExec, n.CPUSlots, n.Labels
	d.Version = cmp.Or(n.Version, d.Version)
	if d.Labels == nil {
		d.Labels = map[string]string{}
	}
	d.Running = []uint64{}
	for a := range view.Open(n.ID) {
		d.Running = append(d.Running, a.Experiment)
	}
	slices.Sort(d.Running)
	d.Frozen, d.Strays, d.Warnings = list(d.Frozen), list(d.Strays), list(d.Warnings)
	gpus := slices.Clone(list(d.GPUs))
	for _, g := range n.GPUs {
		if !slices.ContainsFunc(gpus, func(x GPU) bool { return x.UUID == g.UUID }) {
			gpus = append(gpus, GPU{UUID: g.UUID, Index: g.Index, Name: g.Name, MemoryTotal: g.Memory, State: "unknown"})
		}
	}
	for i := range gpus {
		gpus[i].Experiment = nil
		gpus[i].Processes = list(gpus[i].Processes)
		if a := view.Holder(gpus[i].UUID); a != nil {
			gpus[i].Experiment = &a.Experiment
		}
	}
	slices.SortFunc(gpus, func(a, b GPU) int { return cmp.Compare(a.Index, b.Index) })
	d.GPUs = gpus
	return d
}

func (s *Server) heartbeats(w http.ResponseWriter, r *http.Request) error {
	devices, age := s.allDevices(r.Context())
	setAge(w, age)
	out := map[string]*float64{}
	for _, d := range devices {
		out[d.Name] = d.LastHeard
	}
	return answer(w, http.StatusOK, out)
}

func (s *Server) ignoreHeartbeat(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, http.StatusOK, messageAnswer{Message: "ignored: nodes of this cluster report by themselves; a machine becomes one with cvlab join"})
}

// node gives the member that the path names.
func (s *Server) node(r *http.Request) (*fsm.Node, error) {
	word := mux.Vars(r)["node"]
	n := s.o.Cluster.State().View().FindNode(word)
	if n == nil {
		return nil, problem(http.StatusNotFound, fmt.Sprintf("no node, or more than one, is called %q", clip(word, 100)), "cvlab devices lists them")
	}
	return n, nil
}

// drainBody is the optional body of a drain.
type drainBody struct {
	// Now has what runs there stopped, after a checkpoint where that is possible.
	Now bool `json:"now,omitempty"`
}

func (s *Server) drain(w http.ResponseWriter, r *http.Request) error {
	var body drainBody
	if err := readBody(r, &body, true); err != nil {
		return err
	}
	if body.Now {
		return s.setDrain(w, r, fsm.Drain{On: true, Now: true}, "gets no new work; what runs there is stopped after a checkpoint and goes on elsewhere")
	}
	return s.setDrain(w, r, fsm.Drain{On: true}, "gets no new work; what runs there goes on")
}

func (s *Server) resume(w http.ResponseWriter, r *http.Request) error {
	return s.setDrain(w, r, fsm.Drain{}, "gets new work again")
}

func (s *Server) setDrain(w http.ResponseWriter, r *http.Request, c fsm.Drain, message string) error {
	n, err := s.node(r)
	if err != nil {
		return err
	}
	c.Node = n.ID
	if _, err := s.commit(w, r, &c); err != nil {
		return err
	}
	return answer(w, http.StatusOK, messageAnswer{Message: n.Name + " " + message})
}

// killStray ends an attempt that the facts do not know. It is no change of the facts, so it needs no leader.
func (s *Server) killStray(w http.ResponseWriter, r *http.Request) error {
	n, err := s.node(r)
	if err != nil {
		return err
	}
	token, err := fsm.ParseToken(mux.Vars(r)["stray"])
	if err != nil {
		return problem(http.StatusBadRequest, "an attempt's token looks like 1-42", "cvlab devices lists the stray attempts")
	}
	switch err := s.o.Machines.KillStray(r.Context(), n.ID, token, callerOf(r).user); {
	case errors.Is(err, fs.ErrNotExist):
		return problem(http.StatusNotFound, fmt.Sprintf("%s has no stray attempt %s", n.Name, token), "cvlab devices lists them")
	case err != nil:
		return s.notNow(r, err, n.Name+" did not answer; nothing was killed")
	}
	return answer(w, http.StatusOK, messageAnswer{Message: fmt.Sprintf("stray attempt %s on %s was killed", token, n.Name)})
}

func (s *Server) removeNode(w http.ResponseWriter, r *http.Request) error {
	n, err := s.node(r)
	if err != nil {
		return err
	}
	var off bool
	switch r.URL.Query().Get("off") {
	case "":
	case "true", "1":
		off = true
	case "false", "0":
	default:
		return problem(http.StatusBadRequest, "off is true or false", "")
	}
	if _, err := s.commit(w, r, &fsm.Remove{Node: n.ID, Off: off}); err != nil {
		return err
	}
	return answer(w, http.StatusOK, messageAnswer{Message: n.Name + " is no member any more"})
}

func (s *Server) cluster(w http.ResponseWriter, r *http.Request) error {
	status := s.o.Cluster.Status(r.Context())
	status.Nodes = list(status.Nodes)
	return answer(w, http.StatusOK, status)
}

// deviceFeed lets all event streams share one look at the machines per second.
type deviceFeed struct {
	mu      sync.Mutex
	at      time.Time
	devices []Device
}

const feedEvery = time.Second

func (f *deviceFeed) get(ctx context.Context, s *Server) []Device {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); now.Sub(f.at) >= feedEvery*9/10 {
		f.devices, _ = s.allDevices(ctx)
		f.at = now
	}
	return f.devices
}
