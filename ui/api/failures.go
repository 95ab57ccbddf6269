package api

import (
	"fmt"
	"math"
	"net/http"
	"sync"
	"time"
)

// How many wrong tokens an address may show in a window, and how long it then waits: twice as long each time, up to an
// hour. Good tokens are always taken, so that one broken script does not lock out a lab behind the same address; they
// cannot be guessed anyway, and the limit only keeps the noise down.
const (
	failLimit   = 10
	failWindow  = time.Minute
	failWaitMax = time.Hour
	failPeople  = 10_000 // addresses remembered
)

type failure struct {
	first  time.Time // of the window
	count  int
	until  time.Time // refused until then
	wait   time.Duration
	lastAt time.Time
}

// failures counts wrong tokens by address. It is safe for concurrent use.
type failures struct {
	mu sync.Mutex
	by map[string]*failure
}

func newFailures() *failures { return &failures{by: map[string]*failure{}} }

// add counts one and gives the answer: 401 with the reason, or 429 once there were too many.
func (f *failures) add(address, why string) *Error {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	x := f.by[address]
	if x == nil {
		f.makeRoom(now)
		x = &failure{first: now, wait: failWindow}
		f.by[address] = x
	}
	x.lastAt = now
	if now.Before(x.until) {
		return tooMany(x.until.Sub(now))
	}
	if now.Sub(x.first) >= failWindow {
		x.first, x.count = now, 0
		if now.Sub(x.until) > failWaitMax {
			x.wait = failWindow
		}
	}
	if x.count++; x.count > failLimit {
		x.until = now.Add(x.wait)
		x.wait, x.count = min(2*x.wait, failWaitMax), 0
		return tooMany(x.until.Sub(now))
	}
	return problem(http.StatusUnauthorized, why, "check the token; an administrator makes a new one with: cvlab token create --user NAME --role member")
}

// blocked gives the answer for an address that must wait, nil for others.
func (f *failures) blocked(address string) *Error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if x := f.by[address]; x != nil && time.Now().Before(x.until) {
		return tooMany(time.Until(x.until))
	}
	return nil
}

// makeRoom forgets what is over, and when that is not enough, whoever failed longest ago.
func (f *failures) makeRoom(now time.Time) {
	if len(f.by) < failPeople {
		return
	}
	oldest := ""
	for address, x := range f.by {
		if now.Sub(x.lastAt) > failWindow && now.After(x.until) {
			delete(f.by, address)
		} else if oldest == "" || x.lastAt.Before(f.by[oldest].lastAt) {
			oldest = address
		}
	}
	if len(f.by) >= failPeople {
		delete(f.by, oldest)
	}
}

func tooMany(wait time.Duration) *Error {
	seconds := int(math.Ceil(wait.Seconds()))
	e := problem(http.StatusTooManyRequests, "too many wrong tokens from this address", fmt.Sprintf("wait %d seconds", seconds))
	e.RetryAfter = seconds
	return e
}
