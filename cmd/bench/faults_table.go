package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// verdict is a row of the table.
type verdict struct {
	Scenario string  `json:"scenario"`
	Does     string  `json:"does"`
	Runs     int     `json:"runs"`   // of the scenario
	Faults   int     `json:"faults"` // in all runs
	Figure   string  `json:"figure"`
	Worst    float64 `json:"worst_ms"`
	Skipped  string  `json:"skipped,omitempty"`
	Failed   string  `json:"failed,omitempty"`

	keep bool // something was left in the directory for people to look at
}

func (v *verdict) fail(err error) {
	v.Failed = strings.TrimSpace(v.Failed + "\n" + err.Error())
	v.keep = v.keep || errors.Is(err, errPictured)
}

func (v verdict) word() string {
	switch {
	case v.Skipped != "":
		return v.Skipped
	case v.Failed != "":
		first, _, _ := strings.Cut(v.Failed, "\n")
		return "FAILED: " + first
	}
	return "pass"
}

func (p faultsPart) print(verdicts []verdict) error {
	lines := p.b.stdout
	if p.b.json {
		lines = p.b.stderr
		if err := verdictsJSON(p.b.stdout, p.seed, verdicts); err != nil {
			return err
		}
	}
	fmt.Fprintln(lines)
	t := tabwriter.NewWriter(lines, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "scenario\twhat it does\truns\tfaults\tworst\t\tresult")
	for _, v := range verdicts {
		worst := "-"
		if v.Runs > 0 {
			worst = number(v.Worst) + " ms"
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%s\t%s\t%s\n", v.Scenario, v.Does, v.Runs, v.Faults, worst, v.Figure, v.word())
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print table: %w", err)
	}
	return nil
}

func verdictsJSON(w io.Writer, seed uint64, verdicts []verdict) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	out := struct {
		Seed      uint64    `json:"seed"`
		Scenarios []verdict `json:"scenarios"`
	}{seed, verdicts}
	if err := e.Encode(out); err != nil {
		return fmt.Errorf("print JSON: %w", err)
	}
	return nil
}
