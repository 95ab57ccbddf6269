package trainer

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// keys reads values out of a config, fills defaults into it, and keeps the first complaint.
type keys struct {
	raw map[string]any
	err error
}

func (k *keys) fail(format string, args ...any) {
	if k.err == nil {
		k.err = fmt.Errorf(format, args...)
	}
}

func (k *keys) fallback(key string, value any) {
	if v, ok := k.raw[key]; !ok || v == nil {
		k.raw[key] = value
	}
}

// single refuses a list where one value belongs: it is a sweep that nobody has expanded.
func (k *keys) single(key string) any {
	if list, ok := k.raw[key].([]any); ok {
		k.fail("%s: %s is a list, and this program runs one configuration; submit the file with `cvlab run` to get one run for each value", key, pyText(list))
		return nil
	}
	return k.raw[key]
}

func (k *keys) whole(key string, fallback, low, high int) int {
	k.fallback(key, fallback)
	n, ok := k.single(key).(int)
	if f, isFloat := k.raw[key].(float64); isFloat && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
		n, ok = int(f), true
	}
	if !ok || n < low || n > high {
		k.fail("%s: '%s' is not a whole number from %d to %d", key, pyText(k.raw[key]), low, high)
	}
	return n
}

func (k *keys) number(key string, low, high float64) float64 {
	var f float64
	ok := true
	switch v := k.single(key).(type) {
	case int:
		f = float64(v)
	case float64:
		f = v
	default:
		ok = false
	}
	if !ok || !(f >= low && f <= high) { // this way round NaN is refused
		k.fail("%s: '%s' is not a number from %g to %g", key, pyText(k.raw[key]), low, high)
	}
	return f
}

func (k *keys) text(key string) string {
	v := k.single(key)
	if v == nil {
		return ""
	}
	return pyText(v)
}

// component replaces `adam(lr=0.1)` by `adam` and lays its arguments over the keys beside it: arguments win, as in cvlab-kit.
// The map form, {_type: adam, lr: 0.1}, is read as well.
func (k *keys) component(key, fallback string) {
	k.fallback(key, fallback)
	c := call{}
	switch v := k.single(key).(type) {
	case string:
		var err error
		if c, err = parseCall(v); err != nil {
			k.fail("%s: %w", key, err)
			return
		}
	case map[string]any:
		c.name, c.args = pyText(v["_type"]), v
	case nil:
		return
	default:
		k.fail("%s: '%s' is not a name or name(key=value)", key, pyText(v))
		return
	}
	for arg, v := range c.args {
		if slices.Contains([]string{"lr", "momentum", "weight_decay", "hidden"}, arg) {
			k.raw[arg] = v
		}
	}
}

// name is the name of a component, which must be one of these.
func (k *keys) name(key string, known ...string) string {
	name := pyText(k.raw[key])
	if m, ok := k.raw[key].(map[string]any); ok {
		name = pyText(m["_type"])
	}
	name, _, _ = strings.Cut(name, "(")
	name = strings.TrimSpace(name)
	if !slices.Contains(known, name) {
		k.fail("%s: unknown %s '%s'; use %s", key, key, name, strings.Join(known, ", "))
	}
	return name
}

// model takes the widths from `mlp(hidden=64)`. Another model, of a config meant for cvlab-kit, stays in the file and is not
// used; the run says so.
func (k *keys) model() {
	k.fallback("model", "mlp")
	if !isMLP(k.raw["model"]) {
		return
	}
	k.component("model", "mlp")
}

// widths reads `hidden`: one number, a list, or a list inside a string, which a sweep does not expand.
func (k *keys) widths() []int {
	k.fallback("hidden", 32)
	value := k.raw["hidden"]
	if text, ok := value.(string); ok {
		v, err := literal(text, 0)
		if err != nil {
			k.fail("hidden: %w", err)
		}
		value = v
	}
	list, ok := value.([]any)
	if !ok {
		list = []any{value}
	}
	var out []int
	for _, v := range list {
		n, ok := v.(int)
		if !ok || n < 1 || n > 1024 {
			k.fail("hidden: '%s' is not a width from 1 to 1024", pyText(v))
		}
		out = append(out, n)
	}
	if len(out) < 1 || len(out) > 3 {
		k.fail("hidden: '%s' has %d layers; give 1 to 3", pyText(k.raw["hidden"]), len(out))
	}
	return out
}

// isMLP says whether a model value asks for the one model there is here.
func isMLP(v any) bool {
	if m, ok := v.(map[string]any); ok {
		v = m["_type"]
	}
	text, ok := v.(string)
	name, _, _ := strings.Cut(text, "(")
	return ok && strings.TrimSpace(name) == "mlp"
}
