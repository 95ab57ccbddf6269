package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestFaultBed does every fault of the matrix that the bed knows, each in its short form, with all checks. It needs root,
// network namespaces, nft and FUSE; where it must not be left out (CI=true) their lack is a failure.
func TestFaultBed(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes some minutes")
	}
	for _, s := range scenarios() {
		if why := s.on.missing(); why != "" && os.Getenv("CI") == "true" {
			t.Fatalf("%s %s", s.id, why)
		} else if why != "" {
			t.Skipf("%s %s", s.id, why)
		}
	}
	b := testBench(t)
	p := faultsPart{b: b, times: shortForm(), parallel: 4, seed: 1}
	verdicts := p.rounds(t.Context(), scenarios())
	if err := p.print(verdicts); err != nil {
		t.Error(err)
	}
	for _, v := range verdicts {
		if v.Failed != "" || v.Runs != 1 {
			t.Errorf("%s %s: ran %d times: %s", v.Scenario, v.Does, v.Runs, v.Failed)
		}
	}
	if left := processesOf(t, b.dir); len(left) > 0 {
		t.Errorf("left running: %v", left)
	}
	if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || bytes.Contains(mounts, []byte(b.dir)) {
		t.Errorf("left mounted: %v\n%s", err, mounts)
	}
}

// TestKilledNodesKeepTheirPromises runs some scenarios that need no root, for those who have none.
func TestKilledNodesKeepTheirPromises(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("the whole fault bed does this and more")
	}
	b := testBench(t)
	few := shortForm()
	few.leaderKills, few.allKills = 2, 1
	p := faultsPart{b: b, only: []string{"F01", "F05", "f15"}, times: few}
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

// TestAScenarioThatFailsEndsTheProgramBadly lets the checks themselves find lies on a real cluster of one: a key was
// acknowledged that no node knows, and an experiment was read as something it never was. The next scenario gets a new
// cluster, and is not blamed.
func TestAScenarioThatFailsEndsTheProgramBadly(t *testing.T) {
	b := testBench(t)
	honest := func(ctx context.Context, bed *bed, _ times) (outcome, error) {
		id, err := bed.job(ctx, "", 1, 4)
		return outcome{faults: 1, worst: time.Second}, errors.Join(err, bed.seen(ctx, id))
	}
	var dirs []string
	lie := func(ctx context.Context, bed *bed, t times) (outcome, error) {
		dirs = append(dirs, bed.l.o.dir)
		bed.acknowledged["never"] = 999
		got, err := honest(ctx, bed, t)
		bed.ops.record(1, wish{opGet, "F00-1"}, time.Now(), reply{missing: true})
		return got, err
	}
	truth := func(ctx context.Context, bed *bed, t times) (outcome, error) {
		dirs = append(dirs, bed.l.o.dir)
		return honest(ctx, bed, t)
	}
	on := kind{nodes: 1}
	got := faultsPart{b: b, minutes: 1.0 / 60}.rounds(t.Context(), []scenario{
		{id: "F00", does: "lie", on: on, run: lie}, {id: "F0", does: "tell the truth", on: on, run: truth},
	})
	if len(got) != 2 || got[0].Runs != 1 || !strings.Contains(got[0].Failed, "G1: on m1 experiment 999 is lost, key never") {
		t.Fatalf("got %+v", got)
	}
	if !strings.Contains(got[0].Failed, "G5") || !got[0].keep {
		t.Errorf("the impossible read was not found, or its picture is thrown away: %+v", got[0])
	}
	if strings.Contains(got[0].Failed, "G2") || strings.Contains(got[0].Failed, "G3") || strings.Contains(got[0].Failed, "G4") {
		t.Errorf("an honest job was blamed: %s", got[0].Failed)
	}
	if got[1].Failed != "" || got[1].Runs < 1 || dirs[0] == dirs[1] {
		t.Errorf("the next one: %+v in %v", got[1], dirs)
	}
}

func TestScenariosOfOneKindFollowEachOther(t *testing.T) {
	a, b, c := kind{nodes: 3}, kind{nodes: 3, net: true}, kind{series: "x", nodes: 3}
	got := series([]scenario{{on: a}, {on: b}, {on: a}, {on: c}, {on: b}})
	if want := [][]int{{0, 2}, {1, 4}, {3}}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	var ids []string
	for _, s := range scenarios() {
		if slices.Contains(ids, s.id) || s.does == "" || s.figure == "" || s.run == nil || s.on.nodes == 0 {
			t.Errorf("%+v", s)
		}
		ids = append(ids, s.id)
	}
	for _, id := range strings.Fields("F01 F02 F03 F05 F06 F08 F09 F15 F16 F18 F19 F20 F21 F28 F35 F36 F37 F38 F39 F40 F40b F41 F42 F44 F45 F46 F48 F49 F54 F69") {
		if !slices.Contains(ids, id) {
			t.Errorf("%s is missing", id)
		}
	}
}

func TestTheLongFormIsNeverShorter(t *testing.T) {
	s, l := shortForm(), longForm()
	if l.leaderKills < s.leaderKills || l.allKills < s.allKills || l.writeKills < s.writeKills || l.sweep < s.sweep ||
		l.sweepKills < s.sweepKills || l.keys < s.keys || l.cuts < s.cuts || l.heals < s.heals || l.places < s.places ||
		len(l.pauses) < len(s.pauses) || len(l.aways) < len(s.aways) || l.partition < s.partition || l.staleReads < s.staleReads {
		t.Errorf("short %+v, long %+v", s, l)
	}
	// A long form is cut short when its time is over, but nothing is done less than once.
	b := bed{end: time.Now().Add(-time.Second)}
	if !b.more(0, 5) || b.more(1, 5) || (&bed{}).more(5, 5) || !(&bed{}).more(4, 5) {
		t.Error("more is wrong")
	}
}
