package mesh

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
)

type note struct {
	From string `json:"from"`
	N    int    `json:"n"`
}

func TestFramesFollowEachOther(t *testing.T) {
	var stream bytes.Buffer
	sent := []note{{"a", 1}, {"b", -2}, {strings.Repeat("x", 5000), 3}}
	for _, n := range sent {
		if err := WriteFrame(&stream, n); err != nil {
			t.Fatal(err)
		}
	}
	stream.WriteString("rest")
	for _, want := range sent {
		var got note
		if err := ReadFrame(&stream, 8<<10, &got); err != nil || got != want {
			t.Fatalf("got %+v, %v, want %+v", got, err, want)
		}
	}
	if got := stream.String(); got != "rest" {
		t.Errorf("after the frames %q is left, want %q", got, "rest")
	}
}

func TestReadFrameRefuses(t *testing.T) {
	tests := []struct {
		name   string
		stream []byte
		want   error // nil: any
	}{
		{"end of the stream", nil, io.EOF},
		{"half a header", []byte{0, 0}, io.ErrUnexpectedEOF},
		{"header alone", []byte{0, 0, 0, 9}, io.ErrUnexpectedEOF},
		{"half a body", []byte{0, 0, 0, 9, '{'}, io.ErrUnexpectedEOF},
		{"one byte over the limit", frameOf(bytes.Repeat([]byte{' '}, 101)), ErrFrameTooLarge},
		{"empty body", frameOf(nil), io.ErrUnexpectedEOF},
		{"unknown field", frameOf([]byte(`{"from":"a","role":"admin"}`)), nil},
		{"two values", frameOf([]byte(`{"from":"a"} {}`)), nil},
		{"text behind", frameOf([]byte(`{"from":"a"} x`)), nil},
		{"wrong type", frameOf([]byte(`{"from":1}`)), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var n note
			err := ReadFrame(bytes.NewReader(tt.stream), 100, &n)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if tt.want != io.EOF && errors.Is(err, io.EOF) {
				t.Errorf("a damaged frame looks like a proper end: %v", err)
			}
		})
	}
}

// A peer that announces much and sends little must not cost memory.
func TestAnnouncedLengthAllocatesNothing(t *testing.T) {
	stream := []byte{0x3f, 0xff, 0xff, 0xff, '{'} // 1 GiB
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 10 {
		var n note
		if err := ReadFrame(bytes.NewReader(stream), math.MaxInt32, &n); err == nil {
			t.Fatal("half a frame was read")
		}
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 {
		t.Errorf("10 frames of one byte took %d bytes of memory", grown)
	}
}

func TestWriteFrameIsOneWrite(t *testing.T) {
	var w countingWriter
	if err := WriteFrame(&w, note{"a", 1}); err != nil || w != 1 {
		t.Errorf("%d writes, %v", w, err)
	}
	if err := WriteFrame(&w, func() {}); err == nil || w != 1 {
		t.Errorf("a value without JSON: %d writes, %v", w, err)
	}
}

type countingWriter int

func (w *countingWriter) Write(b []byte) (int, error) {
	*w++
	return len(b), nil
}

func FuzzReadFrame(f *testing.F) {
	f.Add(frameOf([]byte(`{"cluster":"lab","epoch":1,"protocol":"raft"}`)))
	f.Add(frameOf([]byte(`{"epoch":1e30}`)))
	f.Add(frameOf(bytes.Repeat([]byte{'['}, 4000)))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := bytes.NewReader(stream)
		var h hello
		if err := ReadFrame(r, helloLimit, &h); err != nil {
			return
		}
		if read := len(stream) - r.Len(); read > helloLimit+frameHeader {
			t.Fatalf("%d bytes were read", read)
		}
		var again hello
		body, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		if err := ReadFrame(bytes.NewReader(frameOf(body)), 1<<20, &again); err != nil || again != h {
			t.Fatalf("read %+v, written and read again %+v, %v", h, again, err)
		}
	})
}
