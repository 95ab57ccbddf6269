package api

import (
	"encoding/json"
	"testing"
)

func TestFilled(t *testing.T) {
	params := Params{{Key: "lr", Value: json.RawMessage("0.1")}, {Key: "model", Value: json.RawMessage(`"resnet18"`)}}
	for _, c := range []struct{ name, want string }{
		{"plain", "plain"},
		{"{{model}}_lr{{lr}}", "resnet18_lr0.1"},
		{"{{seed}}-{{lr}}", "{{seed}}-0.1"}, // not of the sweep: left as it is
		{"{{lr}", "{{lr}"},
	} {
		if got := filled(c.name, params); got != c.want {
			t.Errorf("filled(%q) = %q, want %q", c.name, got, c.want)
		}
	}
}
