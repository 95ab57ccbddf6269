package metrics

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
)

// readAll feeds data in pieces of a size and lists what came out.
func readAll(r reader, data []byte, piece int) []string {
	var got []string
	sink := func(key string, p Point) {
		line := fmt.Sprintf("%s %v %v", key, p.Step, p.Value)
		if !math.IsNaN(p.Wall) {
			line += fmt.Sprintf(" at %.3f", p.Wall)
		}
		got = append(got, line)
	}
	for chunk := range slices.Chunk(data, piece) {
		r.Feed(chunk, sink)
	}
	r.Flush(sink)
	return got
}

func TestReaders(t *testing.T) {
	for _, c := range []struct {
		name, file, text string
		want             []string
	}{
		{"cvlab-kit", "a.csv", "step,train_loss,accuracy,val_loss\n1,0.41784166800789535,0.6666666666666666,0.519289321359247\n21,0.0053,,\n",
			[]string{"train_loss 1 0.41784166800789535", "accuracy 1 0.6666666666666666", "val_loss 1 0.519289321359247", "train_loss 21 0.0053"}},
		{"no newline at the end", "a.csv", "step,loss\r\n1,2\r\n2,3", []string{"loss 1 2", "loss 2 3"}},
		{"no step", "a.csv", "loss,acc\n2,0.5\n\n1,0.75\n", []string{"loss 1 2", "acc 1 0.5", "loss 2 1", "acc 2 0.75"}},
		{"epoch and time", "a.csv", "epoch,timestamp,loss\n3,2026-03-01 12:00:00.5,2\n4,1772366401500,1\n",
			[]string{"loss 3 2 at 1772366400.500", "loss 4 1 at 1772366401.500"}},
		{"epoch beside step", "a.csv", "step,epoch,loss\n100,1,2\n", []string{"epoch 100 1", "loss 100 2"}},
		{"text, NaN, infinity, booleans", "a.csv", "step,a,b,c,d,e\n1,nan,inf,adam,True,-inf\n", []string{"b 1 +Inf", "d 1 1", "e 1 -Inf"}},
		{"quoted", "a.csv", "step,\"loss, train\",\"a \"\"b\"\"\"\n1,\"2\",3\n", []string{"loss, train 1 2", `a "b" 1 3`}},
		{"a row that says no step", "a.csv", "step,loss\n,1\nx,2\n3,3\n", []string{"loss 3 3"}},
		{"short and long rows", "a.csv", "step,a,b\n1,2\n2,3,4,5\n", []string{"a 1 2", "a 2 3", "b 2 4"}},
		{"only a header", "a.csv", "step,loss\n", nil},
		{"binary", "a.csv", "step,loss\n\x00\x01,2\n3,4\n", []string{"loss 3 4"}},
		{"JSON lines", "metrics.jsonl", `{"step": 5, "loss": 0.5, "lr": {"a": 1e-3}, "name": "x", "ok": true, "_timestamp": 1772366400}` + "\nnot json\n" + `{"loss": 0.25, "n": null, "l": [1]}` + "\n",
			[]string{"loss 5 0.5 at 1772366400.000", "lr/a 5 0.001 at 1772366400.000", "ok 5 1 at 1772366400.000", "loss 2 0.25"}},
		{"JSON infinities", "m.jsonl", `{"a": "Infinity", "b": "-inf"}`, []string{"a 1 +Inf", "b 1 -Inf"}},
		{"no object", "m.jsonl", "[1,2]\n3\nnull\n", nil},
		{"TensorBoard", "events.out.tfevents.1.host", string(eventFile(
			event(1772366400, 0, nil), event(1772366401, 7, []scalarOf{{"loss", 0.5, false}, {"acc", 0.25, true}}), event(1772366402, 8, []scalarOf{{"loss", 0.125, false}}))),
			[]string{"loss 7 0.5 at 1772366401.000", "acc 7 0.25 at 1772366401.000", "loss 8 0.125 at 1772366402.000"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, piece := range []int{1, 7, 1 << 20} {
				if diff := cmp.Diff(c.want, readAll(newReader(c.file), []byte(c.text), piece)); diff != "" {
					t.Errorf("in pieces of %d (-want +got)\n%s", piece, diff)
				}
			}
		})
	}
}

// A table of a million columns and a line without end cost no more memory than the limits allow.
func TestLimits(t *testing.T) {
	var wide strings.Builder
	wide.WriteString("step")
	for i := range 100_000 {
		fmt.Fprintf(&wide, ",c%d", i)
	}
	wide.WriteString("\n1" + strings.Repeat(",5", 100_000) + "\n")
	r := newCSVReader()
	if got := readAll(r, []byte(wide.String()), 1<<16); len(got) != MaxKeys || r.Dropped() != 100_000-MaxKeys {
		t.Errorf("%d values, %d dropped", len(got), r.Dropped())
	}
	endless := &jsonReader{}
	got := readAll(endless, slices.Concat(bytes.Repeat([]byte("x"), 3*maxLine), []byte("\n{\"a\":1}\n")), 1<<16)
	if !cmp.Equal(got, []string{"a 1 1"}) || cap(endless.lines.rest) > 2*maxLine {
		t.Errorf("got %v, holds %d bytes", got, cap(endless.lines.rest))
	}
}

// A damaged body costs its event, a damaged length the rest, a record that is too long only itself.
func TestDamagedEvents(t *testing.T) {
	one := event(1, 1, []scalarOf{{"a", 1, false}})
	huge := bytes.Repeat([]byte{0}, maxRecord+1)
	file := eventFile(one, huge, one)
	if got := readAll(new(eventReader), file, 1000); len(got) != 2 {
		t.Errorf("around a record that is too long: %v", got)
	}
	file = eventFile(one, one, one)
	size := len(file) / 3
	body := bytes.Clone(file)
	body[size+recordHead+3] ^= 1
	if got := readAll(new(eventReader), body, 5); len(got) != 2 {
		t.Errorf("around a damaged body: %v", got)
	}
	length := bytes.Clone(file)
	length[size] ^= 1
	if got := readAll(new(eventReader), length, 5); len(got) != 1 {
		t.Errorf("after a damaged length: %v", got)
	}
	if got := readAll(new(eventReader), file[:len(file)-3], 5); len(got) != 2 {
		t.Errorf("of a file that was cut: %v", got)
	}
}

type scalarOf struct {
	tag    string
	value  float64
	tensor bool
}

func event(wall float64, step int64, scalars []scalarOf) []byte {
	b := protowire.AppendFixed64(protowire.AppendTag(nil, eventWall, protowire.Fixed64Type), math.Float64bits(wall))
	b = protowire.AppendVarint(protowire.AppendTag(b, eventStep, protowire.VarintType), uint64(step))
	var summary []byte
	for _, s := range scalars {
		v := protowire.AppendString(protowire.AppendTag(nil, valueTag, protowire.BytesType), s.tag)
		if s.tensor {
			tensor := protowire.AppendVarint(protowire.AppendTag(nil, tensorDtype, protowire.VarintType), dtFloat)
			content := binary.LittleEndian.AppendUint32(nil, math.Float32bits(float32(s.value)))
			tensor = protowire.AppendBytes(protowire.AppendTag(tensor, tensorContent, protowire.BytesType), content)
			v = protowire.AppendBytes(protowire.AppendTag(v, valueTensor, protowire.BytesType), tensor)
		} else {
			v = protowire.AppendFixed32(protowire.AppendTag(v, valueSimple, protowire.Fixed32Type), math.Float32bits(float32(s.value)))
		}
		summary = protowire.AppendBytes(protowire.AppendTag(summary, summaryValue, protowire.BytesType), v)
	}
	return protowire.AppendBytes(protowire.AppendTag(b, eventSummary, protowire.BytesType), summary)
}

func eventFile(bodies ...[]byte) []byte {
	var file []byte
	for _, b := range bodies {
		head := binary.LittleEndian.AppendUint64(nil, uint64(len(b)))
		file = append(file, head...)
		file = binary.LittleEndian.AppendUint32(file, maskedCRC(head))
		file = append(file, b...)
		file = binary.LittleEndian.AppendUint32(file, maskedCRC(b))
	}
	return file
}

func FuzzReaders(f *testing.F) {
	f.Add([]byte("step,loss\n1,2\n"), 3)
	f.Add([]byte(`{"step":1,"loss":{"a":2}}`), 5)
	f.Add(eventFile(event(1, 2, []scalarOf{{"a", 1, false}, {"b", 2, true}})), 7)
	f.Fuzz(func(t *testing.T, data []byte, piece int) {
		if piece < 1 || len(data) > 1<<16 {
			return
		}
		for _, name := range []string{"a.csv", "a.jsonl", "x.tfevents.1"} {
			// However the bytes come in, they say the same.
			if diff := cmp.Diff(readAll(newReader(name), data, len(data)+1), readAll(newReader(name), data, piece)); diff != "" {
				t.Fatalf("%s in pieces of %d\n%s", name, piece, diff)
			}
		}
	})
}

func TestProgress(t *testing.T) {
	for _, c := range []struct {
		tail   string
		epochs int
		want   Progress
		none   bool
	}{
		{tail: "\rEpoch [1/2]:  20%|██        | 1/5 [00:00<00:00,  4.27it/s, loss=0.8174]", want: Progress{1, 2, 0.1}},
		{tail: "x\rEpoch [2/2]: 100%|████| 5/5 [00:00<00:00]\n", want: Progress{2, 2, 1}},
		{tail: "\rEpoch 1 Training: 100%|██████████| 5/5 [00:00<00:00,  8.69it/s]", epochs: 4, want: Progress{1, 4, 0.25}},
		{tail: "\rEpoch 3 Training:  40%|████  | 2/5 [00:00<00:00]", want: Progress{3, 0, 0.4}},
		{tail: "Starting epoch 3/10...\n", want: Progress{3, 10, 0.2}},
		{tail: "Epoch 0/1 - Validation Metrics: accuracy: 0.6944\n", want: Progress{1, 1, 0}},
		{tail: "Epoch: 7/8 loss 0.1\nSaved checkpoint\n\n", want: Progress{7, 8, 0.75}},
		{tail: "Epoch 5 Validation Metrics: {'accuracy': 0.6}\n", epochs: 10, want: Progress{5, 10, 0.4}},
		{tail: " 30%|███       | 3/10 [00:01<00:02]", want: Progress{0, 0, 0.3}},
		{tail: " 30%|███       | 3/10 [00:01<00:02]", epochs: 10, none: true},
		{tail: "Epoch [9/2]", epochs: 0, want: Progress{}, none: true},
		{tail: "loss 0.5\n", none: true},
		{tail: "", none: true},
	} {
		got, ok := ReadProgress([]byte(c.tail), c.epochs)
		if ok == c.none || ok && (got.Epoch != c.want.Epoch || got.Epochs != c.want.Epochs || math.Abs(got.Fraction-c.want.Fraction) > 1e-9) {
			t.Errorf("%q of %d: %+v, %t; want %+v", c.tail, c.epochs, got, ok, c.want)
		}
	}
}
