package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

const byteOrderMark = "\ufeff"

// read checks a text and gives the one value that it holds, not yet expanded.
func read(text string) (*yaml.Node, error) {
	if err := checkText(text); err != nil {
		return nil, err
	}
	root, err := decode(text)
	if err != nil {
		return nil, refuse(explain(text, err))
	}
	return root, nil
}

func checkText(text string) error {
	if len(text) > MaxText {
		return refuse(Problem{
			Message: fmt.Sprintf("the config has %d bytes; the limit is %d (1 MiB)", len(text), MaxText),
			Hint:    "put large data into files that the run reads",
		})
	}
	// The library builds its tree before anybody can count; some 300 bytes a value would make 150 MB of a list of digits.
	if n := strings.Count(text, ",") + strings.Count(text, "\n"); n > 2*MaxNodes {
		return refuse(Problem{
			Message: fmt.Sprintf("the config has %d lines and commas, far more than the limit of %d values allows", n, MaxNodes),
			Hint:    "put large data into files that the run reads",
		})
	}
	if !utf8.ValidString(text) {
		bad := strings.IndexFunc(text, func(r rune) bool { return r == utf8.RuneError })
		for bad < len(text) && strings.HasPrefix(text[bad:], "\ufffd") { // a real U+FFFD is fine
			rest := strings.IndexFunc(text[bad+3:], func(r rune) bool { return r == utf8.RuneError })
			if rest < 0 {
				break
			}
			bad += 3 + rest
		}
		return refuse(placed(text, bad, Problem{Message: "the config is not valid UTF-8", Hint: "save the file as UTF-8"}))
	}
	if i := strings.IndexByte(text, 0); i >= 0 {
		return refuse(placed(text, i, Problem{Message: "the config has a NUL byte", Hint: "is this a text file?"}))
	}
	return nil
}

// placed gives a problem the line and column of a byte of the text.
func placed(text string, offset int, p Problem) Problem {
	before := text[:offset]
	p.Line = 1 + strings.Count(before, "\n")
	p.Column = 1 + utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:])
	return p
}

var errSecondDocument = errors.New("a second document begins here")

// decode gives the value of the only document of a text; nil for a text without one.
func decode(text string) (root *yaml.Node, err error) {
	// The library gives up by panics of its own and turns those into errors; any other panic is a bug there, which must
	// not take a node of the cluster down.
	defer func() {
		if r := recover(); r != nil {
			root, err = nil, fmt.Errorf("yaml: cannot be read: %v", r)
		}
	}()
	d := yaml.NewDecoder(bytes.NewReader([]byte(text)))
	var doc, second yaml.Node
	switch err := d.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, err
	}
	switch err := d.Decode(&second); {
	case err == nil:
		return nil, fmt.Errorf("yaml: line %d: %w", second.Line, errSecondDocument)
	case !errors.Is(err, io.EOF):
		return nil, err
	}
	if len(doc.Content) != 1 {
		return nil, nil
	}
	return doc.Content[0], nil
}

var errorLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?(.*)$`)

// searchText is the length up to which the line of an error is searched by parsing parts of the text again: the library
// often names the line where the block begins, which may be hundreds of lines above the mistake.
const searchText = 64 << 10

func explain(text string, err error) Problem {
	m := errorLine.FindStringSubmatch(strings.ReplaceAll(err.Error(), "\n", " "))
	p := Problem{Message: "the config is not valid YAML: " + m[2]}
	p.Line, _ = strconv.Atoi(m[1])
	lines := strings.Split(text, "\n")
	if errors.Is(err, errSecondDocument) {
		p.Hint = "submit one config at a time; a list makes a sweep"
		return p
	}
	if len(text) <= searchText {
		p.Line = searchLine(lines, m[2])
	}
	if p.Line < 1 || p.Line > len(lines) {
		p.Line = 0
		return p
	}
	p.Column, p.Hint = adviseLine(lines[p.Line-1], m[2])
	return p
}

// searchLine finds the first line up to which the text fails in the same way. The parser reads forwards, so once it fails
// it fails for every longer text too, and halving finds the border.
func searchLine(lines []string, message string) int {
	good, bad := 0, len(lines)
	for bad-good > 1 {
		mid := (good + bad) / 2
		if _, err := decode(strings.Join(lines[:mid], "\n") + "\n"); err != nil && strings.HasSuffix(err.Error(), message) {
			bad = mid
		} else {
			good = mid
		}
	}
	return bad
}

var (
	tabIndent   = regexp.MustCompile(`^ *\t`)
	secondColon = regexp.MustCompile(`^[^#]*?: .*?(: |:$)`)
)

// adviseLine gives the column of the likely mistake in a line, 0 when there is none, and what to do about it.
func adviseLine(line, message string) (column int, hint string) {
	indent := len(line) - len(strings.TrimLeft(line, " \t"))
	switch {
	case tabIndent.MatchString(line) || strings.Contains(message, "cannot start any token") && strings.Contains(line, "\t"):
		return 1 + utf8.RuneCountInString(line[:strings.IndexByte(line, '\t')]), "indent with spaces, not with a tab"
	case strings.Contains(message, "mapping values are not allowed"):
		if m := secondColon.FindStringSubmatchIndex(line); m != nil {
			return 1 + utf8.RuneCountInString(line[:m[2]]), "put a text with a colon in quotes"
		}
		return indent + 1, "put a text with a colon in quotes, and give keys of one map the same indentation"
	case strings.Contains(message, "',' or ']'"), strings.Contains(message, "',' or '}'"):
		return 1 + utf8.RuneCountInString(line[:max(0, strings.LastIndexAny(line, "[{"))]), "close every [ and {, and put texts with commas or brackets in quotes"
	case strings.Contains(message, "unexpected end of stream"):
		return 1 + utf8.RuneCountInString(line[:max(0, strings.LastIndexAny(line, `"'`))]), "close the quotes"
	case strings.Contains(message, "expected key"), strings.Contains(message, "'-' indicator"), strings.Contains(message, "':'"):
		return indent + 1, "give the keys of one map the same indentation, and put texts with : # [ { in quotes"
	case strings.Contains(message, "unknown anchor"), strings.Contains(message, "alphabetic or numeric character"):
		return 1 + utf8.RuneCountInString(line[:max(0, strings.IndexAny(line, "*&"))]), "put a text that begins with * or & in quotes"
	case strings.Contains(message, "cannot start any token"):
		return 1 + utf8.RuneCountInString(line[:max(0, strings.IndexAny(line, "@%`"))]), "put a text that begins with @ % or ` in quotes"
	}
	return indent + 1, "check the indentation and the quotes of this line"
}
