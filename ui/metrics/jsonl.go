package metrics

import (
	"encoding/json"
	"math"
	"slices"
)

// jsonReader reads one object a line: numbers are values, objects in it are joined with a slash, the rest is left out.
type jsonReader struct {
	lines lines
	rows  float64
	keys  keySet
}

// Feed takes the next bytes of the file.
func (r *jsonReader) Feed(data []byte, sink Sink) {
	r.lines.feed(data, func(line []byte) { r.line(line, sink) })
}

// Flush reads what stands behind the last line's end; the file is complete.
func (r *jsonReader) Flush(sink Sink) {
	r.lines.flush(func(line []byte) { r.line(line, sink) })
}

// Dropped says how many values were left out because the file has too many series.
func (r *jsonReader) Dropped() int { return r.keys.dropped }

func (r *jsonReader) line(line []byte, sink Sink) {
	var object map[string]any
	if json.Unmarshal(line, &object) != nil || object == nil {
		return
	}
	r.rows++
	p := Point{Step: r.rows, Wall: noTime()}
	stepKey := pickKey(object, append([]string{"_step"}, stepNames()...))
	if v, ok := object[stepKey].(float64); ok {
		p.Step = v
	}
	wallKey := pickKey(object, append([]string{"_timestamp", "ts"}, wallNames()...))
	switch v := object[wallKey].(type) {
	case float64:
		if v > 1e11 {
			v /= 1000
		}
		p.Wall = v
	case string:
		p.Wall = wallTime([]byte(v))
	}
	delete(object, stepKey)
	delete(object, wallKey)
	r.values("", object, p, sink, 0)
}

func pickKey(object map[string]any, wanted []string) string {
	for _, w := range wanted {
		if _, ok := object[w].(float64); ok {
			return w
		}
		if _, ok := object[w].(string); ok {
			return w
		}
	}
	return ""
}

// maxDepth is how deep objects may lie in each other.
const maxDepth = 8

func (r *jsonReader) values(prefix string, object map[string]any, p Point, sink Sink, depth int) {
	keys := make([]string, 0, len(object))
	for k := range object {
		keys = append(keys, k)
	}
	slices.Sort(keys) // which keys are let in must not depend on the map
	for _, k := range keys {
		name := prefix + k
		switch v := object[k].(type) {
		case float64:
			p.Value = v
		case bool:
			p.Value = 0
			if v {
				p.Value = 1
			}
		case string:
			// JSON has no word for these; the writers that need one use text.
			switch v {
			case "Infinity", "inf":
				p.Value = math.Inf(1)
			case "-Infinity", "-inf":
				p.Value = math.Inf(-1)
			default:
				continue
			}
		case map[string]any:
			if depth < maxDepth {
				r.values(name+"/", v, p, sink, depth+1)
			}
			continue
		default:
			continue
		}
		if r.keys.allows(name) {
			sink(name, p)
		}
	}
}
