package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// cvlab-kit reads its config by PyYAML, which speaks YAML 1.1. The Go library speaks something between 1.1 and 1.2; where
// they differ on plain scalars, these patterns say what Python gets.
var (
	pyBool  = regexp.MustCompile(`^(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$`)
	pyTrue  = regexp.MustCompile(`^(?i:yes|true|on)$`)
	pyInt   = regexp.MustCompile(`^(?:[-+]?0b[0-1_]+|[-+]?0[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+|[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+)$`)
	pyFloat = regexp.MustCompile(`^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$`)
	pyNull  = regexp.MustCompile(`^(?:~|null|Null|NULL|)$`)
	pyTime  = regexp.MustCompile(`^\d{4}-\d\d?-\d\d?(?:(?:[Tt]|[ \t]+)\d\d?:\d\d:\d\d(?:\.\d*)?(?:[ \t]*(?:Z|[-+]\d\d?(?::\d\d)?))?)?$`)
)

// pythonKind is the type that PyYAML gives a scalar: str, bool, int, float, null, time, or the tag of an explicit one.
func (v *value) pythonKind() string {
	if v.from != nil && v.from.Style&yaml.TaggedStyle != 0 {
		return v.tag
	}
	if !v.plain {
		return "str"
	}
	switch {
	case pyNull.MatchString(v.text):
		return "null"
	case pyBool.MatchString(v.text):
		return "bool"
	case pyInt.MatchString(v.text):
		return "int"
	case pyFloat.MatchString(v.text):
		return "float"
	case pyTime.MatchString(v.text):
		return "time"
	}
	return "str"
}

var errNoLiteral = errors.New("it cannot be written as a Python literal")

// literal writes the value as a Python literal, which cvlab-kit takes out of a text in brackets as data.
func (v *value) literal(b *strings.Builder) error {
	switch v.kind {
	case yaml.SequenceNode:
		return v.literalList(b)
	case yaml.MappingNode:
		return v.literalDict(b)
	}
	switch v.pythonKind() {
	case "null", "!!null":
		b.WriteString("None")
	case "bool", "!!bool":
		b.WriteString(map[bool]string{true: "True", false: "False"}[pyTrue.MatchString(v.text)])
	case "int", "!!int", "float", "!!float":
		return literalNumber(b, v.text)
	case "str", "!!str", "!!python/str":
		literalText(b, v.text)
	default:
		return errNoLiteral
	}
	return nil
}

func (v *value) literalList(b *strings.Builder) error {
	left, right := "[", "]"
	switch v.tag {
	case "!!seq", "!!python/list":
	case "!!python/tuple":
		left, right = "(", ")"
		if len(v.items) == 1 {
			right = ",)"
		}
	default:
		return errNoLiteral
	}
	b.WriteString(left)
	for i, item := range v.items {
		if i > 0 {
			b.WriteString(", ")
		}
		if err := item.literal(b); err != nil {
			return err
		}
	}
	b.WriteString(right)
	return nil
}

func (v *value) literalDict(b *strings.Builder) error {
	if v.tag != "!!map" {
		return errNoLiteral
	}
	b.WriteByte('{')
	for i, p := range v.pairs {
		if i > 0 {
			b.WriteString(", ")
		}
		key := &value{kind: yaml.ScalarNode, tag: p.key.ShortTag(), text: p.key.Value, from: p.key, plain: isPlain(p.key)}
		if err := key.literal(b); err != nil {
			return err
		}
		b.WriteString(": ")
		if err := p.val.literal(b); err != nil {
			return err
		}
	}
	b.WriteByte('}')
	return nil
}

func isPlain(n *yaml.Node) bool {
	return n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
}

// literalNumber writes a YAML number. What Python writes differently (octals, sixty-base, not-a-number) is worked out or refused.
func literalNumber(b *strings.Builder, text string) error {
	s := strings.ReplaceAll(text, "_", "")
	bare := strings.TrimLeft(s, "+-")
	switch {
	case strings.Contains(s, ":"), strings.EqualFold(bare, ".nan"):
		return errNoLiteral
	case strings.EqualFold(bare, ".inf"):
		s = strings.TrimSuffix(s, bare) + "1e999"
	case len(bare) > 1 && bare[0] == '0' && strings.Trim(bare, "01234567") == "":
		s = strings.TrimSuffix(s, bare) + "0o" + bare[1:]
	}
	b.WriteString(s)
	return nil
}

// literalText writes a Python string in single quotes, in ASCII and without line ends, so that it fits any YAML quoting.
func literalText(b *strings.Builder, s string) {
	b.WriteByte('\'')
	for _, r := range s {
		switch {
		case r == '\'' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r < ' ' || r == 0x7f:
			b.WriteString(`\x` + hex(r, 2))
		case r < 0x7f:
			b.WriteRune(r)
		case r <= 0xffff:
			b.WriteString(`\u` + hex(r, 4))
		default:
			b.WriteString(`\U` + hex(r, 8))
		}
	}
	b.WriteByte('\'')
}

func hex(r rune, digits int) string {
	s := strconv.FormatInt(int64(r), 16)
	return strings.Repeat("0", digits-len(s)) + s
}

// json gives the value as people are shown it. Numbers keep the digits the user wrote where JSON can hold them; what JSON
// has no word for is given as text.
func (v *value) json() json.RawMessage {
	var b bytes.Buffer
	v.writeJSON(&b)
	return b.Bytes()
}

func (v *value) writeJSON(b *bytes.Buffer) {
	switch v.kind {
	case yaml.SequenceNode:
		b.WriteByte('[')
		for i, item := range v.items {
			if i > 0 {
				b.WriteByte(',')
			}
			item.writeJSON(b)
		}
		b.WriteByte(']')
	case yaml.MappingNode:
		b.WriteByte('{')
		for i, p := range v.pairs {
			if i > 0 {
				b.WriteByte(',')
			}
			writeText(b, p.key.Value)
			b.WriteByte(':')
			p.val.writeJSON(b)
		}
		b.WriteByte('}')
	default:
		v.writeScalar(b)
	}
}

var jsonNumber = regexp.MustCompile(`^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?$`)

func (v *value) writeScalar(b *bytes.Buffer) {
	switch v.tag {
	case "!!null":
		b.WriteString("null")
		return
	case "!!bool":
		if pyBool.MatchString(v.text) {
			b.WriteString(strconv.FormatBool(pyTrue.MatchString(v.text)))
			return
		}
	case "!!int", "!!float":
		if n, ok := v.number(); ok && len(v.text) <= 64 {
			switch {
			case jsonNumber.MatchString(v.text):
				b.WriteString(v.text)
			case n == math.Trunc(n) && math.Abs(n) < 1<<53:
				b.WriteString(strconv.FormatInt(int64(n), 10))
			default:
				b.WriteString(strconv.FormatFloat(n, 'g', -1, 64))
			}
			return
		}
	}
	writeText(b, v.text)
}

// number gives the finite number that a scalar stands for.
func (v *value) number() (float64, bool) {
	if !v.isScalar() || v.tag != "!!int" && v.tag != "!!float" || v.from == nil {
		return 0, false
	}
	var n float64
	node := yaml.Node{Kind: yaml.ScalarNode, Tag: v.tag, Value: v.text}
	if err := node.Decode(&n); err != nil || math.IsInf(n, 0) || math.IsNaN(n) {
		return 0, false
	}
	return n, true
}

func writeText(b *bytes.Buffer, s string) {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\ufffd")
	}
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil { // a string can always be encoded
		b.WriteString(`""`)
		return
	}
	b.Truncate(b.Len() - 1) // the encoder ends the line
}

// shown is the value as a word of a command: a scalar as it was written, anything else as JSON.
func (v *value) shown() string {
	switch {
	case v.isNull():
		return "null"
	case v.isScalar():
		return v.text
	}
	return string(v.json())
}
