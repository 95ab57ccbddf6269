package api

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

// Limits of a list.
const (
	defaultLimit = 50
	maxLimit     = 1000
)

func (s *Server) queue(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQueueQuery(r.URL.Query())
	if err != nil {
		return err
	}
	after, err := decodeCursor(q.Cursor, q.Sort)
	if err != nil {
		return err
	}
	sh := newShower(s.o.Cluster.State().View())
	rows, counts := sh.find(q)
	rows, next := page(rows, q, after)
	out := Queue{Experiments: make([]Experiment, 0, len(rows)), Next: next, Counts: counts}
	for _, row := range rows {
		out.Experiments = append(out.Experiments, sh.experiment(row.e))
	}
	s.live(r.Context(), out.Experiments)
	s.still(r.Context(), sh.view, out.Experiments)
	return answer(w, http.StatusOK, out)
}

func parseQueueQuery(v url.Values) (QueueQuery, error) {
	q := QueueQuery{
		Project: v.Get("project"), User: v.Get("user"), Node: v.Get("node"), Text: strings.ToLower(v.Get("text")),
		Sort: cmp.Or(v.Get("sort"), "-id"), Cursor: v.Get("cursor"), Limit: defaultLimit,
	}
	var err error
	if q.Status, err = parseStatuses(v["status"]); err != nil {
		return q, err
	}
	if _, ok := sortKey(strings.TrimPrefix(q.Sort, "-")); !ok {
		return q, problem(http.StatusBadRequest, fmt.Sprintf("sort %q is not possible", clip(q.Sort, 50)), "possible: "+strings.Join(sortWords(), ", ")+", each with - in front to turn it round")
	}
	if text := v.Get("limit"); text != "" {
		if q.Limit, err = strconv.Atoi(text); err != nil || q.Limit < 1 || q.Limit > maxLimit {
			return q, problem(http.StatusBadRequest, fmt.Sprintf("limit is a number from 1 to %d", maxLimit), "use next as cursor for more")
		}
	}
	if text := v.Get("sweep"); text != "" {
		if q.Sweep, err = strconv.ParseUint(text, 10, 64); err != nil {
			return q, problem(http.StatusBadRequest, "sweep is the number of a sweep's first experiment", "")
		}
	}
	return q, nil
}

func parseStatuses(words []string) ([]fsm.Status, error) {
	var out []fsm.Status
	for _, word := range words {
		for one := range strings.SplitSeq(word, ",") {
			if one == "" {
				continue
			}
			s := fsm.Status(one)
			if !slices.Contains(fsm.Statuses(), s) {
				return nil, problem(http.StatusBadRequest, fmt.Sprintf("status %q is not possible", clip(one, 50)), fmt.Sprint("possible: ", fsm.Statuses()))
			}
			out = append(out, s)
		}
	}
	return out, nil
}

// row is an experiment with the key it is sorted by. Keys are compared as bytes; the number decides between equal ones.
type row struct {
	e   *fsm.Experiment
	key string
}

// find walks all experiments once: it gives those that match, and the counts of each status of what matches everything
// but the status.
func (sh *shower) find(q QueueQuery) ([]row, map[fsm.Status]int) {
	counts := map[fsm.Status]int{}
	for _, st := range fsm.Statuses() {
		counts[st] = 0
	}
	key, _ := sortKey(strings.TrimPrefix(q.Sort, "-"))
	node := q.Node
	if n := sh.view.FindNode(q.Node); node != "" && n != nil {
		node = n.ID
	}
	var rows []row
	for e := range sh.view.Experiments() {
		if !sh.matches(e, q, node) {
			continue
		}
		counts[e.Status]++
		if len(q.Status) == 0 || slices.Contains(q.Status, e.Status) {
			rows = append(rows, row{e: e, key: key(e)})
		}
	}
	return rows, counts
}

func (sh *shower) matches(e *fsm.Experiment, q QueueQuery, node string) bool {
	if q.Project != "" && e.Project != q.Project || q.User != "" && e.User != q.User || q.Sweep != 0 && e.Batch != q.Sweep {
		return false
	}
	if node != "" {
		a := sh.view.Attempt(e.Token)
		if a == nil || a.Node != node || e.Status == fsm.Pending || e.Status == fsm.Held {
			return false
		}
	}
	return q.Text == "" || strings.Contains(sh.textOf(e), q.Text)
}

// page sorts, leaves out what the cursor has seen, and cuts at the limit.
func page(rows []row, q QueueQuery, after *cursor) ([]row, string) {
	turn := 1
	if strings.HasPrefix(q.Sort, "-") {
		turn = -1
	}
	order := func(key string, id uint64, b row) int {
		return turn * cmp.Or(strings.Compare(key, b.key), cmp.Compare(id, b.e.ID))
	}
	if after != nil {
		rows = slices.DeleteFunc(rows, func(b row) bool { return order(after.Key, after.ID, b) >= 0 })
	}
	slices.SortFunc(rows, func(a, b row) int { return order(a.key, a.e.ID, b) })
	if len(rows) <= q.Limit {
		return rows, ""
	}
	rows = rows[:q.Limit]
	last := rows[len(rows)-1]
	return rows, cursor{Sort: q.Sort, Key: last.key, ID: last.e.ID}.encode()
}

func sortWords() []string {
	return []string{"id", "name", "project", "user", "status", "priority", "created", "started", "ended", "queue"}
}

// sortKey gives what an order compares before the number.
func sortKey(word string) (func(*fsm.Experiment) string, bool) {
	switch word {
	case "id":
		return func(*fsm.Experiment) string { return "" }, true
	case "name":
		return func(e *fsm.Experiment) string { return clip(e.Name, 256) }, true
	case "project":
		return func(e *fsm.Experiment) string { return clip(e.Project, 256) }, true
	case "user":
		return func(e *fsm.Experiment) string { return clip(e.User, 256) }, true
	case "status":
		return func(e *fsm.Experiment) string { return string(e.Status) }, true
	case "priority":
		return func(e *fsm.Experiment) string { return numberKey(int64(e.Priority)) }, true
	case "created":
		return func(e *fsm.Experiment) string { return timeKey(e.CreatedAt) }, true
	case "started":
		return func(e *fsm.Experiment) string { return timeKey(e.StartedAt) }, true
	case "ended":
		return func(e *fsm.Experiment) string { return timeKey(e.EndedAt) }, true
	case "queue":
		return queueKey, true
	}
	return nil, false
}

// queueKey is the order of the planner: what runs, then what waits by priority, what is held, and what has ended.
func queueKey(e *fsm.Experiment) string {
	group := map[fsm.Status]string{fsm.Running: "0", fsm.Pending: "1", fsm.Held: "2"}[e.Status]
	if group == "" {
		return "3"
	}
	return group + numberKey(-int64(e.Priority))
}

func timeKey(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return numberKey(t.UnixNano())
}

// numberKey is text that sorts as the number does, and survives JSON.
func numberKey(n int64) string {
	return fmt.Sprintf("%016x", uint64(n)^1<<63)
}

func (s *Server) get(w http.ResponseWriter, r *http.Request) error {
	sh := newShower(s.o.Cluster.State().View())
	e, err := sh.named(r)
	if err != nil {
		return err
	}
	d := sh.detail(e)
	shown := []Experiment{d.Experiment}
	s.live(r.Context(), shown)
	s.still(r.Context(), sh.view, shown)
	d.Experiment = shown[0]
	if n := len(d.Attempts); d.FrozenSince != nil && n > 0 {
		last := &d.Attempts[n-1] // only the newest can be open
		last.FrozenSince, last.Sentence = d.FrozenSince, last.Sentence+", "+d.Reason
	}
	return answer(w, http.StatusOK, d)
}

func (s *Server) why(w http.ResponseWriter, r *http.Request) error {
	sh := newShower(s.o.Cluster.State().View())
	e, err := sh.named(r)
	if err != nil {
		return err
	}
	x := Explanation{ID: e.ID, Status: e.Status, Nodes: []NodeReason{}, Blocking: []uint64{}}
	switch e.Status {
	case fsm.Pending:
		got, err := s.o.Machines.Why(r.Context(), e.ID)
		if err != nil {
			return s.notNow(r, err, "nobody could explain it now")
		}
		x = got
		x.ID, x.Nodes, x.Blocking = e.ID, list(got.Nodes), list(got.Blocking)
	case fsm.Held:
		x.Sentence, x.Start = cmp.Or(e.Message, "it is held"), fmt.Sprintf("cvlab release %d", e.ID)
	default:
		x.Sentence = string(e.Status)
		if a := sh.view.Attempt(e.Token); a != nil {
			x.Sentence = sh.sentence(a)
			if f, is := s.frozen(r.Context())[a.Token]; is && a.Open() {
				x.Sentence += ", " + f.sentence(time.Local)
			}
		} else if e.Message != "" {
			x.Sentence += ": " + e.Message
		}
	}
	return answer(w, http.StatusOK, x)
}

// notNow answers for another node that did not: the caller can only try again.
func (s *Server) notNow(r *http.Request, err error, detail string) error {
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	s.log.WarnContext(r.Context(), "another node did not answer", "path", r.URL.Path, "error", err)
	return later(detail)
}
