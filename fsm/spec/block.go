package spec

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/deveronica/cvlab/fsm"
)

// block is what the cvlab: block of a config says.
type block struct {
	command  []string
	shell    string
	gpus     *wish
	gpusAt   *value
	memory   uint64
	memoryAt *value
	nodes    int
	nodesAt  *value
	where    map[string]string
	priority fsm.Priority
	limit    time.Duration
	retries  int
	after    []uint64
	parallel int
	env      map[string]string
	launcher string
	contact  string
	lease    string
	whole    bool // sweep: false
	notify   []string
}

// blockReader reads one value of the block into it; the error says what is wrong with it.
type blockReader struct {
	read func(b *block, v *value) error
	hint string
}

// blockKeys is the table of all keys of the cvlab: block.
func blockKeys() map[string]blockReader {
	return map[string]blockReader{
		"command":         {readCommand, "write a line for the shell, or a list of words to run without one"},
		"gpus":            {readGPUs, fmt.Sprintf("write a number from 0 (a CPU slot) to %d", MaxGPUs)},
		"gpu_memory":      {readMemory, "write a size such as 20GiB"},
		"nodes":           {readNodes, fmt.Sprintf("write a number of machines from 1 to %d", fsm.MaxGang)},
		"where":           {func(b *block, v *value) (err error) { b.where, err = readWhere(v); return err }, `write labels, such as {zone: b, gpu: "RTX 4090"}`},
		"priority":        {readPriority, "write low, normal, high or urgent"},
		"time_limit":      {readTimeLimit, "write a duration such as 12h, 90m or 1d12h, or seconds as a number"},
		"retries":         {func(b *block, v *value) (err error) { b.retries, err = v.whole(0, MaxRetries); return err }, "write a number"},
		"after":           {readAfter, "write the numbers of experiments, such as [17, 18]"},
		"max_parallel":    {func(b *block, v *value) (err error) { b.parallel, err = v.whole(1, MaxSweep); return err }, "write a number"},
		"env":             {func(b *block, v *value) (err error) { b.env, err = readEnv(v); return err }, "write names and values, such as {WANDB_MODE: offline}"},
		"launcher":        {func(b *block, v *value) (err error) { b.launcher, err = v.oneOf("none", "torchrun"); return err }, "write none or torchrun"},
		"on_contact_loss": {func(b *block, v *value) (err error) { b.contact, err = v.oneOf("freeze", "kill", "keep"); return err }, "write freeze, kill or keep"},
		"lease":           {readLease, "write hold, or a duration from 1m to 7d such as 10m"},
		"sweep":           {readSweep, "write true or false"},
		"notify":          {readNotify, "write web addresses, such as [https://example.org/hook]"},
	}
}

// readBlock reads the cvlab: block; all that is wrong with it goes into the report.
func readBlock(root *value, r *report) *block {
	b := &block{}
	p := root.get(blockKey)
	if p == nil || p.val.isNull() {
		return b
	}
	if !p.val.isMap() {
		r.add(at(p.val.place(), Problem{Key: blockKey, Message: "it is not a map", Hint: "write cvlab: {priority: high}, or the keys below it, indented"}))
		return b
	}
	keys := blockKeys()
	var names []string
	for name := range keys { // any order: sorted below
		names = append(names, name)
	}
	slices.Sort(names)
	for _, e := range p.val.pairs {
		key := blockKey + "." + e.key.Value
		reader, known := keys[e.key.Value]
		if !known {
			hint := "known keys: " + strings.Join(names, ", ")
			if n := nearest(e.key.Value, names); n != "" {
				hint = fmt.Sprintf("did you mean %s?", n)
			}
			r.add(at(e.key, Problem{Key: key, Message: "cvlab does not know this key", Hint: hint}))
			continue
		}
		if e.val.isNull() { // a key that is there without a value says nothing
			continue
		}
		if err := reader.read(b, e.val); err != nil {
			r.add(at(e.val.place(), Problem{Key: key, Message: err.Error(), Hint: reader.hint}))
		}
	}
	return b
}

// whole reads a whole number within limits. YAML numbers such as 1e2, 0x10 or .inf are not what somebody means here.
func (v *value) whole(least, most int) (int, error) {
	n, err := strconv.ParseInt(v.text, 10, 64)
	switch {
	case !v.isScalar() || err != nil:
		return 0, fmt.Errorf("%s is not a whole number from %d to %d", quoted(v), least, most)
	case n < int64(least) || n > int64(most):
		return 0, fmt.Errorf("%s is not from %d to %d", quoted(v), least, most)
	}
	return int(n), nil
}

func (v *value) oneOf(words ...string) (string, error) {
	if v.isScalar() && slices.Contains(words, v.text) {
		return v.text, nil
	}
	return "", fmt.Errorf("%s is not one of %s", quoted(v), strings.Join(words, ", "))
}

// quoted shows a value in a message.
func quoted(v *value) string {
	switch v.kind {
	case yaml.SequenceNode:
		return "a list"
	case yaml.MappingNode:
		return "a map"
	}
	return strconv.Quote(clip(v.text, 60))
}

func readCommand(b *block, v *value) error {
	switch {
	case v.isScalar():
		if strings.TrimSpace(v.text) == "" {
			return fmt.Errorf("the command is empty")
		}
		b.shell = v.text
		return checkArgv([]string{v.text})
	case v.isList():
		var argv []string
		for i, item := range v.items {
			if !item.isScalar() || item.isNull() {
				return fmt.Errorf("word %d of the command is not a text", i+1)
			}
			argv = append(argv, item.text)
		}
		b.command = argv
		return checkArgv(argv)
	}
	return fmt.Errorf("%s is not a command", quoted(v))
}

// checkArgv refuses what no program can be started with.
func checkArgv(argv []string) error {
	if len(argv) == 0 || strings.TrimSpace(argv[0]) == "" {
		return fmt.Errorf("the command is empty")
	}
	total := 0
	for i, a := range argv {
		if strings.IndexByte(a, 0) >= 0 {
			return fmt.Errorf("word %d of the command has a NUL character in it", i+1)
		}
		total += len(a) + 1
	}
	if total > maxCommand {
		return fmt.Errorf("the command has %d bytes; the limit is %d", total, maxCommand)
	}
	return nil
}

func readGPUs(b *block, v *value) error {
	n, err := v.whole(0, MaxGPUs)
	if err != nil {
		return err
	}
	b.gpus, b.gpusAt = &wish{cpu: n == 0, counted: n > 0, count: n}, v
	return nil
}

func readMemory(b *block, v *value) (err error) {
	if !v.isScalar() {
		return fmt.Errorf("%s is not a size", quoted(v))
	}
	b.memory, err = parseSize(v.text)
	b.memoryAt = v
	return err
}

func readNodes(b *block, v *value) (err error) {
	b.nodes, err = v.whole(1, fsm.MaxGang)
	b.nodesAt = v
	return err
}

func readPriority(b *block, v *value) (err error) {
	if _, err = v.oneOf("low", "normal", "high", "urgent"); err != nil {
		return err
	}
	b.priority, err = fsm.ParsePriority(v.text)
	return err
}

func readTimeLimit(b *block, v *value) (err error) {
	if !v.isScalar() {
		return fmt.Errorf("%s is not a duration", quoted(v))
	}
	b.limit, err = parseDuration(v.text)
	return err
}

// The shortest and the longest lease. A shorter one would freeze experiments for a slow disk or an election.
const (
	minLease = time.Minute
	maxLease = 7 * 24 * time.Hour
)

func readLease(b *block, v *value) error {
	if v.isScalar() && v.text == fsm.LeaseHold {
		b.lease = fsm.LeaseHold
		return nil
	}
	if !v.isScalar() {
		return fmt.Errorf("%s is not a duration", quoted(v))
	}
	d, err := parseDuration(v.text)
	if err != nil {
		return err
	}
	if d < minLease || d > maxLease {
		return fmt.Errorf("%s is not from %s to %d days", quoted(v), minLease, maxLease/(24*time.Hour))
	}
	b.lease = d.String()
	return nil
}

// listOf gives the items of a list, or a single value as a list of one.
func listOf(v *value) []*value {
	if v.isList() {
		return v.items
	}
	return []*value{v}
}

func readAfter(b *block, v *value) error {
	var ids []uint64
	for _, item := range listOf(v) {
		n, err := strconv.ParseUint(item.text, 10, 63)
		if err != nil || !item.isScalar() {
			return fmt.Errorf("%s is not the number of an experiment", quoted(item))
		}
		ids = append(ids, n)
	}
	var err error
	b.after, err = checkAfter(ids)
	return err
}

// checkAfter refuses impossible numbers and drops repeats.
func checkAfter(ids []uint64) ([]uint64, error) {
	if len(ids) > MaxAfter {
		return nil, fmt.Errorf("%d experiments to wait for; the limit is %d", len(ids), MaxAfter)
	}
	var out []uint64
	for _, id := range ids {
		if id == 0 || id > 1<<63-1 {
			return nil, fmt.Errorf("%d is not the number of an experiment; they begin at 1", id)
		}
		if !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out, nil
}

func readSweep(b *block, v *value) error {
	if !v.isScalar() || v.tag != "!!bool" {
		return fmt.Errorf("%s is neither true nor false", quoted(v))
	}
	b.whole = !pyTrue.MatchString(v.text)
	return nil
}

func readNotify(b *block, v *value) error {
	items := listOf(v)
	if len(items) > maxNotify {
		return fmt.Errorf("%d addresses; the limit is %d", len(items), maxNotify)
	}
	for _, item := range items {
		u, err := url.Parse(item.text)
		if err != nil || !item.isScalar() || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || len(item.text) > 2000 {
			return fmt.Errorf("%s is not a web address", quoted(item))
		}
		b.notify = append(b.notify, item.text)
	}
	return nil
}

// texts reads a map of scalars, each as it was written.
func texts(v *value) (map[string]string, error) {
	if !v.isMap() {
		return nil, fmt.Errorf("%s is not a map", quoted(v))
	}
	out := map[string]string{}
	for _, p := range v.pairs {
		switch {
		case !p.val.isScalar():
			return nil, fmt.Errorf("%s of %q is not a text", quoted(p.val), clip(p.key.Value, 60))
		case p.val.isNull():
			out[p.key.Value] = ""
		default:
			out[p.key.Value] = p.val.text
		}
	}
	return out, nil
}

func readWhere(v *value) (map[string]string, error) {
	out, err := texts(v)
	if err != nil {
		return nil, err
	}
	for _, p := range v.pairs {
		key, text := p.key.Value, out[p.key.Value]
		switch {
		case key == "" || len(key) > maxLabel || hasControl(key):
			return nil, fmt.Errorf("%q cannot be a label", clip(key, 60))
		case text == "" || len(text) > maxLabel || hasControl(text):
			return nil, fmt.Errorf("%q cannot be the value of %s", clip(text, 60), key)
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

func readEnv(v *value) (map[string]string, error) {
	out, err := texts(v)
	if err != nil {
		return nil, err
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, checkEnv(out)
}

// checkEnv refuses names that no environment can have, and those that are cvlab's own.
func checkEnv(env map[string]string) error {
	var names []string
	for name := range env { // any order: sorted below
		names = append(names, name)
	}
	slices.Sort(names)
	total := 0
	for _, name := range names {
		total += len(name) + len(env[name]) + 2
		switch {
		case name == "" || strings.ContainsAny(name, "=\x00") || hasControl(name):
			return fmt.Errorf("%q cannot be the name of an environment variable", clip(name, 60))
		case strings.HasPrefix(name, "CVLAB_"):
			return fmt.Errorf("%s is for cvlab itself to set", clip(name, 60))
		case strings.IndexByte(env[name], 0) >= 0:
			return fmt.Errorf("the value of %s has a NUL character in it", clip(name, 60))
		}
	}
	if total > maxEnv {
		return fmt.Errorf("the environment has %d bytes; the limit is %d", total, maxEnv)
	}
	return nil
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' })
}
