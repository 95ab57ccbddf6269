package spec

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Problem is one thing that is wrong, or likely to go wrong, with a place in the text and a way out.
type Problem struct {
	// Line and Column count from 1, columns in characters; 0 is unknown, as for what an option said.
	Line, Column int
	// Key is the dotted key it is about; empty when it is about the text as a whole.
	Key string
	// Message says what is wrong; Hint says what to do, and may be empty.
	Message, Hint string
}

// String gives the problem on one line: "line 3, column 5: cvlab.gpus: … (hint)".
func (p Problem) String() string {
	var b strings.Builder
	if p.Line > 0 {
		fmt.Fprintf(&b, "line %d", p.Line)
		if p.Column > 0 {
			fmt.Fprintf(&b, ", column %d", p.Column)
		}
		b.WriteString(": ")
	}
	if p.Key != "" {
		b.WriteString(clip(p.Key, 80) + ": ")
	}
	b.WriteString(p.Message)
	if p.Hint != "" {
		b.WriteString(" (" + p.Hint + ")")
	}
	return b.String()
}

// Error is the refusal of a submission, with all that is wrong with it. It has at least one problem.
type Error struct {
	Problems []Problem
}

// Error gives one line per problem.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

func refuse(p Problem) error { return &Error{Problems: []Problem{p}} }

// report collects problems, so that one submission shows all of them at once.
type report struct {
	problems, warnings []Problem
	unsaid             int // warnings beyond maxWarnings
}

func (r *report) add(p Problem) {
	if len(r.problems) < maxProblems {
		r.problems = append(r.problems, p)
	}
}

func (r *report) warn(p Problem) {
	if len(r.warnings) < maxWarnings {
		r.warnings = append(r.warnings, p)
		return
	}
	r.unsaid++
}

// inOrder sorts problems as they stand in the text; those without a place go last.
func inOrder(list []Problem) {
	place := func(p Problem) (int, int) {
		if p.Line == 0 {
			return math.MaxInt, 0
		}
		return p.Line, p.Column
	}
	slices.SortStableFunc(list, func(a, b Problem) int {
		al, ac := place(a)
		bl, bc := place(b)
		return cmp.Or(cmp.Compare(al, bl), cmp.Compare(ac, bc))
	})
}

// finish gives the warnings, with a last one for those that were left out.
func (r *report) finish() []Problem {
	inOrder(r.warnings)
	if r.unsaid > 0 {
		return append(r.warnings, Problem{Message: fmt.Sprintf("%d more warnings are not shown", r.unsaid)})
	}
	return r.warnings
}

func (r *report) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	inOrder(r.problems)
	return &Error{Problems: r.problems}
}

// at places a problem where a value or key stands in the text.
func at(n *yaml.Node, p Problem) Problem {
	if n != nil {
		p.Line, p.Column = n.Line, n.Column
	}
	return p
}

// clip shortens what a user wrote for a message; it never cuts a character in two.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && s[most]&0xC0 == 0x80 {
		most--
	}
	return s[:most] + "..."
}

// nearest gives the word of the list that was probably meant, or "". Only slips of one or two letters count.
func nearest(word string, list []string) string {
	if len(word) > 64 {
		return ""
	}
	best, least := "", 3
	for _, w := range list {
		if d := distance(strings.ToLower(word), w); d < least && d < len(w) {
			best, least = w, d
		}
	}
	return best
}

// distance is the number of letters to insert, delete, replace or swap to get from a to b.
func distance(a, b string) int {
	before, prev := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(prev[j]+cost, prev[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, prev = prev, row
	}
	return prev[len(b)]
}

// asProblems gives an error as an *Error; false for no error at all.
func asProblems(err error) (*Error, bool) {
	if err == nil {
		return nil, false
	}
	if bad, ok := errors.AsType[*Error](err); ok {
		return bad, true
	}
	return &Error{Problems: []Problem{{Message: err.Error()}}}, true
}
