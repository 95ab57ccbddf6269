package spec

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// edit replaces a part of a text.
type edit struct {
	from, to int
	text     string
}

// applyEdits makes all edits at once; false when two of them touch the same place.
func applyEdits(text string, edits []edit) (string, bool) {
	edits = slices.Clone(edits)
	slices.SortStableFunc(edits, func(a, b edit) int { return a.from - b.from })
	var b strings.Builder
	done := 0
	for _, e := range edits {
		if e.from < done || e.to < e.from || e.to > len(text) {
			return "", false
		}
		b.WriteString(text[done:e.from])
		b.WriteString(e.text)
		done = e.to
	}
	b.WriteString(text[done:])
	return b.String(), true
}

// piece is text that can stand as a value in a config.
type piece struct {
	text string
	// own pieces begin on a line of their own, indent columns from its beginning: block maps and block lists.
	own    bool
	indent int
	// header pieces are texts whose first line ends in | or > and may carry a comment.
	header bool
}

// replaceValue writes a piece in place of a pair's value.
func (s *source) replaceValue(p *pair, with piece) ([]edit, bool) {
	if p.merged || p.val.at == nil {
		return nil, false
	}
	colon := s.afterColon(p.key)
	from, to := s.start(p.val.at), s.pairEnd(p.key, p.val.at)
	if to <= colon { // nothing stands there
		from, to = colon, colon
		with.text = " " + with.text
	}
	if from < colon || to < from {
		return nil, false
	}
	below := strings.ContainsAny(s.text[colon:from], "\n\r")
	if block := p.val.at.Kind&(yaml.SequenceNode|yaml.MappingNode) != 0 && p.val.at.Style&yaml.FlowStyle == 0; !below || !block {
		return []edit{{from, to, with.text}}, !with.own
	}
	begin := s.lineStart(from)
	if strings.Trim(s.text[begin:from], " ") != "" {
		return nil, false
	}
	end, ok := s.restOfLine(to)
	if !ok {
		return nil, false
	}
	eol := s.text[s.lineStop(to):end]
	first, rest, more := strings.Cut(with.text, "\n")
	switch {
	case with.own:
		return []edit{{begin, end, strings.Repeat(" ", with.indent) + with.text + eol}}, true
	case more && with.header:
		return []edit{{colon, colon, " " + strings.TrimSuffix(first, "\r")}, {begin, end, rest + eol}}, true
	case more: // a comment may stand behind the colon, which must not cut the text in two
		return []edit{{begin, end, strings.Repeat(" ", s.column(s.start(p.key))+2) + with.text + eol}}, true
	}
	return []edit{{colon, colon, " " + with.text}, {begin, end, ""}}, true
}

// restOfLine goes on over blanks and a comment to where the next line begins; false when something else stands there.
func (s *source) restOfLine(i int) (int, bool) {
	stop := s.lineStop(i)
	rest := strings.TrimLeft(s.text[min(i, stop):stop], " \t")
	if rest != "" && rest[0] != '#' {
		return 0, false
	}
	return s.nextLine(i), true
}

// removePair takes a pair out of the map that it stands in.
func (s *source) removePair(m *value, p *pair) ([]edit, bool) {
	if p.merged || p.val.at == nil || m.at == nil || m.at.Kind != yaml.MappingNode {
		return nil, false
	}
	from, to := s.start(p.key), s.pairEnd(p.key, p.val.at)
	if m.at.Style&yaml.FlowStyle != 0 {
		return s.removeFlowPair(m, p, from, to)
	}
	begin := s.lineStart(from)
	if strings.Trim(s.text[begin:from], " ") != "" {
		return nil, false
	}
	end, ok := s.restOfLine(to)
	if !ok {
		return nil, false
	}
	// Comments that follow further to the right belong to what is taken out.
	column := s.column(from)
	for end < len(s.text) {
		line := s.text[end:s.lineStop(end)]
		text := strings.TrimLeft(line, " ")
		if !strings.HasPrefix(text, "#") || len(line)-len(text) <= column {
			break
		}
		end = s.nextLine(end)
	}
	return []edit{{begin, end, ""}}, true
}

// removeFlowPair takes the comma along: the one after the pair, or for the last pair the one before it.
func (s *source) removeFlowPair(m *value, p *pair, from, to int) ([]edit, bool) {
	if next := s.skipSpace(to); next < len(s.text) && s.text[next] == ',' {
		next = s.skipSpace(next + 1)
		return []edit{{from, next, ""}}, true
	}
	i := slices.Index(m.at.Content, p.key)
	if i < 2 {
		return []edit{{from, to, ""}}, true
	}
	return []edit{{s.pairEnd(m.at.Content[i-2], m.at.Content[i-1]), to, ""}}, true
}

// pieceOf cuts a value out of the text, to be put elsewhere. With kit, lists inside it become texts that cvlab-kit reads as
// data; handed on as lists they would be swept once more.
func (s *source) pieceOf(v *value, kit bool) (piece, bool) {
	if v.at == nil {
		return piece{}, false
	}
	from, to := s.start(v.at), s.end(v.at)
	if v.isNull() && v.text == "" {
		return piece{text: "null"}, v.at.Anchor == "" && v.at.Kind == yaml.ScalarNode && v.at.Style&yaml.TaggedStyle == 0
	}
	if from >= to {
		return piece{}, false
	}
	var edits []edit
	if kit && !s.quoteLists(v, &edits) {
		return piece{}, false
	}
	for i := range edits {
		edits[i].from -= from
		edits[i].to -= from
		if edits[i].from < 0 {
			return piece{}, false
		}
	}
	text, ok := applyEdits(s.text[from:to], edits)
	if !ok {
		return piece{}, false
	}
	out := piece{text: text, header: v.at.Kind == yaml.ScalarNode && v.at.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0}
	switch n := v.at; {
	case kit && v.isList() || n.Kind == yaml.ScalarNode || n.Kind == yaml.AliasNode:
	case n.Style&yaml.FlowStyle == 0:
		out.own, out.indent = true, s.column(from)
	case n.Kind == yaml.MappingNode && s.text[to-1] != '}':
		out.text = "{" + text + "}"
	}
	return out, true
}

func (s *source) quoteLists(v *value, edits *[]edit) bool {
	switch {
	case v.isList():
		if v.at == nil {
			return false
		}
		quoted, err := v.quoted()
		if err != nil {
			return false
		}
		*edits = append(*edits, edit{s.start(v.at), s.end(v.at), doubleQuoted(quoted.text)})
	case v.isMap():
		for _, p := range v.pairs {
			if !s.quoteLists(p.val, edits) {
				return false
			}
		}
	}
	return true
}

// quoted gives a list as the text that cvlab-kit takes for a list that is data.
func (v *value) quoted() (*value, error) {
	var b strings.Builder
	if err := v.literal(&b); err != nil {
		return nil, err
	}
	return &value{kind: yaml.ScalarNode, tag: "!!str", text: b.String()}, nil
}

// doubleQuoted writes printable ASCII as a YAML text in double quotes.
func doubleQuoted(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
