package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

// TestKilledNodesKeepTheirPromises runs the scenarios that need neither root nor much time, with all checks.
func TestKilledNodesKeepTheirPromises(t *testing.T) {
	b := testBench(t)
	p := faultsPart{b: b, only: []string{"F01", "F05", "f15"}, times: times{leaderKills: 2, allKills: 1}}
	if err := p.measure(t.Context()); err != nil {
		t.Error(err)
	}
	if left := processesOf(t, b.dir); len(left) > 0 {
		t.Errorf("left running: %v", left)
	}
}

// TestAFailedScenarioIsInTheTable has one that fails among others: its row says why, it is not repeated, and all ends badly.
func TestAFailedScenarioIsInTheTable(t *testing.T) {
	var out, lines bytes.Buffer
	p := faultsPart{b: &bench{json: true, stdout: &out, stderr: &lines}}
	verdicts := []verdict{
		{Scenario: "F01", Does: "one thing", Runs: 2, Faults: 9, Figure: "to the end", Worst: 123},
		{Scenario: "F02", Does: "another", Runs: 1, Failed: "G1: experiment 7 is lost\nand more"},
		{Scenario: "F03", Does: "a third", Skipped: "needs root"},
	}
	if err := p.print(verdicts); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"123 ms", "FAILED: G1: experiment 7 is lost\n", "needs root", "pass"} {
		if !strings.Contains(lines.String(), want) {
			t.Errorf("%q is not in the table:\n%s", want, lines.String())
		}
	}
	var got struct{ Scenarios []verdict }
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || len(got.Scenarios) != 3 || got.Scenarios[1].Failed == "" {
		t.Errorf("%v: %s", err, out.String())
	}
}

// TestAScenarioThatFailsEndsTheProgramBadly lets the checks themselves find a lie on a real cluster of one: a key was
// acknowledged that no node knows.
func TestAScenarioThatFailsEndsTheProgramBadly(t *testing.T) {
	b := testBench(t)
	lie := scenario{id: "F00", does: "lie", figure: "nothing", on: kind{nodes: 1}, run: func(ctx context.Context, bed *bed, _ times) (outcome, error) {
		id, err := bed.job(ctx, "", 1, 4)
		bed.acknowledged["never"] = 999
		return outcome{faults: 1, worst: time.Second}, errors.Join(err, bed.seen(ctx, id))
	}}
	got := faultsPart{b: b, minutes: 1}.rounds(t.Context(), []scenario{lie})
	if len(got) != 1 || got[0].Runs != 1 || !strings.Contains(got[0].Failed, "G1: on m1 experiment 999 is lost, key never") {
		t.Errorf("got %+v", got)
	}
	if strings.Contains(got[0].Failed, "G2") || strings.Contains(got[0].Failed, "G3") || strings.Contains(got[0].Failed, "G4") {
		t.Errorf("an honest job was blamed: %s", got[0].Failed)
	}
}
