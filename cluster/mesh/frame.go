package mesh

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
)

// frameHeader is the size of the length in front of a frame, in bytes, big endian.
const frameHeader = 4

// ErrFrameTooLarge says that a peer announced a frame beyond the reader's limit. The stream cannot be read further.
var ErrFrameTooLarge = errors.New("frame is larger than allowed")

// WriteFrame writes v as JSON behind its length, in one Write, so that a small frame is one packet.
func WriteFrame(w io.Writer, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode frame: %w", err)
	}
	if uint64(len(body)) > math.MaxUint32 {
		return fmt.Errorf("encode frame of %d bytes: %w", len(body), ErrFrameTooLarge)
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, frameHeader+len(body)), uint32(len(body)))
	if _, err := w.Write(append(frame, body...)); err != nil {
		return fmt.Errorf("write frame: %w", err)
	}
	return nil
}

// ReadFrame reads one frame of at most limit bytes of JSON into v and not a byte more of r. Unknown fields and anything
// behind the value are errors. Memory grows with the bytes that arrive, not with the length announced. The error wraps
// io.EOF only when r ended before the frame began.
func ReadFrame(r io.Reader, limit int, v any) error {
	var header [frameHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return fmt.Errorf("read frame: %w", err)
	}
	size := int64(binary.BigEndian.Uint32(header[:]))
	if size > int64(limit) {
		return fmt.Errorf("read frame of %d bytes, at most %d: %w", size, limit, ErrFrameTooLarge)
	}
	var body bytes.Buffer
	if _, err := io.CopyN(&body, r, size); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read frame of %d bytes: %w", size, err)
	}
	d := json.NewDecoder(&body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("decode frame: %w", noEOF(err))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("decode frame: more than one value")
	}
	return nil
}

// noEOF keeps the end of a frame's body from looking like the end of the stream.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
