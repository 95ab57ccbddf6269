package main

import (
	"strconv"
	"strings"

	"github.com/deveronica/cvlab/fsm"
)

// maxRange is how many experiments one range may name; larger selections are made by --project and --status.
const maxRange = 10_000

// ids reads experiment numbers and ranges such as 3 5-9 or 3,5-9.
func ids(args []string) ([]uint64, error) {
	var list []uint64
	for _, arg := range args {
		for word := range strings.SplitSeq(arg, ",") {
			from, to, isRange := strings.Cut(word, "-")
			a, err := number(from)
			if err != nil {
				return nil, err
			}
			b := a
			if isRange {
				if b, err = number(to); err != nil {
					return nil, err
				}
			}
			if b < a || b-a >= maxRange {
				return nil, usage("%q: want a range of at most %d experiments, such as 3-9", word, maxRange)
			}
			for i := range b - a + 1 {
				list = append(list, a+i)
			}
		}
	}
	return list, nil
}

func number(word string) (uint64, error) {
	id, err := strconv.ParseUint(strings.TrimPrefix(word, "#"), 10, 64)
	if err != nil || id == 0 {
		return 0, usage("%q is not the number of an experiment; cvlab queue lists them", word)
	}
	return id, nil
}

// statuses reads status words, comma-separated.
func statuses(list []string) ([]fsm.Status, error) {
	var found []fsm.Status
	for _, arg := range list {
		for word := range strings.SplitSeq(arg, ",") {
			s := fsm.Status(word)
			known := false
			for _, k := range fsm.Statuses() {
				known = known || s == k
			}
			if !known {
				return nil, usage("status %q is not one of pending, running, completed, failed, cancelled, held", word)
			}
			found = append(found, s)
		}
	}
	return found, nil
}
