package spec

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/deveronica/cvlab/fsm"
)

// wish is what one way of asking for a device says. Several are laid over each other: the config's device, its cvlab.gpus,
// and the options of the request.
type wish struct {
	cpu     bool
	counted bool // count was said, rather than left to us
	count   int
	node    string
	indexes []int
}

var (
	nodeName  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	indexText = regexp.MustCompile(`^(?:(?:cuda|gpu):)?([0-9]{1,4})$`)
)

const deviceHint = `write any, cpu, cuda:1, [0, 1], NODE, NODE:0 or NODE:[0,1]; "cvlab: {gpus: 2}" asks for a number of GPUs`

// parseDevice reads a device as a config or an option gives it.
func parseDevice(s string) (wish, error) {
	s = strings.TrimSpace(s)
	switch strings.ToLower(s) {
	case "", "any", "auto", "cuda", "gpu":
		return wish{}, nil
	case "cpu":
		return wish{cpu: true}, nil
	}
	if w, ok, err := parseCards(s); ok {
		w.indexes = nil // index 1 of any node means nothing
		return w, err
	}
	node, cards, hasCards := strings.Cut(s, ":")
	if !nodeName.MatchString(node) || len(node) > maxLabel || strings.Trim(node, "0123456789") == "" {
		return wish{}, fmt.Errorf("%q is not a device", clip(s, 60))
	}
	if !hasCards {
		return wish{node: node}, nil
	}
	if strings.EqualFold(node, "cuda") || strings.EqualFold(node, "gpu") || strings.EqualFold(node, "cpu") {
		return wish{}, fmt.Errorf("%q is not a device", clip(s, 60))
	}
	if cards == "cpu" {
		return wish{node: node, cpu: true}, nil
	}
	w, ok, err := parseCards(cards)
	if !ok {
		return wish{}, fmt.Errorf("%q does not name GPUs of a node", clip(s, 60))
	}
	w.node = node
	return w, err
}

// parseCards reads 1, cuda:1, [0, 1] or cuda:[0,1]; ok is false for anything else.
func parseCards(s string) (w wish, ok bool, err error) {
	if m := indexText.FindStringSubmatch(s); m != nil {
		w, err := wishFor([]string{s})
		return w, true, err
	}
	list := strings.TrimPrefix(strings.TrimPrefix(s, "cuda:"), "gpu:")
	if !strings.HasPrefix(list, "[") || !strings.HasSuffix(list, "]") {
		return wish{}, false, nil
	}
	list = strings.TrimSpace(list[1 : len(list)-1])
	if list == "" {
		return wish{}, true, fmt.Errorf("the list of GPUs is empty")
	}
	w, err = wishFor(strings.Split(list, ","))
	return w, true, err
}

// wishFor makes a wish of the texts of GPU indexes.
func wishFor(texts []string) (wish, error) {
	if len(texts) > MaxGPUs {
		return wish{}, fmt.Errorf("%d GPUs are above the limit of %d of one node", len(texts), MaxGPUs)
	}
	w := wish{counted: true, count: len(texts)}
	for _, t := range texts {
		m := indexText.FindStringSubmatch(strings.Trim(strings.TrimSpace(t), `"'`))
		if m == nil {
			return wish{}, fmt.Errorf("%q is not the index of a GPU", clip(strings.TrimSpace(t), 40))
		}
		n, _ := strconv.Atoi(m[1]) // four digits at most
		if slices.Contains(w.indexes, n) {
			return wish{}, fmt.Errorf("GPU %d is there twice", n)
		}
		w.indexes = append(w.indexes, n)
	}
	return w, nil
}

// wishOf reads the device of a config.
func wishOf(v *value) (wish, error) {
	switch {
	case v.isNull():
		return wish{}, nil
	case v.kind == yaml.SequenceNode && len(v.items) == 0: // an empty list
		return wish{}, fmt.Errorf("the list of GPUs is empty")
	case len(v.items) > 0:
		texts := make([]string, len(v.items))
		for i, item := range v.items {
			if !item.isScalar() || item.text == "" {
				return wish{}, fmt.Errorf("item %d of the list is not the index of a GPU", i+1)
			}
			texts[i] = item.text
		}
		return wishFor(texts)
	case !v.isScalar():
		return wish{}, fmt.Errorf("a map is not a device")
	case v.tag == "!!bool" || v.tag == "!!float" || strings.HasPrefix(v.text, "-"):
		return wish{}, fmt.Errorf("%q is not a device", clip(v.text, 60))
	}
	return parseDevice(v.text)
}

// over lays a stronger wish over a weaker one. Naming only a node keeps how many GPUs were asked for.
func (w wish) over(weak wish) wish {
	switch {
	case w.cpu || w.counted:
		if w.node == "" {
			// How many was said anew; where stays. Indexes stay only if they were meant for as many GPUs.
			w.node, w.indexes = weak.node, nil
			if w.counted && len(weak.indexes) == w.count {
				w.indexes = weak.indexes
			}
		}
		return w
	case w.node != "":
		weak.indexes = nil
		weak.node = w.node
		return weak
	}
	return weak
}

// contradicts says whether two wishes of the same strength cannot both be met.
func (w wish) contradicts(o wish) bool {
	said := func(w wish) bool { return w.cpu || w.counted }
	return said(w) && said(o) && (w.cpu != o.cpu || w.count != o.count)
}

func (w wish) String() string {
	switch {
	case w.cpu:
		return "a CPU slot"
	case w.count == 1:
		return "one GPU"
	}
	return fmt.Sprintf("%d GPUs", w.count)
}

// device is the slot that the state machine stores.
func (w wish) device(memory uint64) fsm.Device {
	d := fsm.Device{Kind: fsm.DeviceAuto, Count: 1, Node: w.node, Memory: memory}
	switch {
	case w.cpu:
		d.Kind, d.Count, d.Memory = fsm.DeviceCPU, 0, 0
	case w.counted:
		d.Kind, d.Count = fsm.DeviceGPU, w.count
		if w.node != "" {
			d.Indexes = w.indexes
		}
	}
	return d
}
