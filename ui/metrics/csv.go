package metrics

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"time"
)

// csvReader reads a table with a header, as cvlab-kit writes it: one row a step, an empty cell where nothing was measured.
// The columns that count are found by name; every other one with numbers is a series.
type csvReader struct {
	lines  lines
	header bool
	names  []string // of the columns; "" for those that are no series
	step   int      // column of the step, -1: the row's number counts
	wall   int      // column of the time, -1: none
	rows   float64
	keys   keySet
	cells  [][]byte
}

func newCSVReader() *csvReader { return &csvReader{step: -1, wall: -1} }

// Feed takes the next bytes of the file.
func (r *csvReader) Feed(data []byte, sink Sink) {
	r.lines.feed(data, func(line []byte) { r.line(line, sink) })
}

// Flush reads what stands behind the last line's end; the file is complete.
func (r *csvReader) Flush(sink Sink) {
	r.lines.flush(func(line []byte) { r.line(line, sink) })
}

// Dropped says how many values were left out because the file has too many series.
func (r *csvReader) Dropped() int { return r.keys.dropped }

// stepNames are columns that count the rows, in the order in which they are believed.
func stepNames() []string {
	return []string{"step", "global_step", "steps", "iteration", "iter", "epoch"}
}

// wallNames are columns that tell the time.
func wallNames() []string {
	return []string{"wall_time", "timestamp", "time", "datetime", "date"}
}

func (r *csvReader) line(line []byte, sink Sink) {
	if len(bytes.TrimSpace(line)) == 0 || bytes.IndexByte(line, 0) >= 0 {
		return
	}
	r.cells = splitRow(r.cells[:0], line)
	if !r.header {
		r.readHeader()
		return
	}
	r.rows++
	p := Point{Step: r.rows, Wall: noTime()}
	if r.step >= 0 && r.step < len(r.cells) {
		step, ok := number(r.cells[r.step])
		if !ok {
			return // a row that does not say where it belongs
		}
		p.Step = step
	}
	if r.wall >= 0 && r.wall < len(r.cells) {
		p.Wall = wallTime(r.cells[r.wall])
	}
	for i, name := range r.names {
		if name == "" || i >= len(r.cells) {
			continue
		}
		if v, ok := number(r.cells[i]); ok && r.keys.allows(name) {
			p.Value = v
			sink(name, p)
		}
	}
}

func (r *csvReader) readHeader() {
	r.header = true
	r.names = make([]string, len(r.cells))
	for i, c := range r.cells {
		r.names[i] = strings.TrimSpace(strings.TrimPrefix(string(c), "\ufeff"))
	}
	r.step, r.wall = findColumn(r.names, stepNames()), findColumn(r.names, wallNames())
	for _, i := range []int{r.step, r.wall} {
		if i >= 0 {
			r.names[i] = ""
		}
	}
}

func findColumn(names, wanted []string) int {
	for _, w := range wanted {
		for i, n := range names {
			if strings.EqualFold(n, w) {
				return i
			}
		}
	}
	return -1
}

// splitRow cuts a row at its commas; a quoted cell may hold commas and doubled quotes. A cell that spans lines is not known here.
func splitRow(cells [][]byte, line []byte) [][]byte {
	for {
		var cell []byte
		if len(line) > 0 && line[0] == '"' {
			cell, line = quotedCell(line[1:])
		} else if i := bytes.IndexByte(line, ','); i >= 0 {
			cell, line = line[:i], line[i:]
		} else {
			cell, line = line, nil
		}
		cells = append(cells, cell)
		if len(line) == 0 {
			return cells
		}
		line = line[1:] // the comma
	}
}

// quotedCell gives the cell after its opening quote, and the rest from the comma on.
func quotedCell(s []byte) (cell, rest []byte) {
	var out []byte
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != '"':
			out = append(out, s[i])
		case i+1 < len(s) && s[i+1] == '"':
			out = append(out, '"')
			i++
		default:
			j := bytes.IndexByte(s[i:], ',')
			if j < 0 {
				return out, nil
			}
			return out, s[i+j:]
		}
	}
	return out, nil
}

// number reads a cell. NaN and text are no values; an infinity is one.
func number(cell []byte) (float64, bool) {
	text := string(bytes.TrimSpace(cell))
	switch text {
	case "":
		return 0, false
	case "True", "true":
		return 1, true
	case "False", "false":
		return 0, true
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil && !math.IsInf(v, 0) || math.IsNaN(v) || strings.ContainsAny(text, "_xXpP") {
		return 0, false
	}
	return v, true
}

// wallTime reads seconds since 1970, milliseconds since then, or a time in words.
func wallTime(cell []byte) float64 {
	if v, ok := number(cell); ok {
		if v > 1e11 { // seconds would be the year 5138
			v /= 1000
		}
		return v
	}
	text := strings.TrimSpace(string(cell))
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999", "2006-01-02T15:04:05.999999999"} {
		if t, err := time.Parse(layout, text); err == nil {
			return float64(t.UnixNano()) / 1e9
		}
	}
	return noTime()
}
