package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func filled() *report {
	r := newReport(&bytes.Buffer{})
	r.figure(row{Part: "failover", Name: "client", Unit: "ms", Bars: []bar{{Of: "median", Less: 150}, {Of: "max", Less: 1000}}})
	r.figure(row{Part: "failover", Name: "never happened", Unit: "ms"})
	r.add("failover", "client", 20, 30, 1200)
	return r
}

func TestTableSaysWhichBarIsMissed(t *testing.T) {
	var out bytes.Buffer
	if err := filled().table(&out); err != nil {
		t.Fatal(err)
	}
	const want = `part      measure  unit  n  min   median  p99   max   bar
failover  client   ms    3  20.0  30.0    1200  1200  median < 150: met, max < 1000: MISSED
`
	if got := out.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestABarIsAStrictLimit(t *testing.T) {
	r := newReport(&bytes.Buffer{})
	r.figure(row{Part: "p", Name: "n", Bars: []bar{{Of: "median", Less: 50}}})
	r.add("p", "n", 50)
	if r.finish()[0].Bars[0].Met {
		t.Error("50 counts as less than 50")
	}
}

func TestAFigureDeclaredAgainKeepsItsSamples(t *testing.T) {
	r := filled()
	r.figure(row{Part: "failover", Name: "client", Unit: "ms"})
	r.add("failover", "client", 10)
	if got := r.finish(); len(got) != 1 || got[0].Summary.N != 4 || len(got[0].Bars) != 2 {
		t.Errorf("got %+v", got)
	}
}

func TestJSONHoldsEverySample(t *testing.T) {
	var out bytes.Buffer
	if err := filled().json(&out); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Cores   int   `json:"cores"`
		Figures []row `json:"figures"`
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	if got.Cores < 1 || len(got.Figures) != 1 || len(got.Figures[0].Samples) != 3 || !strings.Contains(out.String(), `"less_than": 1000`) {
		t.Errorf("got %s", out.String())
	}
}
