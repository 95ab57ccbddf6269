package trainer

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// call is a component value of a config: `adam`, or `adam(lr=0.001, betas=(0.9, 0.999))`.
type call struct {
	name string
	args map[string]any
}

var callName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// parseCall reads a component value. Arguments must have names: cvlab-kit drops the others without a word, which nobody wants.
func parseCall(s string) (call, error) {
	s = strings.TrimSpace(s)
	name, rest, open := strings.Cut(s, "(")
	c := call{name: strings.TrimSpace(name), args: map[string]any{}}
	if !callName.MatchString(c.name) {
		return call{}, fmt.Errorf("'%s' is not a name or name(key=value)", s)
	}
	if !open {
		return c, nil
	}
	inner, closed := strings.CutSuffix(rest, ")")
	if !closed {
		return call{}, fmt.Errorf("'%s' lacks its closing bracket", s)
	}
	parts, err := splitList(inner)
	if err != nil {
		return call{}, fmt.Errorf("'%s': %w", s, err)
	}
	for _, part := range parts {
		key, value, named := strings.Cut(part, "=")
		key = strings.TrimSpace(key)
		if !named || !callName.MatchString(key) {
			return call{}, fmt.Errorf("'%s': argument '%s' needs a name, as in lr=0.001", s, strings.TrimSpace(part))
		}
		if c.args[key], err = literal(value, 0); err != nil {
			return call{}, fmt.Errorf("'%s': %w", s, err)
		}
	}
	return c, nil
}

// splitList cuts at the commas that stand outside brackets and quotes. A last empty part is dropped, as Python does.
func splitList(s string) ([]string, error) {
	var parts []string
	depth, quote, from := 0, rune(0), 0
	for i, r := range s {
		switch {
		case quote != 0:
			if r == quote {
				quote = 0
			}
		case r == '\'' || r == '"':
			quote = r
		case strings.ContainsRune("([{", r):
			depth++
		case strings.ContainsRune(")]}", r):
			depth--
		case r == ',' && depth == 0:
			parts, from = append(parts, s[from:i]), i+1
		}
		if depth < 0 {
			break
		}
	}
	if depth != 0 || quote != 0 {
		return nil, fmt.Errorf("brackets or quotes do not match")
	}
	if strings.TrimSpace(s[from:]) != "" {
		parts = append(parts, s[from:])
	}
	return parts, nil
}

// literal reads a Python literal; a bare word is text, as in cvlab-kit.
func literal(s string, depth int) (any, error) {
	s = strings.TrimSpace(s)
	if n, err := strconv.Atoi(s); err == nil {
		return n, nil
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil {
		return f, nil
	}
	switch s {
	case "":
		return nil, fmt.Errorf("a value is missing")
	case "None":
		return nil, nil
	case "True":
		return true, nil
	case "False":
		return false, nil
	}
	first, last := s[0], s[len(s)-1]
	switch {
	case len(s) >= 2 && first == last && (first == '\'' || first == '"'):
		return s[1 : len(s)-1], nil
	case first == '[' && last == ']', first == '(' && last == ')':
		return literalList(s[1:len(s)-1], depth+1)
	}
	return s, nil
}

func literalList(s string, depth int) (any, error) {
	if depth > 8 {
		return nil, fmt.Errorf("lists are nested too deeply")
	}
	parts, err := splitList(s)
	if err != nil {
		return nil, err
	}
	list := make([]any, 0, len(parts))
	for _, part := range parts {
		v, err := literal(part, depth)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}
