package executor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/deveronica/cvlab/executor/supervisor"
)

const quarantineDir = ".quarantine"

// QuarantineDir is where Recover puts directories that make no sense. It may not exist.
func (r *Runner) QuarantineDir() string { return filepath.Join(r.opts.AttemptsDir, quarantineDir) }

// Found is what Recover found in one directory.
type Found struct {
	Token      string // for a quarantined directory its name
	Experiment uint64
	Attempt    int
	BootID     string // of the boot it was recorded in
	// Lease and LeaseStart are those of the record; see Job.
	Lease, LeaseStart time.Duration
	// GPUs and CreatedAt are those of the record; see Job.
	GPUs      []string
	CreatedAt time.Time
	State     State
	Exit      Exit  // if Ended or Lost
	Err       error // why it was quarantined
	// Alive says of a quarantined directory that a supervisor still stands over it: the job may run. Occupied tells when
	// that is over; until then the attempt has not ended.
	Alive bool
}

// Occupied says whether a supervisor stands over the directory of an attempt, also when its records are damaged. What
// cannot be found out counts as occupied: nobody may take a job for ended that may run.
func (r *Runner) Occupied(token string) bool {
	if !supervisor.ValidToken(token) {
		return false
	}
	alive, err := supervisor.Alive(r.dir(token))
	return alive || err != nil && !errors.Is(err, os.ErrNotExist)
}

// Recover reads every attempt's directory and takes it up: what runs is watched again, what ended meanwhile is known, what
// was lost is cleaned up and written down. It changes nothing for a job that runs. A directory that makes no sense is moved
// to .quarantine and reported, never fatal; an error means that the directory of directories cannot be read. Call it once,
// before anything else.
func (r *Runner) Recover(ctx context.Context) ([]Found, error) {
	entries, err := os.ReadDir(r.opts.AttemptsDir)
	if err != nil {
		return nil, fmt.Errorf("recover attempts: %w", err)
	}
	var found []Found
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return found, fmt.Errorf("recover attempts: %w", err)
		}
		name := e.Name()
		dir := r.dir(name)
		switch {
		case strings.HasPrefix(name, ".prepare-"): // Prepare was interrupted; nothing can have used it
			if err := os.RemoveAll(dir); err != nil {
				r.log.Warn("remove unfinished attempt", "dir", dir, "error", err)
			}
		case strings.HasPrefix(name, "."), supervisor.Buried(dir):
		default:
			found = append(found, r.recoverOne(ctx, name, dir))
		}
	}
	return found, nil
}

func (r *Runner) recoverOne(ctx context.Context, name, dir string) Found {
	rec, alive, err := r.identify(name, dir)
	if err != nil {
		return r.setAside(name, dir, alive, err)
	}
	a := &attempt{token: name, dir: dir, rec: rec, done: make(chan struct{})}
	life, lifeErr := supervisor.ReadLife(dir)
	_, exitErr := supervisor.ReadExit(dir)
	switch {
	case alive:
		a.pidfd = r.attach(name, life, lifeErr)
	case rec.BootID != r.opts.BootID:
		a.state, a.exit = r.autopsy(ctx, dir, rec, "the machine was restarted while it was here")
	case errors.Is(lifeErr, supervisor.ErrBlank) && errors.Is(exitErr, supervisor.ErrBlank):
		a.state = Prepared // pid.json is written before the job's first instruction: it never ran
	default:
		a.state, a.exit = r.autopsy(ctx, dir, rec, "its supervisor was gone when the daemon came back")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.attempts[name]; old != nil { // called twice: keep what is being watched
		return old.found()
	}
	r.attempts[name] = a
	switch {
	case alive:
		r.runningLocked(a)
	case a.state != Prepared:
		close(a.done)
	}
	r.log.Info("attempt found", "token", name, "state", a.state.String())
	return a.found()
}

func (a *attempt) found() Found {
	return Found{Token: a.token, Experiment: a.rec.Experiment, Attempt: a.rec.Attempt, BootID: a.rec.BootID, State: a.state, Exit: a.exit,
		Lease: a.rec.Limits.Lease, LeaseStart: a.rec.LeaseStart,
		GPUs: a.rec.GPUs, CreatedAt: a.rec.CreatedAt}
}

// identify says whose directory this is and whether anybody stands over it. For one whose attempt.json is damaged while its
// job runs, pid.json knows enough to go on.
func (r *Runner) identify(name, dir string) (supervisor.Record, bool, error) {
	info, err := os.Lstat(dir)
	if err == nil && !info.IsDir() {
		err = errors.New("not a directory")
	}
	if err == nil && !supervisor.ValidToken(name) {
		err = errors.New("its name is no token")
	}
	if err != nil {
		return supervisor.Record{}, false, err
	}
	alive, err := supervisor.Alive(dir)
	if err != nil {
		return supervisor.Record{}, false, err
	}
	rec, err := supervisor.ReadRecord(dir)
	if err != nil && alive {
		if life, lifeErr := supervisor.ReadLife(dir); lifeErr == nil {
			r.log.Error("attempt record is damaged, going on with the process record: the job runs", "token", name, "error", err)
			rec, err = supervisor.Record{
				Token: life.Token, Nonce: life.Nonce, Experiment: life.Experiment, Attempt: life.Attempt, BootID: life.BootID,
			}, nil
		}
	}
	if err == nil && rec.Token != name {
		err = fmt.Errorf("the record in it is of attempt %s", rec.Token)
	}
	return rec, alive, err
}

// attach gets a handle on a living supervisor. Without one the lock is watched instead, which is as safe and a little later.
func (r *Runner) attach(token string, life supervisor.Life, err error) *os.File {
	if err == nil {
		var f *os.File
		if f, err = supervisor.Attach(life); err == nil {
			return f
		}
	}
	r.log.Warn("no handle on the supervisor, watching its lock", "token", token, "error", err)
	return nil
}

// setAside moves a directory that makes no sense out of the way, unless somebody stands over it.
func (r *Runner) setAside(name, dir string, alive bool, why error) Found {
	f := Found{Token: name, State: Quarantined, Err: why, Alive: alive}
	if alive {
		r.mu.Lock()
		r.unknown[name] = true
		r.mu.Unlock()
		r.log.Error("a supervisor stands over an attempt whose records are damaged; nothing new starts here until it ends",
			"dir", dir, "error", why)
		return f
	}
	to := filepath.Join(r.opts.AttemptsDir, quarantineDir, name)
	err := os.MkdirAll(filepath.Dir(to), 0o700)
	if err == nil {
		if _, taken := os.Lstat(to); taken == nil {
			to += time.Now().UTC().Format("-20060102T150405.000000000")
		}
		err = os.Rename(dir, to)
	}
	if err != nil {
		f.Err = errors.Join(why, fmt.Errorf("move to quarantine: %w", err))
	}
	r.log.Error("attempt directory put aside", "dir", dir, "to", to, "error", f.Err)
	return f
}
