package api

import (
	"strings"
	"testing"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

func TestDevicesJoinHealthAndFacts(t *testing.T) {
	l := story(t)
	l.apply(&fsm.Grant{Access: fsm.Access{ID: "j", Kind: fsm.AccessJoin, Secret: make([]byte, 16), Uses: 1}})
	l.apply(&fsm.Admit{Node: fsm.Node{ID: nodeB, Name: "gpu2"}, Access: "j"})
	l.apply(&fsm.Drain{Node: nodeB, On: true})
	heard := 0.4
	l.devices = []Device{
		{ID: nodeA, Name: "old name", State: "active", LastHeard: &heard, GPUs: []GPU{{UUID: gpuA, State: "busy", MemoryUsed: 5}}},
		{ID: "stranger", Name: "stranger", State: "active"},
	}
	w := l.ask("GET", "/api/devices", tokenViewer, "")
	out := decoded[devicesAnswer](t, w)
	if len(out.Devices) != 2 || w.Header().Get(headerAge) != "700" {
		t.Fatalf("age %q: %+v", w.Header().Get(headerAge), out)
	}
	a, b := out.Devices[0], out.Devices[1]
	if a.Name != "gpu1" || len(a.Running) != 1 || a.Running[0] != 3 || a.GPUs[0].Experiment == nil || *a.GPUs[0].Experiment != 3 || a.GPUs[0].MemoryUsed != 5 || a.CPUSlots != 4 {
		t.Errorf("gpu1: %+v", a)
	}
	if b.Name != "gpu2" || b.State != "unknown" || b.LastHeard != nil || !b.Draining || b.GPUs == nil || b.Running == nil {
		t.Errorf("gpu2, never heard: %+v", b)
	}
	beats := decoded[map[string]*float64](t, l.ask("GET", "/api/devices/heartbeat", tokenViewer, ""))
	if beats["gpu1"] == nil || *beats["gpu1"] != 0.4 || len(beats) != 2 || beats["gpu2"] != nil {
		t.Errorf("heartbeats: %v", beats)
	}
}

func TestDrainResumeRemove(t *testing.T) {
	l := story(t)
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"POST", "/api/devices/gpu1/drain", 200},
		{"POST", "/api/devices/" + nodeA[:8] + "/resume", 200},
		{"POST", "/api/devices/gpu9/drain", 404},
		{"DELETE", "/api/devices/gpu1", 409}, // it runs experiment 3
		{"DELETE", "/api/devices/gpu1?off=maybe", 400},
		{"DELETE", "/api/devices/gpu1?off=true", 200},
		{"DELETE", "/api/devices/gpu1?off=true", 404},
	} {
		if w := l.ask(c.method, c.path, tokenAdmin, ""); w.Code != c.status {
			t.Errorf("%s %s: status %d, want %d: %s", c.method, c.path, w.Code, c.status, w.Body)
		}
	}
	if e := l.state.View().Experiment(3); e.Status != fsm.Pending {
		t.Errorf("the experiment of the removed machine is %s, want pending", e.Status)
	}
}

func TestProjectsAndUsers(t *testing.T) {
	l := story(t)
	out := decoded[projectsAnswer](t, l.ask("GET", "/api/projects", tokenViewer, ""))
	if len(out.Projects) != 3 || out.Projects[0].Name != "birds" || out.Projects[0].Counts[fsm.Pending] != 3 {
		t.Errorf("projects: %+v", out)
	}
	if p := decoded[Project](t, l.ask("GET", "/api/projects/dogs", tokenViewer, "")); p.Experiments != 2 || len(p.Users) != 1 || p.Users[0] != "bob" {
		t.Errorf("dogs: %+v", p)
	}
	if w := l.ask("GET", "/api/projects/fish", tokenViewer, ""); w.Code != 404 {
		t.Errorf("fish: status %d", w.Code)
	}
	users := decoded[usersAnswer](t, l.ask("GET", "/api/users", tokenViewer, ""))
	got := map[string]User{}
	for _, u := range users.Users {
		got[u.Name] = u
	}
	if got["ana"].Role != fsm.Member || got["ana"].Experiments != 6 || got["vera"].Experiments != 0 {
		t.Errorf("users: %+v", got)
	}
}

func TestTokensAreShownOnce(t *testing.T) {
	l := newLab(t)
	w := l.ask("POST", "/api/tokens", tokenAdmin, `{"kind":"user","user":"eve","role":"member","ttl":"2h"}`)
	made := decoded[NewToken](t, w)
	if w.Code != 201 || !strings.HasPrefix(made.Token, "cvu_") || len(made.Token) < 50 || made.Expires == nil || time.Until(*made.Expires) > 2*time.Hour {
		t.Fatalf("status %d: %+v", w.Code, made)
	}
	if me := decoded[Me](t, l.ask("GET", "/api/me", made.Token, "")); me.User != "eve" || me.Token != made.ID {
		t.Errorf("the new token is %+v", me)
	}
	list := l.ask("GET", "/api/tokens", tokenAdmin, "")
	if strings.Contains(list.Body.String(), made.Token) || strings.Contains(list.Body.String(), "secret") || !strings.Contains(list.Body.String(), made.ID) {
		t.Errorf("the list shows too much or too little: %s", list.Body)
	}
	join := decoded[NewToken](t, l.ask("POST", "/api/tokens", tokenAdmin, `{"kind":"join"}`))
	if !strings.HasPrefix(join.Token, "cvj1_") || join.ID != "join1" || join.Expires == nil {
		t.Errorf("join token: %+v", join)
	}
	if a := l.state.View().AccessByID("join1"); a == nil || a.Uses != 1 {
		t.Errorf("join token: %+v, want one use", a)
	}
	for _, body := range []string{
		`{"kind":"session","user":"eve","role":"admin"}`, `{"kind":"user","role":"admin"}`, `{"kind":"user","user":"eve","role":"king"}`,
		`{"kind":"user","user":"e\nve","role":"admin"}`, `{"kind":"join","uses":-1}`, `{"kind":"join","uses":100000}`, `{"kind":"join","ttl":"9000h"}`, `{"kind":"join","role":"admin"}`, `{}`,
	} {
		if w := l.ask("POST", "/api/tokens", tokenAdmin, body); w.Code != 422 {
			t.Errorf("%s: status %d, want 422", body, w.Code)
		}
	}
}
