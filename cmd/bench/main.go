// Command bench measures cvlab from outside, as a lab would feel it: it builds the program once, starts real node
// processes with fresh data directories on this computer, is their client, and reads the clock.
//
//	go run ./cmd/bench dispatch     submission to the start of the process, on an idle cluster
//	go run ./cmd/bench refill       end of one job to the start of the next on the same GPU
//	go run ./cmd/bench failover     kill -9 of the leader (or --cut of its cable) to the next acknowledged submission
//	go run ./cmd/bench submit       submissions a second, with 1, 8 and 64 clients
//	go run ./cmd/bench idle         memory and CPU of a node at rest
//	go run ./cmd/bench load         full load for minutes: the leader stays, processes are left alone
//	go run ./cmd/bench faults       kill, pause, wipe, fill and cut off nodes; check that every promise holds
//	go run ./cmd/bench all          all of them in short form
//
// One thing is measured at a time; each repeat prints a line, and a table closes with min, median, p99 and max. What each
// figure means, and what it does not, is in DESIGN.md of this directory.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	// Jobs run this same program; it comes before everything else because its start is part of what is measured.
	if len(args) > 0 && args[0] == "stamp" {
		return stamp(args[1:], stderr)
	}
	if len(args) > 0 && args[0] == "witness" {
		return witness(args[1:], stdout, stderr)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot(stdout, stderr)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "bench: %v\n", err)
	if _, wrong := errors.AsType[*usageError](err); wrong {
		return 2
	}
	return 1
}

// usageError is a wish that cannot be fulfilled as it was stated; it ends the program with code 2.
type usageError struct{ text string }

// Error gives the text.
func (e *usageError) Error() string { return e.text }

func usage(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }
