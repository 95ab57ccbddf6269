package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a supervisor tries to write the exit record to a disk that refuses. The place is paid for, so
// this takes a broken disk or a filesystem that copies on write.
const patience = 10 * time.Minute

// Command is the program "supervise DIR". It returns the code to exit with: 0 once the attempt has ended and is written
// down, 1 if not, 2 for wrong usage.
func Command(args []string, stderr io.Writer) int {
	if len(args) != 1 {
		fmt.Fprintln(stderr, "usage: supervise DIR (the directory of one attempt; started by the daemon, not by hand)")
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	// Caught and dropped, not ignored: an ignored signal would stay ignored in the job.
	dropped := make(chan os.Signal, 1)
	signal.Notify(dropped, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGPIPE, unix.SIGUSR1, unix.SIGUSR2)
	defer signal.Stop(dropped)
	if err := Run(ctx, args[0], slog.New(slog.NewTextHandler(stderr, nil))); err != nil {
		fmt.Fprintln(stderr, "supervise:", err)
		return 1
	}
	return 0
}

// Run stands over the attempt in dir from its start to its end and returns once exit.json is written. The end of ctx means:
// stop the job with its own grace. It may run once per process, because it takes over the process: subreaper, umask,
// every child.
func Run(ctx context.Context, dir string, log *slog.Logger) error {
	ready := inherited(readyVar)
	s, err := open(dir, log)
	if err != nil {
		confirm(ready, "refused", err)
		return err
	}
	defer s.close()
	return s.stand(ctx, ready)
}

// inherited takes a descriptor over from the daemon and keeps it from the job.
func inherited(name string) *os.File {
	fd, err := strconv.Atoi(os.Getenv(name))
	if err != nil || fd < 3 {
		return nil
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
		return nil
	}
	return os.NewFile(uintptr(fd), name)
}

// confirm tells the daemon how the start went, if it still listens.
func confirm(ready *os.File, word string, err error) {
	if ready == nil {
		return
	}
	if err != nil {
		word += " " + clip(err.Error())
	}
	_, _ = io.WriteString(ready, word+"\n") // the daemon may be gone, which is no concern of the job
	ready.Close()
}

// standing is everything a supervisor holds on to.
type standing struct {
	dir   *os.File // locked
	path  string
	rec   Record
	group *cgroup
	exit  *os.File
	life  *os.File
	log   *slog.Logger
	// oomBefore is the machine's count of processes killed for memory when the job began; -1 if it is not known.
	oomBefore int
}

// open checks that this attempt may be started, now and by us, and opens what is needed at the end first.
func open(path string, log *slog.Logger) (*standing, error) {
	dir, err := takeLock(path)
	if err != nil {
		return nil, err
	}
	s := &standing{dir: dir, path: path, log: log}
	if err := s.load(); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return s, nil
}

func takeLock(path string) (*os.File, error) {
	dir := inherited(lockVar)
	if dir == nil {
		return Lock(path)
	}
	given, err := dir.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("take over lock: %w", err), dir.Close())
	}
	named, err := os.Stat(path)
	if err != nil || !os.SameFile(given, named) {
		return nil, errors.Join(errors.New("take over lock: it is of another directory"), err, dir.Close())
	}
	return dir, nil
}

func (s *standing) load() error {
	var err error
	if s.rec, err = ReadRecord(s.path); err != nil {
		return err
	}
	if nonce, ok := os.LookupEnv(nonceVar); ok && nonce != s.rec.Nonce {
		return errors.New("check attempt: the nonce is of another attempt")
	}
	if Buried(s.path) {
		return errors.New("check attempt: it is settled (tombstone)")
	}
	if _, err := ReadExit(s.path); !errors.Is(err, ErrBlank) {
		return errors.Join(errors.New("check attempt: it has an exit record already"), err)
	}
	if _, err := ReadLife(s.path); !errors.Is(err, ErrBlank) {
		return errors.Join(errors.New("check attempt: it was launched before"), err)
	}
	if s.exit, err = os.OpenFile(filepath.Join(s.path, ExitFile), os.O_WRONLY, 0); err != nil {
		return fmt.Errorf("open exit record: %w", err)
	}
	if s.life, err = os.OpenFile(filepath.Join(s.path, LifeFile), os.O_WRONLY, 0); err != nil {
		return errors.Join(fmt.Errorf("open process record: %w", err), s.exit.Close())
	}
	return nil
}

func (s *standing) close() {
	s.group.remove()
	for _, f := range []*os.File{s.exit, s.life, s.dir} { // the lock last: until then we are alive
		f.Close()
	}
}

// stand is the whole life: prepare, start, confirm, wait, write down.
func (s *standing) stand(ctx context.Context, ready *os.File) error {
	begun := time.Now()
	s.oomBefore = hostOOMKills()
	lease := s.lease()
	if lease.Over(Boottime()) {
		return s.startFailed(ctx, ready, nil, begun, errLeaseOver)
	}
	out, ctl, err := s.prepare()
	if err != nil {
		return s.startFailed(ctx, ready, nil, begun, err)
	}
	defer out.Close()
	defer s.noteRenames()()
	births, deaths := make(chan birth, 1), make(chan death, 2)
	var work sync.WaitGroup
	defer work.Wait()
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	room := newOutputRoom(out, filepath.Join(s.path, LogFile), s.log)
	work.Go(func() { room.run(serving) })
	work.Go(func() { reap(s.rec, s.group, out, s.log, births, deaths) })
	work.Go(func() {
		if err := ctl.run(serving); err != nil {
			s.log.Error("control socket", "error", err)
		}
	})
	b := <-births
	if b.err != nil {
		return s.startFailed(ctx, ready, out, begun, b.err)
	}
	s.record(b.main)
	confirm(ready, "started", nil)
	noCore(s.log)
	j := newJob(s.rec, b.main, s.group, s.log)
	j.lease = lease
	j.loop(ctx, ctl.questions(), deaths)
	e := j.exit()
	e.StartedAt = begun
	err = s.finish(ctx, e, out)
	if err == nil && e.Reason == ReasonRevoked {
		// Last, so that whoever looks meanwhile still finds somebody standing over it.
		err = Bury(s.path)
	}
	return err
}

var errLeaseOver = errors.New("no word from the cluster for its whole lease before it could start")

// lease is the lease as the record has it, or as it was renewed between the record and the start.
func (s *standing) lease() Lease {
	start := s.rec.LeaseStart
	if ns, err := strconv.ParseInt(os.Getenv(leaseVar), 10, 64); err == nil {
		start = max(start, time.Duration(ns))
	}
	return NewLease(s.rec.Limits.Lease, start, s.rec.ContactLoss)
}

func (s *server) questions() <-chan ask {
	if s == nil {
		return nil
	}
	return s.asks
}

// prepare makes everything the job needs. Only the output file and the process record are essential.
func (s *standing) prepare() (*os.File, *server, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, nil, fmt.Errorf("become subreaper: %w", err)
	}
	var err error
	if s.group, err = newCgroup(s.rec.Token, Mark(s.rec.Nonce)); err != nil {
		s.log.Info("no cgroup of its own for the job, its processes will be found by walking", "error", err)
	}
	if err := s.writeLife(Proc{}); err != nil {
		return nil, nil, err
	}
	unix.Umask(0o077) // for the socket and the log, which are nobody else's business
	ctl, err := listen(s.dir, s.rec.Nonce, s.log)
	if err != nil { // a disk without free inodes: SIGTERM still works
		s.log.Warn("no control socket, only SIGTERM will stop this job", "error", err)
	}
	out, err := os.OpenFile(filepath.Join(s.path, LogFile), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	unix.Umask(0o022)
	if err != nil {
		return nil, nil, fmt.Errorf("open output file: %w", err)
	}
	return out, ctl, nil
}

// record puts the job's process into pid.json. The job runs already and must not suffer if that fails.
func (s *standing) record(main Proc) {
	if err := s.writeLife(main); err != nil {
		s.log.Error("write process record", "error", err)
	}
}

// writeLife fills pid.json in place, without a sync: it matters only as long as this kernel runs.
func (s *standing) writeLife(main Proc) error {
	own, err := readStat(os.Getpid())
	if err != nil {
		return fmt.Errorf("read own process: %w", err)
	}
	data, err := EncodeLife(Life{
		Token: s.rec.Token, Nonce: s.rec.Nonce, Experiment: s.rec.Experiment, Attempt: s.rec.Attempt,
		BootID: s.rec.BootID, Supervisor: own.Proc, Job: main, Cgroup: s.group.name(),
	})
	if err != nil {
		return err
	}
	if err := writeBlock(s.life, data); err != nil {
		return fmt.Errorf("write process record: %w", err)
	}
	return nil
}

// noCore keeps the supervisor from dumping its memory. After the start, so that the job keeps its own limit.
func noCore(log *slog.Logger) {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &lim); err != nil {
		return
	}
	lim.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &lim); err != nil {
		log.Info("turn core dumps off", "error", err)
	}
}

// startFailed writes down that the job never ran, where programs look and where people look.
func (s *standing) startFailed(ctx context.Context, ready, out *os.File, begun time.Time, why error) error {
	code := codeNotExecutable
	if se, ok := errors.AsType[*startError](why); ok {
		code = se.code
	}
	if out != nil {
		fmt.Fprintf(out, "cvlab: could not start: %v\n", why)
	}
	e := Exit{Token: s.rec.Token, Reason: ReasonStartFailed, Code: code, Message: why.Error(), StartedAt: begun}
	if errors.Is(why, errLeaseOver) {
		e.Reason, e.Code = ReasonLeaseExpired, -1
	}
	err := s.finish(ctx, e, out)
	confirm(ready, "failed", why)
	return err
}

// finish writes the exit record, and keeps trying on a sick disk: nobody else knows what it says.
func (s *standing) finish(ctx context.Context, e Exit, out *os.File) error {
	e.EndedAt = time.Now()
	var use unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &use); err == nil {
		e.UserTime, e.SystemTime = time.Duration(use.Utime.Nano()), time.Duration(use.Stime.Nano())
		e.MaxRSS = use.Maxrss * 1024
	}
	e.OOMKills, e.HostOOMKills = s.oomKills(e, hostOOMKills())
	if out != nil {
		if info, err := out.Stat(); err == nil {
			e.LogSize = info.Size()
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	for {
		err := writeExit(s.exit, e)
		if err == nil {
			return nil
		}
		s.log.Error("write exit record, will try again", "error", err, "reason", e.Reason, "code", e.Code)
		if !sleep(ctx, time.Second) {
			return err
		}
	}
}
