package main

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// units are the four ways to be installed.
func units() map[string]installFlags {
	return map[string]installFlags{
		"system":      {},
		"system-join": {join: "gpu1", name: "gpu 2", kitDir: "/srv/cvlab-kit"},
		"user":        {user: true},
		"user-join":   {user: true, join: "10.0.0.1:9001", kitCommand: `sh -c "exec python3 $KIT --x 100%"`},
	}
}

func renderAs(t *testing.T, f installFlags, program string) string {
	t.Helper()
	dir := "/var/lib/cvlab"
	text, err := renderUnit(unit{User: f.user, Command: commandLine(f.nodeCommand(program, dir, dir+"/join.token"))})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestUnits(t *testing.T) {
	for name, f := range units() {
		t.Run(name, func(t *testing.T) {
			got := renderAs(t, f, "/usr/local/bin/cvlab")
			file := filepath.Join("testdata", "unit-"+name+".service")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("not as in %s (write it anew with -update):\n%s", file, d)
			}
			for _, line := range []string{"Type=notify", "WatchdogSec=60", "Restart=always", "RestartPreventExitStatus=6 7", "SuccessExitStatus=6", "KillMode=process", "Delegate=yes"} {
				if !strings.Contains(got, "\n"+line+"\n") {
					t.Errorf("the line %s is missing", line)
				}
			}
		})
	}
}

// systemd itself reads the units without a complaint.
func TestUnitsVerified(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("systemd-analyze is missing; .ci/run installs it")
		}
		t.Skip("systemd-analyze is not on this machine")
	}
	for name, f := range units() {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), unitName)
			if err := os.WriteFile(file, []byte(renderAs(t, f, testProgram.path)), 0o644); err != nil {
				t.Fatal(err)
			}
			args := []string{"verify", "--man=no", file}
			if f.user {
				args = append([]string{"--user"}, args...)
			}
			cmd := exec.CommandContext(t.Context(), analyze, args...)
			cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+t.TempDir())
			out, err := cmd.CombinedOutput()
			if err != nil || strings.Contains(string(out), unitName) {
				t.Errorf("systemd-analyze %v: %v\n%s", args, err, out)
			}
		})
	}
}

func TestCommandLine(t *testing.T) {
	for want, words := range map[string][]string{
		`/usr/bin/cvlab up`:             {"/usr/bin/cvlab", "up"},
		`a "b c" d`:                     {"a", "b c", "d"},
		`a "" ";" "x;y"`:                {"a", "", ";", "x;y"},
		`100%% $$HOME $${X}`:            {"100%", "$HOME", "${X}"},
		`"say \"hi\"" "it's" "back\\n"`: {`say "hi"`, "it's", `back\n`},
		`"a\nExecStartPre=/bin/rm"`:     {"a\nExecStartPre=/bin/rm"},
		`{kit} --config {config}`:       {"{kit}", "--config", "{config}"},
	} {
		if got := commandLine(words); got != want {
			t.Errorf("commandLine(%q) = %s, want %s", words, got, want)
		}
	}
}

// installer is a person on a machine whose systemctl only writes down what it is told.
func newInstaller(t *testing.T) (u *person, calls func() []string) {
	u = newPerson(t)
	bin := filepath.Join(u.home, "bin")
	record := filepath.Join(u.home, "calls")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\necho \"$*\" >> " + record + "\n"
	if err := os.WriteFile(filepath.Join(bin, "systemctl"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	// The test's own program lies in the temporary directory, which an installed one must not; so that is elsewhere here.
	u.env = append(u.env, "PATH="+bin+":"+os.Getenv("PATH"), "TMPDIR="+filepath.Join(u.home, "tmp"), "CVLAB_DATA_DIR="+filepath.Join(u.home, "data"))
	return u, func() []string {
		text, _ := os.ReadFile(record)
		return strings.Split(strings.TrimSpace(string(text)), "\n")
	}
}

// files lists what is below a home, without what newInstaller has put there.
func files(t *testing.T, home string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(home, func(path string, d os.DirEntry, err error) error {
		if name, _ := filepath.Rel(home, path); err == nil && !d.IsDir() && name != "bin/systemctl" {
			list = append(list, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestInstallAndUninstall(t *testing.T) {
	u, calls := newInstaller(t)
	u.env = append(u.env, "CVLAB_JOIN_TOKEN=cvj1_secret")
	out, errs, code := u.cvlab("install", "--user", "--join", "gpu1", "--name", "gpu2")
	if code != 0 || !strings.Contains(out, "enable-linger") {
		t.Fatalf("install: exit code %d, said %s%s", code, out, errs)
	}
	path := filepath.Join(u.home, ".config/systemd/user", unitName)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []string{"ExecStart=" + testProgram.path + " join gpu1 --token-file " + u.home + "/data/join.token --data " + u.home + "/data --name gpu2\n", "WantedBy=default.target"} {
		if !strings.Contains(string(text), w) {
			t.Errorf("the unit has no %q:\n%s", w, text)
		}
	}
	if bytes.Contains(text, []byte("cvj1_secret")) || strings.Contains(out, "cvj1_secret") {
		t.Error("the join token is where everybody can read it")
	}
	token := filepath.Join(u.home, "data/join.token")
	info, err := os.Stat(token)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the token's file: %v, %v; want 0600", info, err)
	}
	if kept, _ := os.ReadFile(token); string(kept) != "cvj1_secret\n" {
		t.Errorf("kept the token %q", kept)
	}
	want := []string{"--user daemon-reload", "--user enable cvlab.service", "--user restart cvlab.service"}
	if d := cmp.Diff(want, calls()); d != "" {
		t.Errorf("systemctl was told:\n%s", d)
	}
	if out, errs, code := u.cvlab("uninstall", "--user"); code != 0 || !strings.Contains(out, "data") {
		t.Fatalf("uninstall: exit code %d, said %s%s", code, out, errs)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the unit is still there")
	}
	if _, err := os.Stat(token); err != nil {
		t.Error("uninstall has removed data")
	}
	want = append(want, "--user disable --now cvlab.service", "--user daemon-reload")
	if d := cmp.Diff(want, calls()); d != "" {
		t.Errorf("systemctl was told:\n%s", d)
	}
	if _, errs, code := u.cvlab("uninstall", "--user"); code != exitFailed || !strings.Contains(errs, "--user") {
		t.Errorf("uninstall again: exit code %d, said %q", code, errs)
	}
}

func TestInstallPrints(t *testing.T) {
	u, _ := newInstaller(t)
	for _, c := range []struct{ args, want string }{
		{"install --print", "# /etc/systemd/system/cvlab.service\n"},
		{"install --print --user --join gpu1 --token secret", "# systemctl --user restart cvlab.service\n"},
		{"uninstall --print", "# systemctl disable --now cvlab.service\n# rm /etc/systemd/system/cvlab.service\n"},
		{"uninstall --print --user", "# systemctl --user disable --now"},
	} {
		out, errs, code := u.cvlab(strings.Fields(c.args)...)
		if code != 0 || !strings.Contains(out, c.want) || strings.Contains(out, "secret") {
			t.Errorf("cvlab %s: exit code %d, printed %s%s", c.args, code, out, errs)
		}
	}
	if list := files(t, u.home); len(list) > 0 {
		t.Errorf("--print has written %v", list)
	}
}

func TestInstallRefused(t *testing.T) {
	u, _ := newInstaller(t)
	if _, errs, code := u.cvlab("install", "--user", "--join", "gpu1"); code != exitUsage || !strings.Contains(errs, "token") {
		t.Errorf("no token: exit code %d, said %q", code, errs)
	}
	u.env = append(u.env, "TMPDIR="+filepath.Dir(filepath.Dir(testProgram.path)))
	if _, errs, code := u.cvlab("install", "--user"); code != exitUsage || !strings.Contains(errs, "go build") {
		t.Errorf("a temporary program: exit code %d, said %q", code, errs)
	}
	if list := files(t, u.home); len(list) > 0 {
		t.Errorf("refused, yet written: %v", list)
	}
	for program, want := range map[string]bool{
		filepath.Join(os.TempDir(), "go-build1/b001/exe/cvlab"): true, "/var/x/go-build77/b001/exe/cvlab": true,
		os.TempDir() + "-not/cvlab": false, "/usr/local/bin/cvlab": false,
	} {
		if got := temporary(program); got != want {
			t.Errorf("temporary(%s) = %v", program, got)
		}
	}
}
