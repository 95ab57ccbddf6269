package trainer

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

var placeholder = regexp.MustCompile(`\{\{\s*([A-Za-z0-9_.]+)\s*\}\}`)

// placeholders fills {{key}} in the texts at the top level. A text that is nothing but a placeholder takes the raw value.
// cvlab-kit turns an unknown key into None; here it is an error, as it is a typing mistake.
func (k *keys) placeholders() {
	before := maps.Clone(k.raw) // a filled text is not filled again
	for _, key := range slices.Sorted(maps.Keys(before)) {
		text, ok := before[key].(string)
		if !ok {
			continue
		}
		if m := placeholder.FindStringSubmatch(text); m != nil && m[0] == strings.TrimSpace(text) {
			k.raw[key] = k.lookup(before, key, m[1])
			continue
		}
		k.raw[key] = placeholder.ReplaceAllStringFunc(text, func(s string) string {
			return pyText(k.lookup(before, key, placeholder.FindStringSubmatch(s)[1]))
		})
	}
}

// lookup finds a key, or one of a nested map: a.b.c.
func (k *keys) lookup(in map[string]any, at, path string) any {
	var value any = in
	for part := range strings.SplitSeq(path, ".") {
		m, ok := value.(map[string]any)
		if ok {
			value, ok = m[part]
		}
		if !ok {
			k.fail("%s: {{%s}} names no key of this config", at, path)
			return nil
		}
	}
	return value
}
