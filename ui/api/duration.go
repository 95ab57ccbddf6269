package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"
)

// Duration is a time.Duration that is written to JSON as seconds, and read from seconds or from text such as "12h".
type Duration time.Duration

// MarshalJSON writes seconds.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).Seconds()) }

// UnmarshalJSON reads seconds or what time.ParseDuration reads; neither negative nor longer than 100 years.
func (d *Duration) UnmarshalJSON(data []byte) error {
	var text string
	if json.Unmarshal(data, &text) == nil {
		v, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("duration %q is neither seconds nor text such as 90s or 12h", text)
		}
		return d.set(v.Seconds())
	}
	var seconds float64
	if err := json.Unmarshal(data, &seconds); err != nil {
		return errors.New("a duration is a number of seconds or text such as 90s or 12h")
	}
	return d.set(seconds)
}

func (d *Duration) set(seconds float64) error {
	const most = 100 * 365 * 24 * 3600
	if math.IsNaN(seconds) || seconds < 0 || seconds > most {
		return errors.New("a duration is not negative and at most 100 years")
	}
	*d = Duration(math.Round(seconds * float64(time.Second)))
	return nil
}

// errOr gives a stand-in for a missing cause.
func errOr(err error) error {
	if err == nil {
		return errors.New("found something else")
	}
	return err
}
