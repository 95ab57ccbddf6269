package spec

import (
	"fmt"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// warnKit tells what cvlab-kit will trip over later. It never refuses: a kit of another version may do better.
func warnKit(root *value, r *report) {
	if p := root.get("agent"); p == nil || p.val.isNull() {
		r.warn(at(keyOr(p, root), Problem{Key: "agent", Message: "there is no agent, so cvlab-kit will refuse to start", Hint: "add a line such as agent: supervised"}))
	}
	if p := root.get("logger"); p == nil || !namesCSV(p.val) {
		r.warn(at(keyOr(p, root), Problem{Key: "logger", Message: "the logger is not csv, so there will be no curves", Hint: "write logger: csv"}))
	}
	for _, p := range root.pairs {
		if p.key.Value != blockKey {
			w := warner{r: r, key: p.key.Value}
			w.walk(p.val)
		}
	}
}

func keyOr(p *pair, root *value) *yaml.Node {
	if p != nil {
		return p.key
	}
	return root.place()
}

var csvCall = regexp.MustCompile(`^\s*csv\s*(?:\(|$)`)

func namesCSV(v *value) bool {
	if v.isScalar() {
		return csvCall.MatchString(v.text)
	}
	for _, item := range v.items {
		if namesCSV(item) {
			return true
		}
	}
	for _, p := range v.pairs {
		if namesCSV(p.val) {
			return true
		}
	}
	return false
}

type warner struct {
	r   *report
	key string
}

func (w warner) walk(v *value) {
	switch v.kind {
	case yaml.SequenceNode:
		if w.brokenCalls(v, v.items) {
			return
		}
		for _, item := range v.items {
			w.walk(item)
		}
	case yaml.MappingNode:
		var keys []*value
		for _, p := range v.pairs {
			keys = append(keys, &value{kind: yaml.ScalarNode, text: p.key.Value, plain: isPlain(p.key)}, p.val)
		}
		if w.brokenCalls(v, keys) {
			return
		}
		for _, p := range v.pairs {
			below := warner{r: w.r, key: w.key + "." + p.key.Value}
			below.walk(p.val)
		}
	default:
		w.scalar(v)
	}
}

func (w warner) warn(v *value, message, hint string) {
	w.r.warn(at(v.place(), Problem{Key: w.key, Message: message, Hint: hint}))
}

// brokenCalls finds adam(lr=0.1, wd=1) cut at its commas, which YAML does between brackets.
func (w warner) brokenCalls(v *value, parts []*value) bool {
	if v.from == nil || v.from.Style&yaml.FlowStyle == 0 {
		return false
	}
	for _, part := range parts {
		if part.isScalar() && part.plain && strings.Count(part.text, "(") > strings.Count(part.text, ")") {
			w.warn(v, fmt.Sprintf("%q is cut at a comma, which leaves broken pieces", clip(part.text, 40)), `put each call in quotes: ["adam(lr=0.1, wd=1)", "sgd"]`)
			return true
		}
	}
	return false
}

var (
	// A number to people and to YAML 1.2, with an exponent.
	exponent = regexp.MustCompile(`^([-+]?)([0-9]+)?(\.[0-9]*)?[eE]([-+]?)([0-9]+)$`)
	template = regexp.MustCompile(`\{\{\s*([^{}]*?)\s*\}\}`)
	calls    = regexp.MustCompile(`^[^'"(]*[A-Za-z_][A-Za-z0-9_]*\s*\(`)
	bareBool = regexp.MustCompile(`[=,(\[:]\s*(true|false)\s*[,)\]}]`)
	inQuotes = regexp.MustCompile(`'[^']*'|"[^"]*"`)
)

func (w warner) scalar(v *value) {
	if !v.isScalar() || v.text == "" {
		return
	}
	if better, ok := textNumber(v); ok {
		w.warn(v, fmt.Sprintf("%s is text for cvlab-kit, not a number", clip(v.text, 40)), "write "+better)
		return
	}
	if calls.MatchString(v.text) {
		if m := bareBool.FindStringSubmatch(inQuotes.ReplaceAllString(v.text, "''")); m != nil {
			good := strings.ToUpper(m[1][:1]) + m[1][1:]
			w.warn(v, fmt.Sprintf("%s inside of a call is a text, which counts as true", m[1]), "write "+good)
		}
	}
	for _, m := range template.FindAllStringSubmatch(v.text, -1) {
		if name := m[1]; strings.HasPrefix(name, "s") || strings.HasSuffix(name, "s") {
			w.warn(v, fmt.Sprintf("{{%s}} becomes None in cvlab-kit, as every name that begins or ends in s does", clip(name, 40)), "use a key whose name neither begins nor ends in s")
			break
		}
	}
}

// textNumber finds numbers that YAML 1.1 takes for text, and how to write them.
func textNumber(v *value) (string, bool) {
	if !v.plain || v.pythonKind() != "str" {
		return "", false
	}
	m := exponent.FindStringSubmatch(v.text)
	if m == nil || m[2] == "" && len(m[3]) < 2 {
		return "", false
	}
	whole, fraction, sign := m[2], m[3], m[4]
	if whole == "" {
		whole = "0"
	}
	if len(fraction) < 2 {
		fraction = ".0"
	}
	if sign == "" {
		sign = "+"
	}
	return clip(m[1]+whole+fraction+"e"+sign+m[5], 40), true
}
