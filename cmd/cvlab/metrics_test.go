package main

import (
	"bytes"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deveronica/cvlab/ui/api"
)

func TestShowMetrics(t *testing.T) {
	nan := api.Number(math.NaN())
	m := api.Metrics{Series: []api.MetricSeries{
		{Key: "acc\x1b[2J", Count: 2, Last: 0.5, LastStep: 20, Least: 0.25, Most: 0.5, Steps: []api.Number{10, 20}, Values: []api.Number{0.25, 0.5}},
		{Key: "loss", Count: 900, Last: nan, LastStep: 20, Least: 1, Most: 123456, Steps: []api.Number{10, 15, 20}, Values: []api.Number{3, 123456, nan}, Min: []api.Number{1, 2, nan}},
	}}
	for _, c := range []struct {
		csv          bool
		want, errors string
	}{
		{false, "METRIC   LAST  AT STEP  LEAST  MOST        VALUES\nacc�[2J  0.5   20       0.25   0.5         2       ▁█\nloss     -     20       1      1.2346e+05  900     ▁█\n", ""},
		{true, "step,acc\x1b[2J,loss\n10,0.25,3\n15,,123456\n20,0.5,\n", "loss has 900 values; 3 of them are printed"},
	} {
		var out, errs bytes.Buffer
		p := &program{stdout: &out, stderr: &errs}
		if err := p.showMetrics(7, m, nil, c.csv); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, out.String()); diff != "" {
			t.Errorf("csv %t (-want +got)\n%s", c.csv, diff)
		}
		if !strings.Contains(errs.String(), c.errors) {
			t.Errorf("said %q", errs.String())
		}
	}
	p := &program{stdout: new(bytes.Buffer), stderr: new(bytes.Buffer)}
	if err := p.showMetrics(7, m, []string{"F1"}, false); err == nil || !strings.Contains(err.Error(), `no metric "F1"; cvlab metrics 7`) {
		t.Error(err)
	}
	if err := p.showMetrics(7, api.Metrics{Error: "its files cannot be reached"}, nil, false); err == nil {
		t.Error("no error for files that cannot be reached")
	}
}
