package api

import (
	"encoding/json"
	"strings"
	"testing"
)

// The description lists every route, each with its role, and refers only to what it holds.
func TestDescriptionIsComplete(t *testing.T) {
	l := newLab(t)
	w := l.ask("GET", "/api/openapi.json", tokenViewer, "")
	var doc struct {
		OpenAPI    string                               `json:"openapi"`
		Paths      map[string]map[string]map[string]any `json:"paths"`
		Components struct {
			Schemas map[string]map[string]any `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || doc.OpenAPI != "3.1.0" {
		t.Fatalf("%s: %v", doc.OpenAPI, err)
	}
	n := 0
	for _, row := range routes() {
		op := doc.Paths[plainPath(row.path)][strings.ToLower(row.method)]
		if op == nil || op["summary"] == "" {
			t.Errorf("%s %s is not described", row.method, row.path)
			continue
		}
		if role, _ := op["x-role"].(string); role != string(row.role) {
			t.Errorf("%s %s: role %q, want %q", row.method, row.path, role, row.role)
		}
	}
	for _, methods := range doc.Paths {
		n += len(methods)
	}
	if n != len(routes()) {
		t.Errorf("%d operations are described, the table has %d", n, len(routes()))
	}
	for part := range strings.SplitSeq(w.Body.String(), "#/components/schemas/") {
		if name, _, found := strings.Cut(part, `"`); found && !strings.Contains(name, "{") && doc.Components.Schemas[name] == nil {
			t.Errorf("schema %q is referred to and missing", name)
		}
	}
	experiment, _ := doc.Components.Schemas["Experiment"]["properties"].(map[string]any)
	for _, field := range strings.Fields("id name project user status priority reason sweep params node gpus attempt progress exit_code class created_at started_at ended_at") {
		if experiment[field] == nil {
			t.Errorf("an experiment has no %s", field)
		}
	}
}

func TestRoutesAreStatedOnce(t *testing.T) {
	seen := map[string]bool{}
	for _, row := range routes() {
		name := row.method + " " + plainPath(row.path)
		if seen[name] {
			t.Errorf("%s is there twice", name)
		}
		seen[name] = true
		if row.handle == nil || row.summary == "" {
			t.Errorf("%s has no handler or summary", name)
		}
	}
}
