package main

import (
	"fmt"
	"unicode/utf8"
)

// sanitizer lets a job's output through to a terminal, but no sequence that could do more than colour it: no cursor
// moves, titles, clipboard writes or queries. Those are shown as text. Line feeds, carriage returns and tabs work as ever,
// so progress bars do.
type sanitizer struct {
	held     []byte // the beginning of a sequence or character whose end has not come
	coloured bool   // a colour got through, so the terminal may still be in it at the end
}

// maxSequence bounds a sequence, and so what is held back; a colour is never as long.
const maxSequence = 64

// clean gives what of the held and the new bytes can be printed.
func (s *sanitizer) clean(b []byte) []byte {
	in := append(s.held, b...)
	s.held = nil
	out := make([]byte, 0, len(in)+16)
	for i := 0; i < len(in); {
		n, text, whole := next(in[i:])
		if !whole {
			s.held = append([]byte(nil), in[i:]...)
			break
		}
		s.coloured = s.coloured || n > 1 && text[0] == 0x1b
		out = append(out, text...)
		i += n
	}
	return out
}

// rest gives what was held back, harmless, and ends the colours.
func (s *sanitizer) rest() []byte {
	var out []byte
	for i := 0; i < len(s.held); {
		n, text, _ := next(s.held[i:])
		out = append(out, text...)
		i += n
	}
	if s.coloured {
		out = append(out, "\x1b[0m"...)
	}
	s.held, s.coloured = nil, false
	return out
}

// next reads one character or colour. It is not whole when more bytes could change what it is.
func next(b []byte) (n int, text []byte, whole bool) {
	switch c := b[0]; {
	case c == '\n' || c == '\r' || c == '\t':
		return 1, b[:1], true
	case c == 0x1b:
		return colour(b)
	case c < ' ' || c == 0x7f:
		return 1, fmt.Appendf(nil, "\\x%02x", c), true
	case c < utf8.RuneSelf:
		return 1, b[:1], true
	}
	if !utf8.FullRune(b) {
		return 1, fmt.Appendf(nil, "\\x%02x", b[0]), false
	}
	r, size := utf8.DecodeRune(b)
	switch {
	case r == utf8.RuneError && size == 1:
		return 1, fmt.Appendf(nil, "\\x%02x", b[0]), true
	case r >= 0x80 && r < 0xa0: // C1 controls: some terminals obey them
		return size, fmt.Appendf(nil, "\\u%04x", r), true
	}
	return size, b[:size], true
}

// colour reads ESC [ digits m; anything else that begins with ESC loses its power.
func colour(b []byte) (n int, text []byte, whole bool) {
	powerless := []byte("\\x1b")
	if len(b) == 1 {
		return 1, powerless, false
	}
	if b[1] != '[' {
		return 1, powerless, true
	}
	// What is as long is no colour, wherever the pieces of output end.
	for i := 2; i < min(len(b), maxSequence); i++ {
		switch c := b[i]; {
		case c == 'm':
			return i + 1, b[:i+1], true
		case c >= '0' && c <= '9' || c == ';' || c == ':':
		default:
			return 1, powerless, true
		}
	}
	return 1, powerless, len(b) >= maxSequence
}
