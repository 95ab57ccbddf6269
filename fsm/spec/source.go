package spec

import (
	"sort"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// source finds nodes in the text they were read from. The parser tells where a node begins; where it ends is worked out here.
// It may be wrong on exotic YAML; whoever edits by it checks the result by reading it again.
type source struct {
	text  string
	lines []int // where each line begins, by the parser's own idea of line ends
}

func newSource(text string) *source {
	s := &source{text: text}
	start := 0
	if strings.HasPrefix(text, byteOrderMark) {
		start = len(byteOrderMark)
	}
	s.lines = append(s.lines, start)
	for i := start; i < len(text); {
		n := lineEnd(text[i:])
		if n > 0 {
			s.lines = append(s.lines, i+n)
		}
		i += max(1, n)
	}
	return s
}

// lineEnd is the length of the line end that a text begins with; 0 for none.
func lineEnd(s string) int {
	switch {
	case strings.HasPrefix(s, "\r\n"), strings.HasPrefix(s, "\u0085"):
		return 2
	case strings.HasPrefix(s, "\n"), strings.HasPrefix(s, "\r"):
		return 1
	case strings.HasPrefix(s, "\u2028"), strings.HasPrefix(s, "\u2029"):
		return 3
	}
	return 0
}

// start is where a node begins, its tag and anchor included; the end of the text when the node's position makes no sense.
func (s *source) start(n *yaml.Node) int {
	if n.Line < 1 || n.Line > len(s.lines) {
		return len(s.text)
	}
	i := s.lines[n.Line-1]
	for range n.Column - 1 {
		if i >= len(s.text) {
			break
		}
		_, w := utf8.DecodeRuneInString(s.text[i:])
		i += w
	}
	return i
}

func (s *source) lineAt(offset int) int {
	return sort.SearchInts(s.lines, offset+1) - 1
}

// lineStart is where the line of an offset begins, lineStop where its last visible character can be, nextLine where the next begins.
func (s *source) lineStart(offset int) int { return s.lines[max(0, s.lineAt(offset))] }

func (s *source) nextLine(offset int) int {
	if i := s.lineAt(offset) + 1; i < len(s.lines) {
		return s.lines[i]
	}
	return len(s.text)
}

func (s *source) lineStop(offset int) int {
	next := s.nextLine(offset)
	line := s.text[s.lineStart(offset):next]
	for i := range line {
		if lineEnd(line[i:]) > 0 {
			return s.lineStart(offset) + i
		}
	}
	return next
}

// column counts characters from the beginning of the line.
func (s *source) column(offset int) int {
	return utf8.RuneCountInString(s.text[s.lineStart(offset):offset])
}

// skipSpace goes on over blanks, line ends and comments.
func (s *source) skipSpace(i int) int {
	for i < len(s.text) {
		switch n := lineEnd(s.text[i:]); {
		case n > 0:
			i += n
		case s.text[i] == ' ' || s.text[i] == '\t':
			i++
		case s.text[i] == '#' && (i == 0 || strings.ContainsRune(" \t\n\r,[]{}", rune(s.text[i-1]))):
			i = s.lineStop(i)
		default:
			return i
		}
	}
	return i
}

// skipProperties goes on over a tag and an anchor.
func (s *source) skipProperties(i int) int {
	for i < len(s.text) && (s.text[i] == '!' || s.text[i] == '&') {
		for i < len(s.text) && s.text[i] != ' ' && s.text[i] != '\t' && lineEnd(s.text[i:]) == 0 && !strings.ContainsRune(",[]{}", rune(s.text[i])) {
			i++
		}
		next := s.skipSpace(i)
		if next >= len(s.text) || next == i {
			return next
		}
		i = next
	}
	return i
}

// end is where a node ends: behind its last character, without blanks, comments or line ends that follow.
func (s *source) end(n *yaml.Node) int {
	i := s.start(n)
	switch n.Kind {
	case yaml.AliasNode:
		return min(len(s.text), i+1+len(n.Value))
	case yaml.ScalarNode:
		return s.scalarEnd(n, i)
	}
	if n.Style&yaml.FlowStyle != 0 {
		return s.flowEnd(n, i)
	}
	if n.Kind == yaml.MappingNode && len(n.Content) > 1 {
		return s.pairEnd(n.Content[len(n.Content)-2], n.Content[len(n.Content)-1])
	}
	if len(n.Content) > 0 {
		return s.end(n.Content[len(n.Content)-1])
	}
	return i
}

// pairEnd is where a key with its value ends. The parser places a value that is not there at whatever comes next.
func (s *source) pairEnd(key, val *yaml.Node) int {
	if val.Kind == yaml.ScalarNode && val.Value == "" && isPlain(val) && val.Anchor == "" && val.Style&yaml.TaggedStyle == 0 {
		return s.afterColon(key)
	}
	return s.end(val)
}

// afterColon is the place behind the colon that follows a key, or behind the key if none does.
func (s *source) afterColon(key *yaml.Node) int {
	i := s.end(key)
	if c := s.skipSpace(i); c < len(s.text) && s.text[c] == ':' {
		return c + 1
	}
	return i
}

func (s *source) scalarEnd(n *yaml.Node, i int) int {
	before := i
	if n.Anchor != "" || n.Style&yaml.TaggedStyle != 0 || i < len(s.text) && s.text[i] == '!' {
		i = s.skipProperties(i)
	}
	switch {
	case n.Style&yaml.DoubleQuotedStyle != 0:
		return s.quoteEnd(i, '"')
	case n.Style&yaml.SingleQuotedStyle != 0:
		return s.quoteEnd(i, '\'')
	case n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		return s.blockTextEnd(n, i)
	case n.Value == "":
		// The properties alone, without the space that was skipped after them.
		for i > before && (s.text[i-1] == ' ' || s.text[i-1] == '\t' || s.text[i-1] == '\n' || s.text[i-1] == '\r') {
			i--
		}
		return i
	}
	return s.plainEnd(n.Value, i)
}

func (s *source) quoteEnd(i int, quote byte) int {
	for i++; i < len(s.text); i++ {
		switch {
		case quote == '"' && s.text[i] == '\\':
			i++
		case s.text[i] == quote && quote == '\'' && i+1 < len(s.text) && s.text[i+1] == quote:
			i++
		case s.text[i] == quote:
			return i + 1
		}
	}
	return len(s.text)
}

// plainEnd follows the text of a plain scalar. Folding changes only its white space, so the visible characters lead.
func (s *source) plainEnd(value string, i int) int {
	end := i
	for _, r := range value {
		if strings.ContainsRune(" \t\n\r\u0085\u2028\u2029", r) {
			continue
		}
		for i < len(s.text) {
			got, w := utf8.DecodeRuneInString(s.text[i:])
			i += w
			if got == r {
				end = i
				break
			}
		}
	}
	return end
}

// blockTextEnd is the end of the last line with text in it of a literal (|) or folded (>) scalar.
func (s *source) blockTextEnd(n *yaml.Node, i int) int {
	end := s.lineStop(i)
	if strings.TrimLeft(n.Value, "\n ") == "" {
		return end
	}
	indent := -1
	for next := s.nextLine(i); next < len(s.text); next = s.nextLine(next) {
		line := s.text[next:s.lineStop(next)]
		text := strings.TrimLeft(line, " ")
		have := len(line) - len(text)
		if text == "" {
			continue
		}
		if indent < 0 {
			indent = have
		}
		if have < indent {
			break
		}
		end = next + len(line)
	}
	return end
}

func (s *source) flowEnd(n *yaml.Node, i int) int {
	i = s.skipProperties(i)
	open := i < len(s.text) && (s.text[i] == '{' || s.text[i] == '[')
	end := min(len(s.text), i+1)
	switch c := n.Content; {
	case n.Kind == yaml.MappingNode && len(c) > 1:
		end = max(i, s.pairEnd(c[len(c)-2], c[len(c)-1]))
	case len(c) > 0:
		end = max(i, s.end(c[len(c)-1]))
	}
	if n.Kind == yaml.MappingNode && !open { // a single pair in a list: [a: 1]
		return end
	}
	for end < len(s.text) {
		end = s.skipSpace(end)
		if end < len(s.text) && (s.text[end] == ']' || s.text[end] == '}') {
			return end + 1
		}
		if end < len(s.text) && !strings.ContainsRune(",:?", rune(s.text[end])) {
			return end
		}
		end++
	}
	return min(end, len(s.text))
}
