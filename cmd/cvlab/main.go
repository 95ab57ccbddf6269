// Command cvlab turns the GPU machines of a lab into one shared experiment queue. Every machine runs it as a node
// ("cvlab up", "cvlab join PEER"); people use the same program to submit, watch and stop experiments.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/deveronica/cvlab/cmd/cvlab/trainer"
	"github.com/deveronica/cvlab/executor/supervisor"
	"github.com/deveronica/cvlab/ui/api"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// Exit codes, as promised to scripts.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitNotAllowed  = 4
	exitUnknown     = 5

	// Of a node only; the unit of systemd names both, so that it does not start the node again.
	exitLeft    = 6 // it has left its cluster, under systemd; elsewhere that is 0
	exitRemoved = 7 // it was removed from its cluster
)

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	// The supervisor comes before everything else: it stands over a job for days and should carry as little as possible.
	if len(args) > 0 && args[0] == "supervise" {
		return supervisor.Command(args[1:], stderr)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals()...)
	defer stop()
	if len(args) > 0 && args[0] == "example" && !wantsHelp(args[1:]) {
		stop() // the trainer wants the signals itself: to stop means to write a checkpoint first
		return trainer.Main(context.Background(), args[1:], stdout, stderr)
	}
	p := &program{stdin: stdin, stdout: stdout, stderr: stderr}
	root := p.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if code := stoppedBy(ctx, err); code != 0 {
		return code
	}
	var quiet *exitError
	if !errors.As(err, &quiet) || quiet.err != nil {
		// A server's words, and with them other people's, may be in it.
		fmt.Fprintf(stderr, "cvlab: %s\n", plainLines(err.Error()+unknownKey(err)))
	}
	return exitCode(err)
}

// signals are those that end a command in order. A terminal that closes is one, unless nohup has said that it is not.
func signals() []os.Signal {
	list := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		list = append(list, syscall.SIGHUP)
	}
	return list
}

// stoppedBy gives 128+n when err only says that signal n has ended the command: whoever sent it needs no message. It is
// 0 when there is something to report.
func stoppedBy(ctx context.Context, err error) int {
	if ctx.Err() == nil || !errors.Is(err, context.Canceled) {
		return 0
	}
	cause := context.Cause(ctx).Error()
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if strings.HasPrefix(cause, s.String()) {
			return 128 + int(s)
		}
	}
	return 0
}

func wantsHelp(args []string) bool {
	return len(args) > 0 && (args[0] == "-h" || args[0] == "--help" || args[0] == "help")
}

// exitError ends the program with a code of its own; without err nothing is printed.
type exitError struct {
	code int
	err  error
}

// Error gives the message of the error inside.
func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

// Unwrap gives the error inside.
func (e *exitError) Unwrap() error { return e.err }

func usage(format string, args ...any) error {
	return &exitError{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// exitCode chooses the code that scripts rely on.
func exitCode(err error) int {
	if own, ok := errors.AsType[*exitError](err); ok {
		return own.code
	}
	if errors.Is(err, api.ErrUnreachable) {
		return exitUnreachable
	}
	if refusal, ok := errors.AsType[*api.Error](err); ok {
		switch {
		case refusal.OutcomeUnknown():
			return exitUnknown
		case refusal.NotAllowed():
			return exitNotAllowed
		}
	}
	return exitFailed
}
