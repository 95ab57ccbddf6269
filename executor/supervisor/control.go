package supervisor

import (
	"bufio"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	maxRequest  = 4096            // bytes of a request or an answer, with the newline
	askTimeout  = 3 * time.Second // for one question, both sides
	maxCallers  = 8               // questions answered at the same time
	maxWhyBytes = 256
)

// Operations a supervisor understands.
const (
	OpStatus = "status" // how is it
	OpStop   = "stop"   // end the job: SIGTERM, grace, SIGKILL
	OpSignal = "signal" // hand a signal to those processes of the job that wait for it
	OpRenew  = "renew"  // the lease counts from SentNS
	OpRevoke = "revoke" // kill at once; the attempt is settled afterwards
	OpFreeze = "freeze" // let nothing of the job execute any more; no renewal undoes it
)

// ErrRefused is returned when the supervisor answered and would not.
var ErrRefused = errors.New("supervisor refused")

// Request is one line on the control socket.
type Request struct {
	Version int      `json:"v"`
	Nonce   string   `json:"nonce"`
	Op      string   `json:"op"`
	GraceS  *float64 `json:"grace_s,omitempty"` // stop: seconds, 0 kills at once, absent means the record's own grace
	Signal  string   `json:"signal,omitempty"`  // signal: a name like SIGUSR1
	Why     string   `json:"why,omitempty"`     // stop, revoke: goes into the exit record; freeze: is told to people
	// SentNS is when the question was sent to which the cluster said yes: nanoseconds of CLOCK_BOOTTIME. For renew.
	SentNS int64 `json:"sent_ns,omitempty"`
}

// Answer is one line back.
type Answer struct {
	Version int    `json:"v"`
	OK      bool   `json:"ok"`
	Error   string `json:"error,omitempty"`
	Phase   string `json:"phase,omitempty"`  // running, draining, stopping, lingering, killing, ended
	PID     int    `json:"pid,omitempty"`    // of the job's main process
	Reached int    `json:"reached"`          // signal: how many processes got it
	Frozen  bool   `json:"frozen,omitempty"` // it stands still: its lease has ended, or somebody asked for it
	// FrozenNS is for how long it has been frozen, on CLOCK_BOOTTIME.
	FrozenNS int64 `json:"frozen_ns,omitempty"`
	// Held is why somebody had it frozen for good; empty if only its lease did.
	Held string `json:"held,omitempty"`
}

// ask is a request on its way to the loop that owns the job, with the place for its answer.
type ask struct {
	req   Request
	reply chan Answer
}

// DecodeRequest reads one request and says what is wrong with it, except for a wrong nonce.
func DecodeRequest(line []byte) (Request, error) {
	var r Request
	if err := decodeStrict(line, &r); err != nil {
		return Request{}, fmt.Errorf("decode request: %w", err)
	}
	switch {
	case r.Version != Version:
		return Request{}, fmt.Errorf("decode request: version %d, this supervisor speaks %d", r.Version, Version)
	case r.GraceS != nil && (*r.GraceS < 0 || *r.GraceS > 1e6):
		return Request{}, errors.New("decode request: grace_s must lie between 0 and 1000000")
	}
	return r, nil
}

// Ask sends one request to the supervisor of dir and gives its answer; version and nonce are filled in from rec. An error
// that wraps ErrRefused is the supervisor's own; any other means that it could not be asked.
func Ask(ctx context.Context, dir string, nonce string, req Request) (Answer, error) {
	req.Version, req.Nonce = Version, nonce
	if len(req.Why) > maxWhyBytes {
		req.Why = strings.ToValidUTF8(req.Why[:maxWhyBytes], "")
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := dial(ctx, dir)
	if err != nil {
		return Answer{}, fmt.Errorf("ask supervisor: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var a Answer
	if err := converse(conn, req, &a); err != nil {
		return Answer{}, fmt.Errorf("ask supervisor: %w", err)
	}
	if !a.OK {
		return a, fmt.Errorf("%w: %s", ErrRefused, a.Error)
	}
	return a, nil
}

func converse(conn net.Conn, req Request, a *Answer) error {
	line, err := json.Marshal(req)
	if err != nil {
		return err
	}
	if len(line) >= maxRequest {
		return fmt.Errorf("request of %d bytes is too long", len(line))
	}
	if _, err := conn.Write(append(line, '\n')); err != nil {
		return err
	}
	line, err = readLine(conn)
	if err != nil {
		return err
	}
	return json.Unmarshal(line, a) // not strict: a newer supervisor may say more
}

// dial reaches the socket through an open directory, because a socket's address holds 108 bytes and paths are longer.
func dial(ctx context.Context, dir string) (net.Conn, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return new(net.Dialer).DialContext(ctx, "unix", socketPath(d))
}

func socketPath(dir *os.File) string { return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), SocketFile) }

func readLine(r io.Reader) ([]byte, error) {
	line, err := bufio.NewReaderSize(r, maxRequest).ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, fmt.Errorf("line longer than %d bytes", maxRequest)
	}
	return line, err
}

// server takes requests from the control socket to the loop.
type server struct {
	listener *net.UnixListener
	nonce    string
	asks     chan ask
	log      *slog.Logger
}

func listen(dir *os.File, nonce string, log *slog.Logger) (*server, error) {
	path := socketPath(dir)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen on control socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on control socket: %w", err)
	}
	return &server{listener: l, nonce: nonce, asks: make(chan ask), log: log}, nil
}

// run serves until ctx ends. A nil server, where no socket could be made, serves nobody.
func (s *server) run(ctx context.Context) error {
	if s == nil {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { s.listener.Close() })
	defer stop()
	var callers errgroup.Group
	callers.SetLimit(maxCallers)
	for {
		conn, err := s.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return callers.Wait()
		}
		if err != nil { // out of descriptors or memory: somebody will ask again
			s.log.Warn("accept on control socket", "error", err)
			if !sleep(ctx, 100*time.Millisecond) {
				return callers.Wait()
			}
			continue
		}
		callers.Go(func() error {
			s.serve(ctx, conn)
			return nil
		})
	}
}

func (s *server) serve(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(askTimeout))
	a := s.answer(ctx, conn)
	a.Version = Version
	line, err := json.Marshal(a)
	if err == nil {
		_, err = conn.Write(append(line, '\n'))
	}
	if err != nil {
		s.log.Warn("answer on control socket", "error", err)
	}
}

func (s *server) answer(ctx context.Context, conn *net.UnixConn) Answer {
	if err := checkPeer(conn); err != nil {
		s.log.Warn("control request refused", "error", err)
		return Answer{Error: err.Error()}
	}
	line, err := readLine(conn)
	if err != nil {
		return Answer{Error: "read request: " + err.Error()}
	}
	req, err := DecodeRequest(line)
	if err != nil {
		return Answer{Error: err.Error()}
	}
	if subtle.ConstantTimeCompare([]byte(req.Nonce), []byte(s.nonce)) != 1 {
		s.log.Warn("control request refused", "error", "wrong nonce", "op", req.Op)
		return Answer{Error: "wrong nonce: this is the supervisor of another attempt"}
	}
	q := ask{req: req, reply: make(chan Answer, 1)}
	select {
	case s.asks <- q:
		return <-q.reply
	case <-ctx.Done():
		return Answer{Error: "the job has just ended"}
	}
}

// checkPeer lets in the own user and root.
func checkPeer(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("look at caller: %w", err)
	}
	var cred *unix.Ucred
	var got error
	err = raw.Control(func(fd uintptr) { cred, got = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, got); err != nil {
		return fmt.Errorf("look at caller: %w", err)
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("caller's user %d is not this supervisor's", cred.Uid)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
