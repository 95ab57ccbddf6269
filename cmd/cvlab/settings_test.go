package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/deveronica/cvlab/ui/api"
)

// atHome gives the test a home of its own, without any setting, and a way to write files below it.
func atHome(t *testing.T) (write func(file, text string) string) {
	t.Helper()
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, ".config"))
	t.Setenv("XDG_DATA_HOME", filepath.Join(home, ".local", "share"))
	for _, name := range []string{"CVLAB_SERVER_URL", "CVLAB_TOKEN", "CVLAB_DATA_DIR", "CVLAB_DEVICE_ID", "CVLAB_JOIN_TOKEN"} {
		t.Setenv(name, "")
	}
	return func(file, text string) string {
		t.Helper()
		path := filepath.Join(home, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
}

// here writes what a running node leaves in its data directory.
func here(write func(file, text string) string, dir, url, token string) string {
	write(dir+"/token", token+"\n")
	return filepath.Dir(write(dir+"/node.json", `{"pid": 1, "http": "`+url+`"}`))
}

func TestWhoIsAsked(t *testing.T) {
	const node = "http://127.0.0.1:8123"
	for _, c := range []struct {
		name                  string
		server, data          string // flags
		envServer, envToken   string
		envData               bool
		settings, login       string
		running               bool
		url, token, pinned    string
		unreachable, dataFlag bool
	}{
		{name: "nothing", url: "http://127.0.0.1:8000"},
		{name: "environment", envServer: "http://gpu1:8000", envToken: "et", url: "http://gpu1:8000", token: "et"},
		{name: "flag over environment", server: "http://gpu2:8000", envServer: "http://gpu1:8000", envToken: "et", url: "http://gpu2:8000", token: "et"},
		{name: "settings", settings: "server_url: http://s:1\ntoken: st\n", url: "http://s:1", token: "st"},
		{name: "environment over settings", envServer: "http://gpu1:8000", settings: "server_url: http://s:1\ntoken: st\n", url: "http://gpu1:8000", token: "st"},
		{name: "environment's token over the settings'", envToken: "et", settings: "server_url: http://s:1\ntoken: st\n", url: "http://s:1", token: "et"},
		{name: "login", login: "server_url: https://l:8000\nfingerprint: abc\ntoken: lt\n", url: "https://l:8000", token: "lt", pinned: "abc"},
		{name: "settings over login", settings: "server_url: http://s:1\n", login: "server_url: https://l:8000\nfingerprint: abc\ntoken: lt\n", url: "http://s:1"},
		{name: "login's key and token go with its server however it is named", envServer: "http://l:8000", login: "server_url: https://l:8000\nfingerprint: abc\ntoken: lt\n", url: "http://l:8000", token: "lt", pinned: "abc"},
		{name: "login's token goes to no other server", server: "https://other:8000", login: "server_url: https://l:8000\nfingerprint: abc\ntoken: lt\n", url: "https://other:8000"},
		{name: "own node", running: true, url: node, token: "nt"},
		{name: "own node by another name", running: true, server: "http://localhost:8123", url: "http://localhost:8123", token: "nt"},
		{name: "own node's token goes to no other server", running: true, server: "http://other:8000", url: "http://other:8000"},
		{name: "environment's token over the node's", running: true, envToken: "et", url: node, token: "et"},
		{name: "login over own node", running: true, login: "server_url: https://l:8000\ntoken: lt\n", url: "https://l:8000", token: "lt"},
		{name: "settings over own node", running: true, settings: "server_url: http://s:1\ntoken: st\n", url: "http://s:1", token: "st"},
		{name: "named directory", running: true, dataFlag: true, envServer: "http://gpu1:8000", url: node, token: "nt"},
		{name: "directory in the environment", running: true, envData: true, login: "server_url: https://l:8000\ntoken: lt\n", url: node, token: "nt"},
		{name: "named directory without a node", dataFlag: true, unreachable: true},
		{name: "directory in the environment without a node", envData: true, unreachable: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			write := atHome(t)
			dir := filepath.Dir(write(".local/share/cvlab/x", ""))
			if os.Geteuid() == 0 { // root's default directory is the machine's; point the settings at ours
				c.settings += "data_dir: " + dir + "\n"
			}
			if c.running {
				here(write, ".local/share/cvlab", node, "nt")
			}
			if c.settings != "" {
				write(".config/cvlab/cvlab.yaml", c.settings)
			}
			if c.login != "" {
				write(".config/cvlab/config.yaml", c.login)
			}
			t.Setenv("CVLAB_SERVER_URL", c.envServer)
			t.Setenv("CVLAB_TOKEN", c.envToken)
			if c.envData {
				t.Setenv("CVLAB_DATA_DIR", dir)
			}
			p := &program{server: c.server}
			if c.dataFlag {
				p.data = dir
			}
			if !c.running && os.Geteuid() == 0 && c.url == "http://127.0.0.1:8000" {
				c.unreachable = true // data_dir, above, names a directory
			}
			o, err := p.clientOptions()
			if c.unreachable {
				if exitCode(err) != exitUnreachable || !strings.Contains(err.Error(), "cvlab up") {
					t.Errorf("got %v, want exit code %d and what to do", err, exitUnreachable)
				}
				return
			}
			if err != nil || o.URL != c.url || o.Token != c.token || o.Fingerprint != c.pinned {
				t.Errorf("got %q token %q key %q (%v), want %q %q %q", o.URL, o.Token, o.Fingerprint, err, c.url, c.token, c.pinned)
			}
			if _, err := api.NewClient(o); err != nil {
				t.Errorf("no client: %v", err)
			}
		})
	}
}

func TestSettingsOfTheNode(t *testing.T) {
	write := atHome(t)
	write(".config/cvlab/cvlab.yaml", `
device_id: from-file
data_dir: /file
http: ":1"
cpu_slots: 3
labels: {zone: b}
kit: {command: "cvlab example"}
`)
	p := &program{stderr: os.Stderr}
	o, err := p.nodeOptions(&nodeFlags{}, "")
	if err != nil {
		t.Fatal(err)
	}
	self, _ := os.Executable()
	if o.Name != "from-file" || o.DataDir != "/file" || o.HTTP != ":1" || o.CPUSlots != 3 || o.Labels["zone"] != "b" ||
		len(o.Kit.Command) != 2 || o.Kit.Command[0] != self || o.Kit.Command[1] != "example" {
		t.Errorf("the file gives %+v", o)
	}
	t.Setenv("CVLAB_DEVICE_ID", "from-env")
	t.Setenv("CVLAB_DATA_DIR", "/env")
	if o, err = p.nodeOptions(&nodeFlags{}, ""); err != nil || o.Name != "from-env" || o.DataDir != "/env" {
		t.Errorf("the environment gives %q in %q, %v", o.Name, o.DataDir, err)
	}
	p.data = "/flag"
	o, err = p.nodeOptions(&nodeFlags{name: "from-flag", http: ":2", cpuSlots: 5, labels: []string{"zone=c"}, kitCommand: `python3 "a b" x`}, "peer")
	if err != nil || o.Name != "from-flag" || o.DataDir != "/flag" || o.HTTP != ":2" || o.CPUSlots != 5 || o.Labels["zone"] != "c" || o.Join != "peer" ||
		len(o.Kit.Command) != 3 || o.Kit.Command[1] != "a b" {
		t.Errorf("the flags give %+v, %v", o, err)
	}
	for _, bad := range []*nodeFlags{{labels: []string{"zone"}}, {kitCommand: `python "x`}} {
		if _, err := p.nodeOptions(bad, ""); exitCode(err) != exitUsage || err == nil {
			t.Errorf("%+v gives %v, want a usage error", bad, err)
		}
	}
}

func TestSettingsRefused(t *testing.T) {
	for name, text := range map[string]string{
		"unknown key": "servr_url: http://x\n",
		"wrong type":  "cpu_slots: many\n",
		"no YAML":     "a: [\n",
	} {
		t.Run(name, func(t *testing.T) {
			path := atHome(t)(".config/cvlab/cvlab.yaml", text)
			_, err := loadSettings()
			if err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want an error that names %s", err, path)
			}
		})
	}
	t.Run("login", func(t *testing.T) {
		path := atHome(t)(".config/cvlab/config.yaml", "tokn: x\n")
		_, err := loadLogin()
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("got %v, want an error that names %s", err, path)
		}
	})
	t.Run("empty", func(t *testing.T) {
		atHome(t)(".config/cvlab/cvlab.yaml", "# nothing yet\n")
		if s, err := loadSettings(); err != nil || s.ServerURL != "" {
			t.Errorf("a file of comments gives %+v, %v", s, err)
		}
	})
}

func TestDataDir(t *testing.T) {
	atHome(t)
	p := &program{}
	want := filepath.Join(os.Getenv("XDG_DATA_HOME"), "cvlab")
	if os.Geteuid() == 0 {
		want = "/var/lib/cvlab"
	}
	if dir, named := p.dataDir(settings{}); dir != want || named {
		t.Errorf("nothing named gives %q, %v; want %q", dir, named, want)
	}
	if dir, named := p.dataDir(settings{DataDir: "/s"}); dir != "/s" || !named {
		t.Errorf("settings give %q, %v", dir, named)
	}
	t.Setenv("CVLAB_DATA_DIR", "/e")
	if dir, _ := p.dataDir(settings{DataDir: "/s"}); dir != "/e" {
		t.Errorf("environment gives %q", dir)
	}
	p.data = "/f"
	if dir, _ := p.dataDir(settings{DataDir: "/s"}); dir != "/f" {
		t.Errorf("flag gives %q", dir)
	}
}

func TestHostPort(t *testing.T) {
	for in, want := range map[string]string{
		"gpu1": "gpu1:8000", "GPU1:9000": "gpu1:9000", "http://gpu1": "gpu1:80", "https://gpu1/": "gpu1:443",
		"https://gpu1:8000/x": "gpu1:8000", "localhost": "127.0.0.1:8000", "http://[::1]:8000": "127.0.0.1:8000", "10.0.0.7:8000": "10.0.0.7:8000",
	} {
		if got, err := hostPort(in); err != nil || got != want {
			t.Errorf("hostPort(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, bad := range []string{"", "ftp://x", "http://", "a b"} {
		if got, err := hostPort(bad); err == nil || exitCode(err) != exitUsage {
			t.Errorf("hostPort(%q) = %q, %v; want a usage error", bad, got, err)
		}
	}
}
