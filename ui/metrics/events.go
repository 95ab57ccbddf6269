package metrics

import (
	"encoding/binary"
	"hash/crc32"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// eventReader reads a TensorBoard event file: records of length, checksum, body, checksum. A body is the protocol buffer
// tensorflow.Event (tensorflow/core/util/event.proto); only scalars are of interest.
type eventReader struct {
	rest    []byte
	skip    uint64 // bytes of a record too long to look into
	damaged bool
	keys    keySet
}

const (
	// maxRecord is the size of a record that is looked into, in bytes; images and graphs are longer and are skipped.
	maxRecord = 4 << 20
	// A record begins with its length (8 bytes) and the length's checksum (4), and ends with the body's checksum (4).
	recordHead, recordTail = 12, 4
)

// Feed takes the next bytes of the file. After a damaged record nothing more is read: without its length there is no next one.
func (r *eventReader) Feed(data []byte, sink Sink) {
	if r.damaged {
		return
	}
	if n := min(r.skip, uint64(len(data))); n > 0 {
		r.skip -= n
		data = data[n:]
	}
	r.rest = append(r.rest, data...)
	in := r.rest
	for len(in) >= recordHead {
		length := binary.LittleEndian.Uint64(in)
		if binary.LittleEndian.Uint32(in[8:]) != maskedCRC(in[:8]) {
			r.damaged = true
			break
		}
		if length > maxRecord {
			whole := length + recordHead + recordTail
			if whole < length { // no file is so long
				r.damaged = true
				break
			}
			n := min(whole, uint64(len(in)))
			r.skip, in = whole-n, in[n:]
			continue
		}
		whole := recordHead + int(length) + recordTail
		if len(in) < whole {
			break
		}
		body := in[recordHead : recordHead+int(length)]
		if binary.LittleEndian.Uint32(in[whole-recordTail:]) == maskedCRC(body) {
			r.event(body, sink) // one flipped body is one event lost
		}
		in = in[whole:]
	}
	if r.damaged {
		r.rest = nil
		return
	}
	r.rest = append(r.rest[:0], in...)
}

// Flush does nothing: a record that is cut off cannot be read.
func (r *eventReader) Flush(Sink) {}

// Dropped says how many values were left out because the file has too many series.
func (r *eventReader) Dropped() int { return r.keys.dropped }

// maskedCRC is TFRecord's checksum (tensorflow/core/lib/hash/crc32c.h).
func maskedCRC(data []byte) uint32 {
	crc := crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))
	return (crc>>15 | crc<<17) + 0xa282ead8
}

// The field numbers of Event, Summary, Summary.Value and TensorProto.
const (
	eventWall, eventStep, eventSummary                    = 1, 2, 5
	summaryValue                                          = 1
	valueTag, valueSimple, valueTensor                    = 1, 2, 8
	tensorDtype, tensorContent, tensorFloat, tensorDouble = 1, 4, 5, 6
	dtFloat, dtDouble                                     = 1, 2
)

func (r *eventReader) event(body []byte, sink Sink) {
	p := Point{Wall: noTime()}
	var summaries [][]byte
	ok := fields(body, func(num protowire.Number, v field) {
		switch num {
		case eventWall:
			p.Wall = math.Float64frombits(v.fixed)
		case eventStep:
			p.Step = float64(int64(v.varint))
		case eventSummary:
			summaries = append(summaries, v.bytes)
		}
	})
	if !ok {
		return
	}
	for _, s := range summaries {
		fields(s, func(num protowire.Number, v field) {
			if num == summaryValue {
				r.value(v.bytes, p, sink)
			}
		})
	}
}

func (r *eventReader) value(body []byte, p Point, sink Sink) {
	tag, found := "", false
	ok := fields(body, func(num protowire.Number, v field) {
		switch {
		case num == valueTag:
			tag = string(v.bytes)
		case num == valueSimple && v.kind == protowire.Fixed32Type:
			p.Value, found = float64(math.Float32frombits(uint32(v.fixed))), true
		case num == valueTensor:
			p.Value, found = scalar(v.bytes)
		}
	})
	if ok && found && !math.IsNaN(p.Value) && r.keys.allows(tag) {
		sink(tag, p)
	}
}

// scalar reads a tensor of one number, in which TensorBoard 2 writes scalars.
func scalar(body []byte) (v float64, found bool) {
	dtype := uint64(0)
	var content []byte
	ok := fields(body, func(num protowire.Number, f field) {
		switch num {
		case tensorDtype:
			dtype = f.varint
		case tensorContent:
			content = f.bytes
		case tensorFloat:
			if f.kind == protowire.Fixed32Type {
				v, found = float64(math.Float32frombits(uint32(f.fixed))), true
			} else if len(f.bytes) == 4 {
				v, found = float64(math.Float32frombits(binary.LittleEndian.Uint32(f.bytes))), true
			}
		case tensorDouble:
			if f.kind == protowire.Fixed64Type {
				v, found = math.Float64frombits(f.fixed), true
			} else if len(f.bytes) == 8 {
				v, found = math.Float64frombits(binary.LittleEndian.Uint64(f.bytes)), true
			}
		}
	})
	switch {
	case !ok:
		return 0, false
	case dtype == dtFloat && len(content) == 4:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(content))), true
	case dtype == dtDouble && len(content) == 8:
		return math.Float64frombits(binary.LittleEndian.Uint64(content)), true
	}
	return v, found
}

// field is one field of a protocol buffer, in the form its wire type gives.
type field struct {
	kind   protowire.Type
	varint uint64
	fixed  uint64
	bytes  []byte
}

// fields calls each for every field; it says whether the whole body could be read.
func fields(body []byte, each func(protowire.Number, field)) bool {
	for len(body) > 0 {
		num, kind, n := protowire.ConsumeTag(body)
		if n < 0 {
			return false
		}
		body = body[n:]
		f := field{kind: kind}
		switch kind {
		case protowire.VarintType:
			f.varint, n = protowire.ConsumeVarint(body)
		case protowire.Fixed64Type:
			f.fixed, n = protowire.ConsumeFixed64(body)
		case protowire.Fixed32Type:
			var v uint32
			v, n = protowire.ConsumeFixed32(body)
			f.fixed = uint64(v)
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(body)
		default:
			n = protowire.ConsumeFieldValue(num, kind, body)
		}
		if n < 0 {
			return false
		}
		body = body[n:]
		each(num, f)
	}
	return true
}
