package fsm

import (
	"encoding/json"
	"fmt"
	"time"
)

// Spec is what one submission asks for, shared by all experiments of its batch. Package fsm/spec makes it from the text
// of a config; the state machine stores it and reads only what scheduling and retries need.
type Spec struct {
	// Config is the submitted text, comments and tags kept; empty when a bare command was submitted.
	Config string `json:"config,omitempty"`
	// Command is exec'ed without a shell. Shell is handed to "sh -c". At most one is set; with neither, cvlab-kit runs.
	Command []string `json:"command,omitempty"`
	Shell   string   `json:"shell,omitempty"`

	Name     string   `json:"name,omitempty"`
	Project  string   `json:"project"`
	Priority Priority `json:"priority"`
	// Epochs is the config's own figure for the progress bar; 0 when it has none.
	Epochs int `json:"epochs,omitempty"`

	Device Device `json:"device"`
	// Where are labels and GPU name ("gpu") a node must have.
	Where map[string]string `json:"where,omitempty"`

	TimeLimit     Duration          `json:"time_limit,omitempty"`
	Retries       int               `json:"retries,omitempty"`
	After         []uint64          `json:"after,omitempty"`
	MaxParallel   int               `json:"max_parallel,omitempty"`
	Env           map[string]string `json:"env,omitempty"`
	Launcher      string            `json:"launcher,omitempty"`        // "none" or "torchrun"
	OnContactLoss string            `json:"on_contact_loss,omitempty"` // "freeze", "kill" or "keep"
	// Lease is LeaseHold, a duration as time.Duration writes it, or "" for what the cluster has.
	Lease  string   `json:"lease,omitempty"`
	Notify []string `json:"notify,omitempty"`
	// Code names a shipped snapshot of the working tree; empty without one.
	Code string `json:"code,omitempty"`

	// Axes are the swept keys in document order; the last one turns fastest. Empty means one experiment.
	Axes []Axis `json:"axes,omitempty"`
}

// Axis is one swept key of a config.
type Axis struct {
	// Key is the dotted path in the config, such as "optimizer.lr".
	Key string `json:"key"`
	// Values are shown to people and stored as the experiment's params; JSON, one per value. The text that is written
	// into the config handed on comes from the config itself.
	Values []json.RawMessage `json:"values"`
}

// NeedsKit says whether the experiment runs by cvlab-kit, so that its node must have it.
func (s *Spec) NeedsKit() bool { return len(s.Command) == 0 && s.Shell == "" }

// Count is the number of experiments the spec stands for: the product of its axes' lengths.
func (s *Spec) Count() int {
	n := 1
	for _, a := range s.Axes {
		n *= len(a.Values)
	}
	return n
}

// Choice gives the index into each axis for the experiment with the given ordinal (0-based), the last axis turning
// fastest, which is the order in which cvlab-kit expands a grid.
func (s *Spec) Choice(ordinal int) []int {
	pick := make([]int, len(s.Axes))
	for i := len(s.Axes) - 1; i >= 0; i-- {
		n := len(s.Axes[i].Values)
		pick[i] = ordinal % n
		ordinal /= n
	}
	return pick
}

// Param is one swept key with the value that one experiment has.
type Param struct {
	Key   string          `json:"key"`
	Value json.RawMessage `json:"value"`
}

// Params gives the swept values of the experiment with the given ordinal (0-based), in document order.
func (s *Spec) Params(ordinal int) []Param {
	var params []Param
	for i, v := range s.Choice(ordinal) {
		params = append(params, Param{Key: s.Axes[i].Key, Value: s.Axes[i].Values[v]})
	}
	return params
}

// DeviceKind says what sort of slot an experiment needs.
type DeviceKind string

// The kinds of slot.
const (
	// DeviceAuto is one GPU anywhere, or a CPU slot when no node of the cluster has a GPU.
	DeviceAuto DeviceKind = "auto"
	// DeviceGPU is Device.Count GPUs of one node.
	DeviceGPU DeviceKind = "gpu"
	// DeviceCPU is one CPU slot.
	DeviceCPU DeviceKind = "cpu"
)

// Device is the slot an experiment needs.
type Device struct {
	Kind DeviceKind `json:"kind"`
	// Count is the number of GPUs of one node, of each in a gang; 1 for auto, 0 for cpu.
	Count int `json:"count,omitempty"`
	// Nodes is how many machines give such a slot each, as a gang: all start or none. 0 and 1 are one machine; at most
	// MaxGang.
	Nodes int `json:"nodes,omitempty"`
	// Node is the name or ID of the only node it may run on; empty means anywhere.
	Node string `json:"node,omitempty"`
	// Indexes are the GPU indexes asked for; honoured only together with Node.
	Indexes []int `json:"indexes,omitempty"`
	// Memory is the free memory each GPU must have, in bytes.
	Memory uint64 `json:"memory,omitempty"`
}

// Duration is a time.Duration that is written as text such as "12h0m0s".
type Duration time.Duration

// MarshalText writes the duration as time.Duration does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("parse duration: %w", err)
	}
	*d = Duration(v)
	return nil
}

// Priority orders waiting experiments; a greater one goes first.
type Priority int

// The priorities, as users write them: low, normal, high, urgent.
const (
	Low Priority = iota - 1
	Normal
	High
	Urgent
)

// String gives the word users write.
func (p Priority) String() string {
	switch p {
	case Low:
		return "low"
	case Normal:
		return "normal"
	case High:
		return "high"
	case Urgent:
		return "urgent"
	}
	return fmt.Sprintf("priority(%d)", int(p))
}

// MarshalText gives the word users write.
func (p Priority) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads the word users write.
func (p *Priority) UnmarshalText(text []byte) error {
	v, err := ParsePriority(string(text))
	if err != nil {
		return err
	}
	*p = v
	return nil
}

// ParsePriority reads low, normal, high or urgent; "" is normal.
func ParsePriority(s string) (Priority, error) {
	switch s {
	case "low":
		return Low, nil
	case "", "normal":
		return Normal, nil
	case "high":
		return High, nil
	case "urgent":
		return Urgent, nil
	}
	return Normal, fmt.Errorf("priority %q is not one of low, normal, high, urgent", s)
}
