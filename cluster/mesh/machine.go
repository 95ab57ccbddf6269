package mesh

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Marks are what tells one machine from another. A node's key is bound to those of the machine it was made on, so that a
// copied disk does not speak as the node it was copied from. Empty marks are not known.
type Marks struct {
	// MachineID is /etc/machine-id: of the installed system.
	MachineID string `json:"machine_id,omitempty"`
	// Board is the UUID of the mainboard; only root can read it.
	Board string `json:"board,omitempty"`
	// MACs are the addresses of the network cards, in order.
	MACs []string `json:"macs,omitempty"`
}

// ReadMarks reads the marks of this machine. stand is what tests say instead.
func ReadMarks(stand string) Marks {
	if stand != "" {
		return Marks{MachineID: stand, Board: stand, MACs: []string{stand}}
	}
	return readMarks("/")
}

func readMarks(root string) Marks {
	word := func(path string) string {
		text, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(text))
	}
	m := Marks{MachineID: word("etc/machine-id"), Board: word("sys/class/dmi/id/product_uuid")}
	cards, err := filepath.Glob(filepath.Join(root, "sys/class/net/*/device"))
	if err != nil {
		return m
	}
	for _, card := range cards { // virtual interfaces have no device, and new addresses at every boot
		if mac := word(filepath.Join("sys/class/net", filepath.Base(filepath.Dir(card)), "address")); mac != "" && mac != "00:00:00:00:00:00" {
			m.MACs = append(m.MACs, mac)
		}
	}
	slices.Sort(m.MACs)
	return m
}

// Other says whether these are surely the marks of another machine: at least two kinds are known of both, and every such
// kind differs. One that differs is a new network card, a reinstalled system or a new mainboard.
func (m Marks) Other(o Marks) bool {
	differ := 0
	for _, pair := range [][2]string{{m.MachineID, o.MachineID}, {m.Board, o.Board}} {
		if pair[0] == "" || pair[1] == "" {
			continue
		}
		if pair[0] == pair[1] {
			return false
		}
		differ++
	}
	if len(m.MACs) > 0 && len(o.MACs) > 0 {
		if slices.ContainsFunc(m.MACs, func(mac string) bool { return slices.Contains(o.MACs, mac) }) {
			return false
		}
		differ++
	}
	return differ >= 2
}

func (m Marks) equal(o Marks) bool {
	return m.MachineID == o.MachineID && m.Board == o.Board && slices.Equal(m.MACs, o.MACs)
}

// ErrCopied refuses a key that belongs to another machine.
var ErrCopied = errors.New("this disk looks copied from another machine")

// BindMachine compares a machine's marks with those kept at path beside the key, and keeps them. The error wraps ErrCopied
// when the key was made on another machine. Marks that are missing or damaged are made anew; known is false then.
func BindMachine(path string, now Marks) (known bool, err error) {
	was, err := readBinding(path)
	switch {
	case err == nil && was.Other(now):
		return true, fmt.Errorf("%w: %s is bound to machine %s, and this is machine %s", ErrCopied, path, was.short(), now.short())
	case err == nil && was.equal(now):
		return true, nil
	}
	return err == nil, RebindMachine(path, now)
}

// RebindMachine binds a key to this machine, whatever it was bound to before.
func RebindMachine(path string, now Marks) error {
	body, err := json.MarshalIndent(now, "", "  ")
	if err != nil {
		return fmt.Errorf("bind the node to this machine: %w", err)
	}
	if err := writeDurably(path, Seal(append(body, '\n'))); err != nil {
		return fmt.Errorf("bind the node to this machine: %w", err)
	}
	return nil
}

func readBinding(path string) (Marks, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Marks{}, err
	}
	return decodeMarks(text)
}

func decodeMarks(text []byte) (Marks, error) {
	var m Marks
	body, sealed, err := Unseal(text)
	if err == nil && !sealed {
		err = ErrSeal
	}
	if err == nil {
		err = json.Unmarshal(body, &m)
	}
	return m, err
}

func (m Marks) short() string {
	for _, s := range append([]string{m.MachineID, m.Board}, m.MACs...) {
		if s != "" {
			return s
		}
	}
	return "unknown"
}
