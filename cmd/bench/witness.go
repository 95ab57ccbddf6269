package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// witnessEvery is how often a job testifies.
const witnessEvery = 50 * time.Millisecond

// witness is the program "witness FILE SECONDS CODE [BYTES]" that jobs of the fault bed run. Every 50 ms it prints a numbered
// line, filled up by so many bytes, and appends one line about itself to FILE, which lies outside the cluster. It ends with
// CODE after SECONDS, or earlier when FILE.stop appears; its last line in FILE names the code.
func witness(args []string, stdout, stderr io.Writer) int {
	code, err := testify(args, stdout)
	if err != nil {
		fmt.Fprintln(stderr, "witness:", err)
		return 2
	}
	return code
}

func testify(args []string, stdout io.Writer) (int, error) {
	if len(args) < 3 || len(args) > 4 {
		return 0, fmt.Errorf("usage: witness FILE SECONDS CODE [BYTES]")
	}
	padding := ""
	if len(args) == 4 {
		n, err := strconv.Atoi(args[3])
		if err != nil || n < 0 {
			return 0, fmt.Errorf("BYTES %s: want a number", args[3])
		}
		padding = " " + strings.Repeat("x", n)
	}
	seconds, err := strconv.ParseFloat(args[1], 64)
	if err != nil {
		return 0, fmt.Errorf("read SECONDS: %w", err)
	}
	code, err := strconv.Atoi(args[2])
	if err != nil {
		return 0, fmt.Errorf("read CODE: %w", err)
	}
	// One write of one short line with O_APPEND is whole and in order among all processes of this computer.
	f, err := os.OpenFile(args[0], os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, fmt.Errorf("open the history: %w", err)
	}
	defer f.Close()
	end := time.Now().Add(time.Duration(seconds * float64(time.Second)))
	for seq := 1; ; seq++ {
		_, stopped := os.Stat(args[0] + ".stop")
		last := stopped == nil || !time.Now().Before(end)
		word := "-"
		if last {
			word = args[2]
		}
		if _, err := fmt.Fprintf(stdout, "line %d%s\n", seq, padding); err != nil {
			return 0, fmt.Errorf("print a line: %w", err)
		}
		at, err := bootTime()
		if err != nil {
			return 0, err
		}
		line := fmt.Sprintf("%s %s %d %d %d %s\n", os.Getenv("CVLAB_EXPERIMENT"), os.Getenv("CVLAB_ATTEMPT"), seq, at, os.Getpid(), word)
		if _, err := f.WriteString(line); err != nil {
			return 0, fmt.Errorf("append to the history: %w", err)
		}
		if last {
			return code, nil
		}
		<-time.After(witnessEvery)
	}
}

// bootTime is the clock that all processes share and nobody sets.
func bootTime() (int64, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return t.Nano(), nil
}
