package fsm_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deveronica/cvlab/fsm"
)

// A script is a story: lines of commands, each followed by what the state machine answered, indented. "show" lists the
// state, "restart" goes on with a replica restored from a snapshot, "wait 10s" moves the proposers' clock, "#" is a remark.
//
//	submit gpus=1 times=2 retries=1      finish 1 user-error exit=1      assign 1 node=a gpu=a-0,a-1
//
// by=NAME and key=KEY go with any command; an attempt is named by its experiment, or as token=1-5, and speaks by its rank 0
// where no node is named. "assign 1 node=a gpu=a-0 others=b:b-0+b-1,c" is a gang of three. After a wanted change:
// go test ./fsm -run Scripts -update
func TestScripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/scripts/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(want))
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

const indent = "    "

func play(t *testing.T, script string) string {
	l := newLab(t)
	var out strings.Builder
	for line := range strings.Lines(script) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, indent) {
			continue // the old answer
		}
		fmt.Fprintln(&out, line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		for answer := range strings.Lines(l.perform(t, line)) {
			fmt.Fprintln(&out, indent+strings.TrimRight(answer, "\n"))
		}
	}
	return out.String()
}

func (l *lab) perform(t *testing.T, line string) string {
	verb, rest, _ := strings.Cut(line, " ")
	a := parseArgs(t, rest)
	switch verb {
	case "show":
		return show(l.state.View())
	case "wait":
		d, err := time.ParseDuration(a.word(0))
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		l.now = l.now.Add(d)
		return ""
	case "restart":
		before := digest(l.state)
		l.state = restored(t, snapshot(t, l.state))
		if digest(l.state) != before || l.state.Index() != uint64(len(l.log)) {
			t.Errorf("%s: the restored replica differs", line)
		}
		return ""
	}
	c := command(t, l, verb, a)
	if c == nil {
		t.Fatalf("%q is no command of a script", line)
	}
	by := a.named["by"]
	if by == "" {
		by = "ana"
	}
	return answer(l.apply(fsm.Entry{By: by, Key: a.named["key"], Command: c}))
}

func answer(r fsm.Result) string {
	s := string(r.Code)
	if n := len(r.Experiments); n > 0 {
		s += fmt.Sprintf(" %v", r.Experiments)
	}
	if !r.Token.IsZero() {
		s += " " + r.Token.String()
	}
	if r.Node != "" {
		s += " " + r.Node
	}
	if r.Message != "" {
		s += ": " + r.Message
	}
	return s
}

// args are the words of a line and its NAME=VALUE pairs; an underscore stands for a space.
type args struct {
	t     *testing.T
	words []string
	named map[string]string
}

func parseArgs(t *testing.T, rest string) args {
	a := args{t: t, named: map[string]string{}}
	for w := range strings.FieldsSeq(rest) {
		if k, v, ok := strings.Cut(w, "="); ok {
			a.named[k] = strings.ReplaceAll(v, "_", " ")
		} else {
			a.words = append(a.words, w)
		}
	}
	return a
}

func (a args) has(word string) bool { return slices.Contains(a.words, word) }

func (a args) word(i int) string {
	if i >= len(a.words) {
		a.t.Fatalf("a word is missing after %v", a.words)
	}
	return a.words[i]
}

func (a args) number(name string) int {
	v, given := a.named[name]
	if !given {
		return 0
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		a.t.Fatalf("%s: %v", name, err)
	}
	return n
}

func (a args) duration(name string) fsm.Duration {
	var d fsm.Duration
	if text := a.named[name]; text != "" {
		if err := d.UnmarshalText([]byte(text)); err != nil {
			a.t.Fatalf("%s: %v", name, err)
		}
	}
	return d
}

func (a args) list(name string) []string {
	if a.named[name] == "" {
		return nil
	}
	return strings.Split(a.named[name], ",")
}

// slots reads NODE:GPU+GPU,NODE,…
func (a args) slots(name string) []fsm.Slot {
	var slots []fsm.Slot
	for _, w := range a.list(name) {
		node, gpus, _ := strings.Cut(w, ":")
		s := fsm.Slot{Node: node}
		if gpus != "" {
			s.GPUs = strings.Split(gpus, "+")
		}
		slots = append(slots, s)
	}
	return slots
}

func ids(t *testing.T, words []string) []uint64 {
	var ids []uint64
	for _, w := range words {
		id, err := strconv.ParseUint(w, 10, 64)
		if err != nil {
			t.Fatalf("experiment %q: %v", w, err)
		}
		ids = append(ids, id)
	}
	return ids
}

func (a args) ids() []uint64 {
	if len(a.words) == 0 {
		return nil
	}
	return ids(a.t, strings.Split(a.words[0], ","))
}

// attempt gives the token a line names, and the node that speaks for it.
func (a args) attempt(l *lab) (fsm.Token, string) {
	var token fsm.Token
	if text := a.named["token"]; text != "" {
		parsed, err := fsm.ParseToken(text)
		if err != nil {
			a.t.Fatal(err)
		}
		token = parsed
	} else {
		token = l.experiment(a.ids()[0]).Token
	}
	node := a.named["node"]
	if at := l.state.View().Attempt(token); node == "" && at != nil {
		node = at.Node
	}
	return token, node
}

func (a args) machine(name string) fsm.Node {
	n := machine(name, a.number("gpus"))
	n.CPUSlots, n.BootID, n.NoExec = a.number("cpu"), a.named["boot"], a.has("server-only")
	if id := a.named["id"]; id != "" {
		n.ID = id
	}
	return n
}

func command(t *testing.T, l *lab, verb string, a args) fsm.Command {
	switch verb {
	case "found":
		return &fsm.Found{Cluster: "c", Name: a.word(0), Node: a.machine(a.named["node"])}
	case "submit":
		return submission(t, a)
	case "assign":
		return &fsm.Assign{Experiment: a.ids()[0], Node: a.named["node"], GPUs: a.list("gpu"), Others: a.slots("others"), Lease: a.duration("lease")}
	case "start":
		token, node := a.attempt(l)
		return &fsm.Start{Token: token, Node: node, BootID: a.named["boot"], Port: a.number("port"), Resumed: a.resumed()}
	case "withdraw":
		token, _ := a.attempt(l)
		return &fsm.Withdraw{Token: token, Reason: a.named["reason"], Node: a.named["node"]}
	case "publish":
		token, node := a.attempt(l)
		return &fsm.Publish{Token: token, Node: node, Seq: uint64(a.number("seq")), Path: a.named["path"], Files: max(1, a.number("files")), Size: uint64(a.number("size")), Digest: digestOf(a.named["digest"])}
	case "finish":
		return ending(l, a)
	case "cancel":
		return &fsm.Cancel{Experiments: a.ids(), Reason: a.named["reason"]}
	case "hold":
		return &fsm.Hold{Experiments: a.ids(), Reason: a.named["reason"]}
	case "release":
		return &fsm.Release{Experiments: a.ids()}
	case "retry":
		return &fsm.Retry{Experiments: a.ids()}
	case "annotate":
		return note(t, a)
	}
	return memberCommand(t, l, verb, a)
}

func memberCommand(t *testing.T, l *lab, verb string, a args) fsm.Command {
	switch verb {
	case "admit":
		return &fsm.Admit{Node: a.machine(a.word(0)), Access: a.named["token"]}
	case "update":
		return &fsm.Update{Node: a.machine(a.word(0))}
	case "drain":
		return &fsm.Drain{Node: a.word(0), On: !a.has("off"), Now: a.has("now")}
	case "remove":
		return &fsm.Remove{Node: a.word(0), Off: a.has("off")}
	case "grant":
		g := fsm.Access{ID: a.word(0), Kind: fsm.AccessKind(a.word(1)), User: a.named["user"], Role: fsm.Role(a.named["role"]), Uses: a.number("uses"), Secret: secretOf(a.word(0))}
		if s := a.named["secret"]; s != "" {
			g.Secret = secretOf(s)
		}
		if s := a.named["expires"]; s != "" {
			d, err := time.ParseDuration(s)
			if err != nil {
				t.Fatal(err)
			}
			g.ExpiresAt = l.now.Add(d)
		}
		return &fsm.Grant{Access: g}
	case "revoke":
		return &fsm.Revoke{ID: a.word(0)}
	case "epoch":
		return &fsm.NewEpoch{Node: a.word(0)}
	case "adopt":
		token, node := a.attempt(l)
		return &fsm.Adopt{Token: token, Node: node, Experiment: a.ids()[0], Number: a.number("number"), GPUs: a.list("gpu"), BootID: a.named["boot"], Lease: a.duration("lease"), StartedAt: l.now.Add(-time.Hour)}
	case "reign":
		return &fsm.Reign{Node: a.word(0)}
	case "expire":
		token, _ := a.attempt(l)
		reign := l.state.View().Reign()
		if _, given := a.named["reign"]; given {
			reign = uint64(a.number("reign"))
		}
		return &fsm.Expire{Token: token, Node: a.named["node"], Reign: reign, Silent: a.duration("silent")}
	}
	return nil
}

func submission(t *testing.T, a args) fsm.Command {
	s := sweep(max(1, a.number("times")))
	s.Project, s.Name = a.named["project"], a.named["name"]
	s.Device = fsm.Device{Kind: fsm.DeviceGPU, Count: a.number("gpus")}
	switch {
	case a.has("cpu"):
		s.Device = fsm.Device{Kind: fsm.DeviceCPU}
	case a.has("auto"):
		s.Device = fsm.Device{Kind: fsm.DeviceAuto, Count: 1}
	case a.named["device"] != "":
		s.Device.Kind = fsm.DeviceKind(a.named["device"])
	}
	s.Device.Nodes = a.number("nodes")
	s.Retries, s.After = a.number("retries"), ids(t, a.list("after"))
	p, err := fsm.ParsePriority(a.named["priority"])
	if err != nil {
		t.Fatal(err)
	}
	s.Priority = p
	return &fsm.Submit{Spec: s, Hold: a.has("hold")}
}

func ending(l *lab, a args) fsm.Command {
	token, node := a.attempt(l)
	f := &fsm.Finish{Token: token, Node: node, Class: fsm.Class(strings.ReplaceAll(a.words[len(a.words)-1], "-", " ")), Message: a.named["message"]}
	if _, given := a.named["exit"]; given {
		f.ExitCode = ptr(a.number("exit"))
	}
	return f
}

func note(t *testing.T, a args) fsm.Command {
	c := &fsm.Annotate{Experiments: a.ids()}
	if v, given := a.named["priority"]; given {
		p, err := fsm.ParsePriority(v)
		if err != nil {
			t.Fatal(err)
		}
		c.Priority = &p
	}
	if v, given := a.named["name"]; given {
		c.Name = &v
	}
	if v, given := a.named["notes"]; given {
		c.Notes = &v
	}
	if _, given := a.named["tags"]; given {
		c.Tags = ptr(a.list("tags"))
	}
	return c
}

// show lists the facts, leaving out what is empty.
func show(v fsm.View) string {
	var b strings.Builder
	id, name, ep := v.Cluster()
	fmt.Fprintf(&b, "cluster %s %s, epoch %d, +%s\n", id, name, ep, v.Time().Sub(epoch))
	for n := range v.Nodes() {
		fmt.Fprintf(&b, "node %s %s, %d GPUs, %d CPU slots%s\n", n.ID, n.Name, len(n.GPUs), n.CPUSlots, flags("boot", n.BootID, "draining", n.Draining, "server-only", n.NoExec))
	}
	for a := range v.AllAccess() {
		fmt.Fprintf(&b, "token %s %s%s\n", a.ID, a.Kind, flags("user", a.User, "role", string(a.Role), "uses", a.Uses, "by", a.By))
	}
	for e := range v.Experiments() {
		fmt.Fprintf(&b, "experiment %d %s%s\n", e.ID, e.Status, experimentFlags(e))
		for a := range v.Attempts(e.ID) {
			fmt.Fprintf(&b, "  attempt %d %s %s on %s%s\n", a.Number, a.Token, a.State, a.Node, flags("GPUs", strings.Join(a.GPUs, " "), "lease", lease(a.Lease), "boot", a.BootID, "port", a.Port, "resumed from", resumed(a.Resumed), "adopted", a.Adopted, "preempting", a.Preempting, "stopped by", a.StoppedBy, "exit", exit(a.ExitCode), "class", string(a.Class), "says", a.Message))
			for rank, p := range a.Gang {
				fmt.Fprintf(&b, "    rank %d %s on %s%s\n", rank, p.State(), p.Node, flags("GPUs", strings.Join(p.GPUs, " "), "boot", p.BootID, "exit", exit(p.ExitCode), "class", string(p.Class), "says", p.Message))
			}
			if why, as := e.Stop(a); why != "" {
				fmt.Fprintf(&b, "    to be stopped as %s: %s\n", as, why)
			}
		}
	}
	for e := range v.Experiments() {
		for _, c := range v.Checkpoints(e.ID) {
			fmt.Fprintf(&b, "checkpoint of %d: %d of attempt %d, %s, %d bytes in %d files on %s\n", c.Experiment, c.Seq, c.Attempt, c.Path, c.Size, c.Files, c.Node)
		}
	}
	counts := v.Counts()
	for _, s := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&b, "%d %s\n", counts[s], s)
	}
	return b.String()
}

func experimentFlags(e *fsm.Experiment) string {
	pairs := []any{"name", e.Name, "user", e.User, "tags", strings.Join(e.Tags, " "), "notes", e.Notes}
	if e.Priority != fsm.Normal {
		pairs = append(pairs, "priority", e.Priority.String())
	}
	pairs = append(pairs, "attempts", e.Attempts, "cancelling", e.Cancelling, "failures", e.Failures, "losses", e.Losses, "downed", strings.Join(e.Downed, " "), "avoids", e.AvoidNode,
		"exit", exit(e.ExitCode), "class", string(e.Class), "says", e.Message)
	for _, t := range []struct {
		name string
		at   time.Time
	}{{"not before", e.NotBefore}, {"started", e.StartedAt}, {"ended", e.EndedAt}} {
		if !t.at.IsZero() {
			pairs = append(pairs, t.name, "+"+t.at.Sub(epoch).String())
		}
	}
	return flags(append(pairs, "changed by", int(e.ModifyIndex))...)
}

// resumed reads resumed=TOKEN/SEQ.
func (a args) resumed() *fsm.Resumed {
	token, seq, given := strings.Cut(a.named["resumed"], "/")
	if !given {
		return nil
	}
	parsed, err := fsm.ParseToken(token)
	if err != nil {
		a.t.Fatal(err)
	}
	n, err := strconv.ParseUint(seq, 10, 64)
	if err != nil {
		a.t.Fatal(err)
	}
	return &fsm.Resumed{Token: parsed, Seq: n}
}

func resumed(r *fsm.Resumed) string {
	if r == nil {
		return ""
	}
	return fmt.Sprintf("%d of %s", r.Seq, r.Token)
}

func lease(d fsm.Duration) string {
	if d == 0 {
		return ""
	}
	return time.Duration(d).String()
}

func exit(code *int) string {
	if code == nil {
		return ""
	}
	return strconv.Itoa(*code)
}

// flags writes pairs of name and value, without those whose value is zero.
func flags(pairs ...any) string {
	var b strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		switch v := pairs[i+1].(type) {
		case string:
			if v != "" {
				fmt.Fprintf(&b, ", %s %s", pairs[i], v)
			}
		case int:
			if v != 0 {
				fmt.Fprintf(&b, ", %s %d", pairs[i], v)
			}
		case bool:
			if v {
				fmt.Fprintf(&b, ", %s", pairs[i])
			}
		}
	}
	return b.String()
}
