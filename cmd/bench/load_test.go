package main

import (
	"testing"
	"time"
)

// TestAClusterUnderLoadStaysCalm is the load in short: nothing that ran all the time was touched, and everything was counted.
func TestAClusterUnderLoadStaysCalm(t *testing.T) {
	b := testBench(t)
	if err := (loadPart{b: b, length: 4 * time.Second}).measure(t.Context()); err != nil {
		t.Fatal(err)
	}
	figures := map[string]int{}
	for _, f := range b.r.finish() {
		figures[f.Name] = f.Summary.N
	}
	if figures["changes of the leader"] != 1 || figures["submission or cancel"] < 50 || figures["consistent read"] == 0 || figures["resident"] != 3 {
		t.Errorf("figures %v", figures)
	}
	if left := processesOf(t, b.dir); len(left) > 0 {
		t.Errorf("left running: %v", left)
	}
}
