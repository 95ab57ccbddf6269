package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// sight is one line of a history: attempt of experiment was alive in process pid at a time.
type sight struct {
	experiment   uint64
	attempt, seq int
	at           int64 // nanoseconds since boot
	pid          int
	last         bool
	code         int // of the exit, when last
}

// history is what the jobs testified, in the order in which it was written.
type history []sight

// readHistory reads a file of witnesses; one that does not exist yet is empty.
func readHistory(file string) (history, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the history: %w", err)
	}
	return history(nil).extend(string(text))
}

func (h history) extend(text string) (history, error) {
	for line := range strings.Lines(text) {
		s, err := parseSight(line)
		if err != nil {
			return h, err
		}
		h = append(h, s)
	}
	return h, nil
}

// ledger reads a history that grows, each line once.
type ledger struct {
	file string

	mu   sync.Mutex
	seen int64 // bytes
	h    history
}

// read gives everything that was testified so far.
func (l *ledger) read() (history, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, err := os.Open(l.file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the history: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.NewSectionReader(f, l.seen, 1<<40))
	if err != nil {
		return nil, fmt.Errorf("read the history: %w", err)
	}
	whole := bytes.LastIndexByte(text, '\n') + 1
	if l.h, err = l.h.extend(string(text[:whole])); err != nil {
		return nil, err
	}
	l.seen += int64(whole)
	return l.h[:len(l.h):len(l.h)], nil
}

// since gives the sights after a time.
func (h history) since(at int64) history {
	var out history
	for _, s := range h {
		if s.at > at {
			out = append(out, s)
		}
	}
	return out
}

// longestGap is the longest time between two sights of one attempt that follow each other.
func (h history) longestGap() time.Duration {
	var longest int64
	for i := 1; i < len(h); i++ {
		longest = max(longest, h[i].at-h[i-1].at)
	}
	return time.Duration(longest)
}

func parseSight(line string) (sight, error) {
	f := strings.Fields(line)
	if len(f) != 6 {
		return sight{}, fmt.Errorf("read the history: %q does not have 6 fields", line)
	}
	experiment, err1 := strconv.ParseUint(f[0], 10, 64)
	attempt, err2 := strconv.Atoi(f[1])
	seq, err3 := strconv.Atoi(f[2])
	at, err4 := strconv.ParseInt(f[3], 10, 64)
	pid, err5 := strconv.Atoi(f[4])
	s := sight{experiment: experiment, attempt: attempt, seq: seq, at: at, pid: pid, last: f[5] != "-"}
	var err6 error
	if s.last {
		s.code, err6 = strconv.Atoi(f[5])
	}
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		return sight{}, fmt.Errorf("read the history: %q: %w", line, err)
	}
	return s, nil
}

// of gives the sights of one attempt.
func (h history) of(experiment uint64, attempt int) history {
	var out history
	for _, s := range h {
		if s.experiment == experiment && s.attempt == attempt {
			out = append(out, s)
		}
	}
	return out
}

// attempts gives the attempts of an experiment that were seen to run, in order.
func (h history) attempts(experiment uint64) []int {
	seen := map[int]bool{}
	for _, s := range h {
		if s.experiment == experiment {
			seen[s.attempt] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// checkAttempts is G2: an attempt is one process, and an attempt begins after the one before it was seen last.
func (h history) checkAttempts() error {
	type key struct {
		experiment uint64
		attempt    int
	}
	lives := map[key]history{}
	for _, s := range h {
		k := key{s.experiment, s.attempt}
		lives[k] = append(lives[k], s)
	}
	order := slices.SortedFunc(maps.Keys(lives), func(a, b key) int {
		return cmp.Or(cmp.Compare(a.experiment, b.experiment), cmp.Compare(a.attempt, b.attempt))
	})
	var all []error
	for i, k := range order {
		life := lives[k]
		for n, s := range life {
			switch {
			case s.pid != life[0].pid:
				all = append(all, fmt.Errorf("G2: attempt %d of experiment %d ran as process %d and as %d", k.attempt, k.experiment, life[0].pid, s.pid))
			case s.seq != n+1:
				all = append(all, fmt.Errorf("G2: attempt %d of experiment %d testified number %d where %d was due", k.attempt, k.experiment, s.seq, n+1))
			default:
				continue
			}
			break
		}
		if i == 0 || order[i-1].experiment != k.experiment {
			continue
		}
		before := lives[order[i-1]]
		if end := before[len(before)-1].at; life[0].at <= end {
			all = append(all, fmt.Errorf("G2: attempt %d of experiment %d began %d ms before attempt %d was seen last",
				k.attempt, k.experiment, (end-life[0].at)/1e6, order[i-1].attempt))
		}
	}
	return errors.Join(all...)
}

// checkExit is G3: the recorded exit code is the one the process ended with.
func (h history) checkExit(experiment uint64, attempt int, recorded *int) error {
	life := h.of(experiment, attempt)
	switch {
	case len(life) == 0:
		return fmt.Errorf("G3: attempt %d of experiment %d was never seen to run", attempt, experiment)
	case !life[len(life)-1].last:
		return fmt.Errorf("G3: attempt %d of experiment %d was not seen to end by itself", attempt, experiment)
	case recorded == nil:
		return fmt.Errorf("G3: no exit code of attempt %d of experiment %d is recorded, it ended with %d", attempt, experiment, life[len(life)-1].code)
	case *recorded != life[len(life)-1].code:
		return fmt.Errorf("G3: attempt %d of experiment %d ended with %d, recorded is %d", attempt, experiment, life[len(life)-1].code, *recorded)
	}
	return nil
}

// checkOutput is G4: the stored output holds every printed line once, in order.
func (h history) checkOutput(experiment uint64, attempt int, output string) error {
	due := 1
	for line := range strings.Lines(output) {
		if strings.TrimRight(line, " x\n") != fmt.Sprintf("line %d", due) || !strings.HasSuffix(line, "\n") {
			return fmt.Errorf("G4: the output of attempt %d of experiment %d has %.40q where line %d is due", attempt, experiment, line, due)
		}
		due++
	}
	if printed := len(h.of(experiment, attempt)); due-1 != printed {
		return fmt.Errorf("G4: the output of attempt %d of experiment %d has %d lines, %d were printed", attempt, experiment, due-1, printed)
	}
	return nil
}

// named is an experiment as a node lists it. The bed gives every submission its idempotency key as name.
type named struct {
	id   uint64
	name string
}

// checkKeys is G1: on this node every acknowledged key is one experiment, the one that was acknowledged, and no key is two.
func checkKeys(node string, acknowledged map[string]uint64, listed []named) error {
	ids := map[string][]uint64{}
	for _, x := range listed {
		ids[x.name] = append(ids[x.name], x.id)
	}
	var all []error
	for _, key := range slices.Sorted(maps.Keys(ids)) {
		if len(ids[key]) > 1 {
			all = append(all, fmt.Errorf("G1: on %s key %s is the experiments %v", node, key, ids[key]))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(acknowledged)) {
		if want := acknowledged[key]; !slices.Contains(ids[key], want) {
			all = append(all, fmt.Errorf("G1: on %s experiment %d is lost, key %s was acknowledged (it is %v there)", node, want, key, ids[key]))
		}
	}
	return errors.Join(all...)
}
