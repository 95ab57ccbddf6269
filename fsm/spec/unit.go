package spec

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

var (
	sizeText     = regexp.MustCompile(`^(?i)([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([KMGT]i?B?|B)$`)
	durationText = regexp.MustCompile(`^(?:([0-9]{1,6}(?:\.[0-9]{1,6})?)\s*d)?\s*(?:([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*h)?\s*(?:([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*m(?:in)?)?\s*(?:([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*s)?$`)
	plainNumber  = regexp.MustCompile(`^[0-9]{1,12}(?:\.[0-9]{1,9})?$`)
)

// parseSize reads a size in bytes such as 20GiB, 20GB, 500MiB or 1.5TiB; iB counts by 1024, B by 1000, and a bare G is a
// GiB, as GPU memory is counted. A number without a unit is refused: nobody means 20 bytes.
func parseSize(s string) (uint64, error) {
	m := sizeText.FindStringSubmatch(strings.TrimSpace(s))
	if m == nil {
		return 0, fmt.Errorf("%q is not a size", clip(s, 40))
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a size: %w", clip(s, 40), err)
	}
	unit, base := strings.ToUpper(m[2]), 1024.0
	if len(unit) == 2 && unit[1] == 'B' {
		base = 1000
	}
	n *= math.Pow(base, float64(1+strings.IndexByte("KMGT", unit[0])))
	switch {
	case n < 1:
		return 0, errors.New("must be above 0")
	case n > maxMemory:
		return 0, fmt.Errorf("%q is more than any GPU has", clip(s, 40))
	}
	return uint64(n), nil
}

// parseDuration reads 12h, 90m, 1d12h, 1h30m20s, or a number of seconds.
func parseDuration(s string) (time.Duration, error) {
	s = strings.TrimSpace(s)
	var seconds float64
	if plainNumber.MatchString(s) {
		seconds, _ = strconv.ParseFloat(s, 64) // the pattern has only numbers that parse
	} else {
		m := durationText.FindStringSubmatch(s)
		if m == nil || s == "" {
			return 0, fmt.Errorf("%q is not a duration", clip(s, 40))
		}
		for i, unit := range []float64{24 * 3600, 3600, 60, 1} {
			if m[i+1] != "" {
				n, _ := strconv.ParseFloat(m[i+1], 64)
				seconds += n * unit
			}
		}
	}
	switch {
	case seconds > MaxTimeLimit.Seconds():
		return 0, fmt.Errorf("%q is above the limit of %d days", clip(s, 40), MaxTimeLimit/(24*time.Hour))
	case seconds < 0.001:
		return 0, errors.New("must be above 0")
	}
	return time.Duration(math.Round(seconds*1000)) * time.Millisecond, nil
}
