package spec

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/deveronica/cvlab/fsm"
)

// Options is what a request says besides its text. Where it says something, it is stronger than the text.
type Options struct {
	Name, Project string
	// Priority is nil where the text decides.
	Priority *fsm.Priority
	// Device is written as in a config: cpu, cuda:0, NODE, NODE:0, NODE:[0,1], [0,1]. "any" or "" lets the text decide. A
	// node alone keeps the number of GPUs that the text asks for.
	Device string
	// GPUs is a number of GPUs of one node; 0 lets the text and Device decide.
	GPUs int
	// Set are edits key=value of the text. The key is dotted, the value YAML; a list sweeps.
	Set []string
	// Env is added to the text's.
	Env map[string]string
	// After takes the place of the text's; empty lets the text decide.
	After []uint64
	// TimeLimit is at most MaxTimeLimit; 0 lets the text decide.
	TimeLimit time.Duration
	// Retries is nil where the text decides.
	Retries *int
	// MaxParallel is 0 where the text decides.
	MaxParallel int
	// Code names a shipped snapshot of the working tree.
	Code string
}

// Result is what a submission came to.
type Result struct {
	Spec fsm.Spec
	// Warnings tell what will probably go wrong later, in the order of the text.
	Warnings []Problem
	// Count is the number of experiments, at least 1 and at most MaxSweep.
	Count int
}

// Parse reads the text of a config. Its error is an *Error with all that is wrong, as far as can be seen at once.
func Parse(text string, o Options) (*Result, error) {
	text, err := withSets(text, o.Set)
	if err != nil {
		return nil, err
	}
	root, err := load(text)
	if err != nil {
		return nil, err
	}
	m := maker{o: o, root: root, spec: fsm.Spec{Config: text}}
	return m.make()
}

// Command makes a spec of a bare command, run without a shell. Settings in o.Set are the config of such a run: a list sweeps,
// and {key} in the command stands for the value. Its error is an *Error.
func Command(argv []string, o Options) (*Result, error) {
	if err := checkArgv(argv); err != nil {
		return nil, refuse(Problem{Key: "command", Message: err.Error()})
	}
	text, err := withSets("", o.Set)
	if err != nil {
		return nil, err
	}
	root := &value{kind: yaml.MappingNode, tag: "!!map"}
	if text != "" {
		if root, err = load(text); err != nil {
			return nil, err
		}
	}
	m := maker{o: o, root: root, spec: fsm.Spec{Config: text, Command: slices.Clone(argv)}}
	return m.make()
}

// maker puts a spec together.
type maker struct {
	o    Options
	root *value
	spec fsm.Spec
	report
}

func (m *maker) make() (*Result, error) {
	b := readBlock(m.root, &m.report)
	m.command(b)
	m.names()
	m.schedule(b)
	m.device(b)
	if !b.whole {
		axes, err := axesOf(m.root)
		if bad, ok := asProblems(err); ok {
			m.problems = append(m.problems, bad.Problems...)
		}
		m.spec.Axes = shownAxes(axes)
	}
	if m.spec.NeedsKit() {
		warnKit(m.root, &m.report)
	} else {
		warnPlaceholders(&m.spec, m.root, &m.report)
	}
	if err := m.err(); err != nil {
		return nil, err
	}
	if err := m.tryOut(); err != nil {
		return nil, err
	}
	return &Result{Spec: m.spec, Warnings: m.finish(), Count: m.spec.Count()}, nil
}

// tryOut makes what the first and the last experiment are handed, so that a config that cannot be handed on is refused now,
// while somebody looks, and not on a machine at night.
func (m *maker) tryOut() error {
	for i, ordinal := range []int{0, m.spec.Count() - 1} {
		if ordinal == 0 && i > 0 && m.root.get(deviceKey) == nil {
			continue // the same text as before
		}
		_, err := Render(&m.spec, ordinal, Handed{CPU: i > 0})
		if err == nil {
			_, err = Argv(&m.spec, ordinal)
		}
		if bad, ok := asProblems(err); ok {
			return bad
		}
	}
	return nil
}

func (m *maker) command(b *block) {
	if len(b.command) == 0 && b.shell == "" {
		return
	}
	if len(m.spec.Command) > 0 {
		m.add(Problem{Key: "cvlab.command", Message: "the command is given twice", Hint: "drop the setting"})
		return
	}
	m.spec.Command, m.spec.Shell = b.command, b.shell
}

// names reads project, run_name and epochs.
func (m *maker) names() {
	m.spec.Project, m.spec.Name = "default", ""
	if p := m.root.get("project"); p != nil {
		v := p.val
		if v.isList() && len(v.items) > 0 {
			v = v.items[0]
			if len(p.val.items) > 1 {
				m.warn(at(p.val.place(), Problem{Key: "project", Message: fmt.Sprintf("the project is swept; all experiments are listed under %s", quoted(v)), Hint: "submit one config per project"}))
			}
		}
		m.name(&m.spec.Project, "project", v)
	}
	if p := m.root.get("run_name"); p != nil && p.val.isScalar() {
		m.name(&m.spec.Name, "run_name", p.val)
	}
	if m.o.Project != "" {
		m.checkName("project", m.o.Project, nil)
		m.spec.Project = m.o.Project
	}
	if m.o.Name != "" {
		m.checkName("name", m.o.Name, nil)
		m.spec.Name = m.o.Name
	}
	if len(m.o.Code) > MaxName || hasControl(m.o.Code) {
		m.add(Problem{Key: "code", Message: fmt.Sprintf("%q does not name a snapshot", clip(m.o.Code, 60))})
	}
	m.spec.Code = m.o.Code
	if p := m.root.get("epochs"); p != nil && p.val.isScalar() {
		if n, err := strconv.ParseInt(p.val.text, 10, 32); err == nil && n > 0 {
			m.spec.Epochs = int(n)
		}
	}
}

func (m *maker) name(to *string, key string, v *value) {
	switch {
	case v.isNull() || v.isScalar() && v.text == "":
	case !v.isScalar():
		m.add(at(v.place(), Problem{Key: key, Message: quoted(v) + " is not a name", Hint: "write a text"}))
	default:
		m.checkName(key, v.text, v.place())
		*to = v.text
	}
}

func (m *maker) checkName(key, s string, place *yaml.Node) {
	switch {
	case len(s) > MaxName:
		m.add(at(place, Problem{Key: key, Message: fmt.Sprintf("the name has %d bytes; the limit is %d", len(s), MaxName)}))
	case hasControl(s), key == "project" && (s == "." || s == ".."):
		m.add(at(place, Problem{Key: key, Message: fmt.Sprintf("%q cannot be a name", clip(s, 60)), Hint: "write it on one line, without control characters"}))
	}
}

// schedule takes what decides when and how the experiments run.
func (m *maker) schedule(b *block) {
	s, o := &m.spec, &m.o
	s.Priority, s.TimeLimit, s.Retries, s.MaxParallel = b.priority, fsm.Duration(b.limit), b.retries, b.parallel
	s.After, s.Env, s.Where, s.Notify, s.Launcher, s.OnContactLoss = b.after, b.env, b.where, b.notify, b.launcher, b.contact
	if s.OnContactLoss == "" {
		s.OnContactLoss = "freeze"
	}
	if s.Lease = b.lease; s.OnContactLoss == "keep" && s.Lease != "" && s.Lease != fsm.LeaseHold {
		m.add(Problem{Key: blockKey + ".lease", Message: "on_contact_loss: keep goes on for ever, so a lease cannot end", Hint: "write lease: hold, or on_contact_loss: freeze"})
	}
	if o.Priority != nil {
		if *o.Priority < fsm.Low || *o.Priority > fsm.Urgent {
			m.add(Problem{Key: "priority", Message: fmt.Sprintf("%d is no priority", int(*o.Priority)), Hint: "say low, normal, high or urgent"})
		}
		s.Priority = *o.Priority
	}
	if o.TimeLimit != 0 {
		if o.TimeLimit < 0 || o.TimeLimit > MaxTimeLimit {
			m.add(Problem{Key: "time_limit", Message: fmt.Sprintf("%s is not above 0 and at most %d days", o.TimeLimit, MaxTimeLimit/(24*time.Hour))})
		}
		s.TimeLimit = fsm.Duration(o.TimeLimit)
	}
	if o.Retries != nil {
		m.within("retries", *o.Retries, MaxRetries)
		s.Retries = *o.Retries
	}
	if o.MaxParallel != 0 {
		m.within("max_parallel", o.MaxParallel, MaxSweep)
		s.MaxParallel = o.MaxParallel
	}
	if len(o.After) > 0 {
		after, err := checkAfter(o.After)
		m.addErr("after", err)
		s.After = after
	}
	if len(o.Env) > 0 {
		env := maps.Clone(o.Env)
		if s.Env != nil {
			env = maps.Clone(s.Env)
			maps.Copy(env, o.Env)
		}
		m.addErr("env", checkEnv(env))
		s.Env = env
	}
}

func (m *maker) within(key string, n, most int) {
	if n < 0 || n > most {
		m.add(Problem{Key: key, Message: fmt.Sprintf("%d is not from 0 to %d", n, most)})
	}
}

func (m *maker) addErr(key string, err error) {
	if err != nil {
		m.add(Problem{Key: key, Message: err.Error()})
	}
}

// device lays the request's wish over the text's, and decides on the launcher, which depends on it.
func (m *maker) device(b *block) {
	var w wish
	if p := m.root.get(deviceKey); p != nil {
		var err error
		if w, err = wishOf(p.val); err != nil {
			m.add(at(p.val.place(), Problem{Key: deviceKey, Message: err.Error(), Hint: deviceHint}))
		}
	}
	if b.gpus != nil {
		if w.contradicts(*b.gpus) {
			m.add(at(b.gpusAt.place(), Problem{
				Key: "cvlab.gpus", Message: fmt.Sprintf("it asks for %s, but device asks for %s", b.gpus, w), Hint: "remove one of the two",
			}))
		}
		w = b.gpus.over(w)
	}
	asked, err := parseDevice(m.o.Device)
	if err != nil {
		m.add(Problem{Key: deviceKey, Message: err.Error(), Hint: deviceHint})
	}
	if m.o.GPUs != 0 {
		m.within("gpus", m.o.GPUs, MaxGPUs)
		number := wish{counted: true, count: m.o.GPUs}
		if asked.contradicts(number) {
			m.add(Problem{Key: "gpus", Message: fmt.Sprintf("it asks for %s, but device asks for %s", number, asked), Hint: "give only one of the two"})
		}
		asked = number.over(asked)
	}
	w = asked.over(w)
	m.spec.Device = w.device(b.memory)
	m.gang(b)
	if w.cpu && b.memory > 0 {
		m.warn(at(b.memoryAt.place(), Problem{Key: "cvlab.gpu_memory", Message: "a CPU slot has no GPU memory; this is ignored"}))
	}
	if m.spec.Launcher == "" {
		m.spec.Launcher = "none"
		if m.spec.NeedsKit() && (m.spec.Device.Count > 1 || m.spec.Device.Nodes > 1) {
			m.spec.Launcher = "torchrun"
		}
	}
}
