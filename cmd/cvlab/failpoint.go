package main

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// testFailpoint reads the hidden setting by which tests let a node die at a step, such as "committed:3": when it is reached
// the third time. A file may follow, as in "ended:1:/tmp/armed": steps count only while it exists. See the Steps of packages
// cluster and worker. Empty gives nil.
func testFailpoint(text string, die func()) (func(step string), error) {
	if text == "" {
		return nil, nil
	}
	step, count, _ := strings.Cut(text, ":")
	count, file, armed := strings.Cut(count, ":")
	n, err := strconv.Atoi(count)
	if err != nil || n < 1 || step == "" {
		return nil, usage("CVLAB_TEST_FAILPOINT=%q: want STEP:COUNT or STEP:COUNT:FILE such as committed:3", text)
	}
	var reached atomic.Int64
	return func(s string) {
		if s != step {
			return
		}
		if _, err := os.Stat(file); armed && err != nil {
			return
		}
		if reached.Add(1) == int64(n) {
			die()
		}
	}, nil
}

// killSelf ends this process as kill -9 does, and lets nothing happen until it has.
func killSelf() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // it cannot fail for oneself
	select {}
}
