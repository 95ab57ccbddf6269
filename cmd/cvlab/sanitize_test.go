package main

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

func cleanAll(pieces ...string) string {
	s := &sanitizer{}
	var out []byte
	for _, p := range pieces {
		out = append(out, s.clean([]byte(p))...)
	}
	return string(append(out, s.rest()...))
}

// hostile is output as a job could print it to harm who reads it, and what a terminal may see of it.
func hostile() []struct{ name, in, want string } {
	long := strings.Repeat("1;", 200)
	return []struct{ name, in, want string }{
		{"text", "Epoch [1/5] ✓ 한국어\n", "Epoch [1/5] ✓ 한국어\n"},
		{"progress bar", "\r 10%|█ |\r 20%|██|\n\tdone", "\r 10%|█ |\r 20%|██|\n\tdone"},
		{"colours", "\x1b[31mred\x1b[0m \x1b[1;38;5;208mbold\x1b[m", "\x1b[31mred\x1b[0m \x1b[1;38;5;208mbold\x1b[m\x1b[0m"},
		{"colour with colons", "\x1b[38:2::1:2:3mx", "\x1b[38:2::1:2:3mx\x1b[0m"},
		{"clipboard", "\x1b]52;c;cm0gLXJmIH4=\x07", `\x1b]52;c;cm0gLXJmIH4=\x07`},
		{"title", "\x1b]0;root@db\x1b\\", `\x1b]0;root@db\x1b\`},
		{"link", "\x1b]8;;http://evil\x1b\\x", `\x1b]8;;http://evil\x1b\x`},
		{"cursor and clear", "\x1b[2J\x1b[H\x1b[1A\x1b[K", `\x1b[2J\x1b[H\x1b[1A\x1b[K`},
		{"alternate screen", "\x1b[?1049h", `\x1b[?1049h`},
		{"query", "\x1b[6n\x1b[c\x1b[>0q", `\x1b[6n\x1b[c\x1b[>0q`},
		{"device strings", "\x1bPq#0\x1b\\\x1b_x\x1b\\\x1b^y", `\x1bPq#0\x1b\\x1b_x\x1b\\x1b^y`},
		{"reset", "\x1bc", `\x1bc`},
		{"private colour", "\x1b[>4;2m", `\x1b[>4;2m`},
		{"escape before a colour", "\x1b\x1b[31m", "\\x1b\x1b[31m\x1b[0m"},
		{"C1 as UTF-8", "\u009b2J\u009d0;t\u009c", `\u009b2J\u009d0;t\u009c`},
		{"C1 as bytes", "\x9b2J\x9d", `\x9b2J\x9d`},
		{"other controls", "a\x00b\x07c\x08d\x0be\x0ff\x7f", `a\x00b\x07c\x08d\x0be\x0ff\x7f`},
		{"bad UTF-8", "\xff\xc3(\xe2\x82", `\xff\xc3(\xe2\x82`},
		{"unfinished colour", "x\x1b[31", `x\x1b[31`},
		{"lone escape", "x\x1b", `x\x1b`},
		{"endless colour", "\x1b[" + long + "m", `\x1b[` + long + "m"},
	}
}

func TestSanitizer(t *testing.T) {
	for _, c := range hostile() {
		t.Run(c.name, func(t *testing.T) {
			if got := cleanAll(c.in); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

// Output comes in pieces that end anywhere; what is seen must not depend on where.
func TestSanitizerInPieces(t *testing.T) {
	for _, c := range hostile() {
		for i := range len(c.in) + 1 {
			if got := cleanAll(c.in[:i], c.in[i:]); got != c.want {
				t.Fatalf("%s, split at byte %d: got %q, want %q", c.name, i, got, c.want)
			}
		}
		if got := cleanAll(strings.Split(c.in, "")...); got != c.want {
			t.Errorf("%s, rune by rune: got %q, want %q", c.name, got, c.want)
		}
	}
}

// What can be printed at once is printed at once: a progress bar must not lag behind.
func TestSanitizerHoldsNothingBackWithoutNeed(t *testing.T) {
	s := &sanitizer{}
	if got := string(s.clean([]byte("50%\x1b[31m|"))); got != "50%\x1b[31m|" {
		t.Errorf("got %q at once", got)
	}
	for range 1000 {
		s.clean([]byte("\x1b[1;1;1;1;1;"))
		if len(s.held) >= maxSequence {
			t.Fatalf("%d bytes are held back", len(s.held))
		}
	}
}

func FuzzSanitizer(f *testing.F) {
	for _, c := range hostile() {
		f.Add([]byte(c.in), uint16(len(c.in)/2), uint16(3))
	}
	sgr := regexp.MustCompile(`\x1b\[[0-9;:]*m`)
	f.Fuzz(func(t *testing.T, in []byte, a, b uint16) {
		whole := cleanAll(string(in))
		for i, r := range sgr.ReplaceAllString(whole, "") {
			if r == 0x1b || r < ' ' && r != '\n' && r != '\r' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
				t.Fatalf("%q lets %q through at %d", in, r, i)
			}
		}
		i := min(int(a), len(in))
		j := min(i+int(b), len(in))
		if got := cleanAll(string(in[:i]), string(in[i:j]), string(in[j:])); got != whole {
			t.Fatalf("%q in pieces at %d and %d gives %q, as a whole %q", in, i, j, got, whole)
		}
		if !utf8.ValidString(whole) {
			t.Fatalf("%q gives invalid UTF-8 %q", in, whole)
		}
	})
}
