package metrics

import "bytes"

// lines cuts what comes in pieces into whole lines. A line without its end waits for the rest; one that grows past maxLine
// is dropped whole.
type lines struct {
	rest     []byte
	skipping bool
}

// feed calls each for every line that data completes, without its end.
func (l *lines) feed(data []byte, each func(line []byte)) {
	for len(data) > 0 {
		i := bytes.IndexByte(data, '\n')
		if i < 0 {
			l.keep(data)
			return
		}
		line := data[:i]
		data = data[i+1:]
		switch {
		case l.skipping:
			l.skipping = false
			continue
		case len(l.rest) > 0:
			line = append(l.rest, line...)
			l.rest = l.rest[:0]
		}
		if len(line) <= maxLine {
			each(bytes.TrimSuffix(line, []byte("\r")))
		}
	}
}

// flush calls each for a last line without an end: nothing more will come.
func (l *lines) flush(each func(line []byte)) {
	if len(l.rest) > 0 {
		each(bytes.TrimSuffix(l.rest, []byte("\r")))
	}
	l.rest, l.skipping = nil, false
}

func (l *lines) keep(data []byte) {
	if l.skipping {
		return
	}
	if len(l.rest)+len(data) > maxLine {
		l.rest, l.skipping = nil, true
		return
	}
	l.rest = append(l.rest, data...)
}
