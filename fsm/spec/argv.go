package spec

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/deveronica/cvlab/fsm"
)

// {key} and {{key}}, the way cvlab-kit writes it. A dollar before it makes it the shell's own ${key}.
var placeholder = regexp.MustCompile(`\$?(?:\{\{([A-Za-z_][A-Za-z0-9_.-]*)\}\}|\{([A-Za-z_][A-Za-z0-9_.-]*)\})`)

// Argv gives the words to start for the experiment with an ordinal (0-based, below s.Count()); nil when cvlab-kit runs. In
// every word {key} stands for the experiment's value of that dotted key of the config; keys that the config does not have,
// and device and cvlab, stay as they are.
//
// A list of words is run without a shell. A text is run by sh -c. No value can break out of its place there: a value of
// letters, digits and _ . / : @ % + , - is written into the script; any other becomes a positional parameter of the shell,
// which is expanded but never parsed as script.
func Argv(s *fsm.Spec, ordinal int) ([]string, error) {
	if s.NeedsKit() {
		return nil, nil
	}
	values, err := fillers(s, ordinal)
	if err != nil {
		return nil, fmt.Errorf("fill the command of experiment %d of its batch: %w", ordinal, err)
	}
	if s.Shell != "" {
		return shellArgv(s.Shell, values), nil
	}
	argv := make([]string, len(s.Command))
	for i, word := range s.Command {
		argv[i] = fill(word, values, func(v string, _ int) string { return v })
	}
	return argv, nil
}

// fillers gives the words for the placeholders of one experiment.
func fillers(s *fsm.Spec, ordinal int) (map[string]string, error) {
	asked := placeholders(s)
	if s.Config == "" {
		if ordinal != 0 || len(s.Axes) > 0 {
			return nil, errors.New("there is no config to take values from")
		}
		return nil, nil
	}
	if len(asked) == 0 {
		return nil, nil
	}
	root, picks, err := chosen(s, ordinal)
	if err != nil {
		return nil, err
	}
	known := map[string]*value{}
	flatten(root, "", func(key string, v *value) {
		if v.isScalar() {
			known[key] = v
		}
	})
	for _, p := range picks {
		known[p.key] = p.value
	}
	values := map[string]string{}
	for _, key := range asked {
		if v := known[key]; v != nil {
			values[key] = v.shown()
		}
	}
	return values, nil
}

// placeholders gives the keys that a command asks for, each once.
func placeholders(s *fsm.Spec) []string {
	var keys []string
	seen := map[string]bool{}
	for _, word := range append([]string{s.Shell}, s.Command...) {
		for _, m := range placeholder.FindAllStringSubmatch(word, -1) {
			key := m[1] + m[2]
			if m[0][0] == '$' || key == deviceKey || key == blockKey || strings.HasPrefix(key, blockKey+".") || seen[key] {
				continue
			}
			seen[key] = true
			keys = append(keys, key)
		}
	}
	return keys
}

// fill puts values in place of their placeholders; write gives the text for a value at an offset of the word.
func fill(word string, values map[string]string, write func(v string, offset int) string) string {
	var b strings.Builder
	done := 0
	for _, m := range placeholder.FindAllStringSubmatchIndex(word, -1) {
		key := word[max(m[2], m[4]):max(m[3], m[5])]
		v, ok := values[key]
		if !ok || word[m[0]] == '$' {
			continue
		}
		b.WriteString(word[done:m[0]])
		b.WriteString(write(v, m[0]))
		done = m[1]
	}
	b.WriteString(word[done:])
	return b.String()
}

// harmless texts mean themselves in every corner of a shell script.
var harmless = regexp.MustCompile(`^[A-Za-z0-9_./:@%+,-]+$`)

func shellArgv(script string, values map[string]string) []string {
	var params []string
	quotes := quoteScan{script: script}
	script = fill(script, values, func(v string, offset int) string {
		if harmless.MatchString(v) {
			return v
		}
		n := slices.Index(params, v)
		if n < 0 {
			n = len(params)
			params = append(params, v)
		}
		ref := "${" + strconv.Itoa(n+1) + "}"
		switch quotes.upTo(offset) {
		case '"':
			return ref
		case '\'':
			return `'"` + ref + `"'`
		}
		return `"` + ref + `"`
	})
	if len(params) == 0 {
		return []string{"sh", "-c", script}
	}
	return append([]string{"sh", "-c", script, "sh"}, params...)
}

// quoteScan follows the quotes of a script. A wrong answer, as inside of a here-document, puts quotes where none belong; it
// cannot make a value into script.
type quoteScan struct {
	script string
	at     int
	open   byte
}

// upTo gives the quote that the script is inside of at an offset, 0 for none; offsets must not go back.
func (q *quoteScan) upTo(offset int) byte {
	for ; q.at < offset; q.at++ {
		switch c := q.script[q.at]; {
		case c == '\\' && q.open != '\'':
			q.at++
		case q.open == 0 && (c == '"' || c == '\''):
			q.open = c
		case c == q.open:
			q.open = 0
		}
	}
	return q.open
}

// warnPlaceholders tells of placeholders that are one slip away from a key of the config.
func warnPlaceholders(s *fsm.Spec, root *value, r *report) {
	var known []string
	flatten(root, "", func(key string, _ *value) { known = append(known, key) })
	asked := placeholders(s)
	if len(known)*len(asked) > 10_000 { // comparing each with each would be slow
		return
	}
	p := root.get(blockKey)
	for _, key := range asked {
		if slices.Contains(known, key) {
			continue
		}
		n := nearest(key, known)
		if n == "" {
			continue
		}
		w := Problem{Key: blockKey + ".command", Message: fmt.Sprintf("the config has no key %q, so {%s} stays as it is", clip(key, 60), clip(key, 60)), Hint: fmt.Sprintf("did you mean {%s}?", n)}
		if p != nil {
			w = at(p.key, w)
		}
		r.warn(w)
	}
}

// flatten visits all values below maps with their dotted keys, in document order.
func flatten(v *value, prefix string, visit func(key string, v *value)) {
	for _, p := range v.pairs {
		key := prefix + p.key.Value
		if prefix == "" && (key == blockKey || key == deviceKey) {
			continue
		}
		if p.val.isMap() {
			flatten(p.val, key+".", visit)
			continue
		}
		visit(key, p.val)
	}
}
