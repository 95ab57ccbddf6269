package sched

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxNamed is how many things of a kind one sentence names.
const maxNamed = 3

// list writes "a, b and c", and "a, b, c and 7 more" when there are many.
func list(words []string) string {
	n := len(words)
	switch {
	case n == 0:
		return ""
	case n == 1:
		return words[0]
	case n <= maxNamed:
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
	return fmt.Sprintf("%s and %d more", strings.Join(words[:maxNamed], ", "), n-maxNamed)
}

// numbered writes "experiment 12" or "experiments 12, 13 and 14", each once and in order.
func numbered(ids []uint64) string {
	ids = distinct(ids)
	words := make([]string, 0, len(ids))
	for _, id := range ids {
		words = append(words, strconv.FormatUint(id, 10))
	}
	if len(ids) == 1 {
		return "experiment " + words[0]
	}
	return "experiments " + list(words)
}

func distinct(ids []uint64) []uint64 { return slices.Compact(slices.Sorted(slices.Values(ids))) }

// count writes "1 GPU" or "3 GPUs".
func count(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return strconv.Itoa(n) + " " + word + "s"
}

// some is count with "no GPU" for 0.
func some(n int, word string) string {
	if n == 0 {
		return "no " + word
	}
	return count(n, word)
}

// seconds writes a duration in whole seconds, never less than one.
func seconds(d time.Duration) string { return max(time.Second, d.Round(time.Second)).String() }

// bytes writes a size in GiB with at most one digit after the point.
func bytes(n uint64) string {
	return strings.TrimSuffix(strconv.FormatFloat(float64(n)/(1<<30), 'f', 1, 64), ".0") + " GiB"
}
