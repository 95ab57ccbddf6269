package trainer

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
)

// ErrDamaged is under the error of a checkpoint whose bytes are not what was written.
var ErrDamaged = errors.New("damaged checkpoint")

// position is how far a run has come, in the middle of an epoch too.
type position struct {
	Epoch   int     `json:"epoch"`    // epochs completed
	Batch   int     `json:"batch"`    // batches done of the epoch after them
	Order   []int   `json:"order"`    // in which the samples are met in this epoch
	LossSum float64 `json:"loss_sum"` // over the samples met in this epoch
	Correct int     `json:"correct"`  // among them
	History []Row   `json:"history"`
}

// checkpoint is all that the rest of a run depends on.
type checkpoint struct {
	Widths    []int    `json:"widths"`
	Optimizer string   `json:"optimizer"`
	BatchSize int      `json:"batch_size"`
	At        position `json:"at"`
	RNG       []byte   `json:"rng"`

	tensors [][]float64 // parameters, then the optimizer's state
}

// The file: magic, length of the header (4 bytes), header in JSON, the tensors' numbers, SHA-256 of all before it. Little endian.
const (
	checkpointMagic = "cvlabck1"
	headerAt        = len(checkpointMagic) + 4
)

type checkpointHeader struct {
	checkpoint
	Lengths []int `json:"lengths"` // of the tensors
}

func (c checkpoint) encode() ([]byte, error) {
	h := checkpointHeader{checkpoint: c}
	for _, t := range c.tensors {
		h.Lengths = append(h.Lengths, len(t))
	}
	header, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode the checkpoint: %w", err)
	}
	out := binary.LittleEndian.AppendUint32([]byte(checkpointMagic), uint32(len(header)))
	out = append(out, header...)
	for _, t := range c.tensors {
		for _, v := range t {
			out = binary.LittleEndian.AppendUint64(out, math.Float64bits(v))
		}
	}
	sum := sha256.Sum256(out)
	return append(out, sum[:]...), nil
}

// decodeCheckpoint checks the sum before it looks at anything else. Errors wrap ErrDamaged and say what is wrong.
func decodeCheckpoint(data []byte) (checkpoint, error) {
	if len(data) < headerAt+sha256.Size || string(data[:len(checkpointMagic)]) != checkpointMagic {
		return checkpoint{}, fmt.Errorf("%w: it does not begin as one, or is cut short", ErrDamaged)
	}
	body, sum := data[:len(data)-sha256.Size], data[len(data)-sha256.Size:]
	if want := sha256.Sum256(body); !bytes.Equal(sum, want[:]) {
		return checkpoint{}, fmt.Errorf("%w: its checksum does not match", ErrDamaged)
	}
	size := uint64(binary.LittleEndian.Uint32(body[len(checkpointMagic):]))
	rest := body[headerAt:]
	if size > uint64(len(rest)) {
		return checkpoint{}, fmt.Errorf("%w: its header is longer than the file", ErrDamaged)
	}
	var h checkpointHeader
	if err := json.Unmarshal(rest[:size], &h); err != nil {
		return checkpoint{}, fmt.Errorf("%w: its header is not readable: %w", ErrDamaged, err)
	}
	numbers := rest[size:]
	for _, n := range h.Lengths {
		if n < 0 || n > len(numbers)/8 {
			return checkpoint{}, fmt.Errorf("%w: it holds fewer numbers than its header says", ErrDamaged)
		}
		t := make([]float64, n)
		for i := range t {
			t[i] = math.Float64frombits(binary.LittleEndian.Uint64(numbers[8*i:]))
		}
		h.tensors, numbers = append(h.tensors, t), numbers[8*n:]
	}
	if len(numbers) > 0 {
		return checkpoint{}, fmt.Errorf("%w: it holds more numbers than its header says", ErrDamaged)
	}
	return h.checkpoint, nil
}

// fits says why the position cannot be one of a run over n samples in batches batches, or nil.
func (p position) fits(n, batches int) error {
	if p.Epoch < 0 || p.Batch < 0 || p.Batch >= batches || len(p.History) != p.Epoch || p.Correct < 0 {
		return fmt.Errorf("%w: it stands at an impossible place, epoch %d, batch %d", ErrDamaged, p.Epoch, p.Batch)
	}
	sorted := slices.Sorted(slices.Values(p.Order))
	for i, v := range sorted {
		if i != v {
			return fmt.Errorf("%w: its order of samples is not one", ErrDamaged)
		}
	}
	if len(sorted) != n {
		return fmt.Errorf("it was made with %d samples to train on, this program has %d", len(sorted), n)
	}
	return nil
}
