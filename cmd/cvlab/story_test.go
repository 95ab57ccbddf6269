package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/node"
)

// expect runs a command of the story and wants its exit code and words in what it prints.
func (m *machine) expect(t *testing.T, code int, args []string, words ...string) string {
	t.Helper()
	out, errs, got := m.cvlab(args...)
	if got != code {
		t.Fatalf("cvlab %v: exit code %d, want %d\n%s%s", args, got, code, out, errs)
	}
	for _, w := range words {
		if !strings.Contains(out+errs, w) {
			t.Errorf("cvlab %v does not say %q:\n%s%s", args, w, out, errs)
		}
	}
	return out
}

// added submits and gives the first number.
func (m *machine) added(t *testing.T, args ...string) string {
	t.Helper()
	var a struct {
		Experiments []struct{ ID uint64 }
		Key         string
	}
	out := m.expect(t, 0, append([]string{"run", "--json"}, args...))
	if err := json.Unmarshal([]byte(out), &a); err != nil || len(a.Experiments) == 0 || a.Key == "" {
		t.Fatalf("cvlab run --json %v: %v in %s", args, err, out)
	}
	return word(a.Experiments[0].ID)
}

func (l *lab) ended(m *machine, id string, s fsm.Status) {
	l.t.Helper()
	n, err := strconv.ParseUint(id, 10, 64)
	l.must(err)
	l.waitStatus(m, n, s)
}

func say(format string, args ...any) []string { return strings.Fields(fmt.Sprintf(format, args...)) }

// One machine with two GPUs, through the command line alone, as somebody new to it would go about it.
func TestStory(t *testing.T) {
	l := newLab(t, 1, "--sim-gpus", "2", "--cpu-slots", "4", "--kit-command", "cvlab example")
	m := l.machines[0]
	m.expect(t, 0, say("queue"), "0 pending, 0 running")
	m.expect(t, 0, nil, "0 pending, 0 running")

	t.Run("wait", func(t *testing.T) { storyWait(t, l, m) })
	t.Run("codes", func(t *testing.T) { storyCodes(t, l, m) })
	t.Run("change", func(t *testing.T) { storyChange(t, l, m) })
	t.Run("submit", func(t *testing.T) { storySubmit(t, l, m) })
	t.Run("configs", func(t *testing.T) { storyConfigs(t, l, m) })
	t.Run("example", func(t *testing.T) { storyExample(t, l, m) })
	t.Run("output", func(t *testing.T) { storyOutput(t, l, m) })
	t.Run("terminal", func(t *testing.T) { storyTerminal(t, m) })
	t.Run("people", func(t *testing.T) { storyPeople(t, m) })
	t.Run("json", func(t *testing.T) { storyJSON(t, m) })
	t.Run("drain", func(t *testing.T) { storyDrain(t, l, m) })
}

// Both GPUs are taken, so the next experiment waits; why names the machine and the numbers.
func storyWait(t *testing.T, l *lab, m *machine) {
	m.expect(t, 0, append(say("run --gpus 2 --name big --"), l.job("600", 0)...), "experiment 1 added", "big")
	l.ended(m, "1", fsm.Running)
	m.expect(t, 0, say("run --gpus 1 --name small -- true"), "experiment 2")
	l.eventually(10*time.Second, "a reason", func() bool { return strings.Contains(m.must("why", "2"), "of 2 GPUs") })
	m.expect(t, 0, say("why 2"), "m1", "0 of 2 GPUs", "experiment 1")
	m.expect(t, 0, say("queue"), "1 pending, 1 running", "big", "small", "m1 (2 GPUs)", "needs 1 GPU")
	m.expect(t, 0, say("show 1"), "running", "2 GPUs", "ATTEMPT", "m1")
	m.expect(t, 0, say("devices"), "m1", "busy", "Simulated")
	l.eventually(10*time.Second, "a line of output", func() bool { return strings.Contains(m.must("logs", "1"), "line 1\n") })
	l.letGo()
	m.expect(t, 0, say("logs -f 1"), "line 1\n")
	m.expect(t, 0, say("logs -f 2"))
	l.must(os.Remove(filepath.Join(l.witness, "go")))
	m.expect(t, 0, say("queue --all"), "2 completed")
	m.expect(t, 0, say("logs 1 --tail 1"), "line")
	m.expect(t, exitFailed, say("show 99"), "99")
	m.expect(t, exitFailed, say("logs 99"), "99")
}

// Following ends with the job's own exit code.
func storyCodes(t *testing.T, l *lab, m *machine) {
	for want, script := range map[int]string{0: "echo fine", 3: "echo bad; exit 3", 137: "kill -9 $$", 143: "kill $$"} {
		id := m.added(t, "--device", "cpu", "--", "sh", "-c", script)
		_, errs, code := m.cvlab("logs", "-f", id)
		if code != want || want != 0 && !strings.Contains(errs, "experiment "+id) {
			t.Errorf("logs -f of %q: exit code %d, said %q; want %d", script, code, errs, want)
		}
	}
	m.expect(t, 3, []string{"run", "--follow", "--device", "cpu", "--", "sh", "-c", "echo here; exit 3"}, "here", "exit")
	m.expect(t, 127, []string{"run", "--follow", "--device", "cpu", "--", "/no/such/program"}, "/no/such/program")
}

func storyChange(t *testing.T, l *lab, m *machine) {
	running := m.added(t, append(say("--gpus 2 --project change --"), l.job("600", 0)...)...)
	l.ended(m, running, fsm.Running)
	waiting := m.added(t, say("--gpus 1 --project change -- true")...)
	m.expect(t, 0, say("hold %s", waiting), "held: "+waiting)
	m.expect(t, 0, say("queue --status held"), waiting)
	m.expect(t, exitFailed, say("release %s", running), "running")
	m.expect(t, 0, say("release %s", waiting), "released: "+waiting)
	m.expect(t, 0, say("priority %s urgent", waiting), "urgent: "+waiting)
	m.expect(t, 0, say("queue"), "urgent")
	m.expect(t, exitFailed, say("priority %s extreme", waiting), "urgent")
	m.expect(t, 0, say("cancel %s", waiting), "cancelled: "+waiting)
	m.expect(t, 0, say("cancel --project change --status running"), "cancelled: "+running)
	l.ended(m, running, fsm.Cancelled)
	m.expect(t, 0, say("why %s", running), "cancel")
	if n := len(l.witnessed(1)); n != 2 {
		t.Errorf("experiment 1 left %d words, want 2", n)
	}
	m.expect(t, 0, say("retry %s", waiting), "back in the queue: "+waiting)
	l.ended(m, waiting, fsm.Completed)
	m.expect(t, exitFailed, say("retry %s", waiting), "completed")
	m.expect(t, 0, say("projects"), "change", "default")
}

func storySubmit(t *testing.T, l *lab, m *machine) {
	first := m.added(t, say("--key same --device cpu -- true")...)
	if again := m.added(t, say("--key same --device cpu -- true")...); again != first {
		t.Errorf("the same key gave %s and then %s", first, again)
	}
	before := m.must("queue", "--all", "--json")
	m.expect(t, 0, say("run --dry-run --gpus 1 -- true"), "would add 1")
	if after := m.must("queue", "--all", "--json"); strings.Count(after, `"created_at"`) != strings.Count(before, `"created_at"`) {
		t.Error("--dry-run has stored something")
	}
	a := m.added(t, append(say("--device cpu --hold --env GREETING=hello --name named --"), []string{"sh", "-c", "echo $GREETING from $CVLAB_NODE"}...)...)
	b := m.added(t, say("--device cpu --after %s -- true", a)...)
	m.expect(t, 0, say("why %s", b), a)
	m.expect(t, 0, say("release %s", a))
	m.expect(t, 0, say("logs -f %s", b))
	m.expect(t, 0, say("logs %s", a), "hello from m1")
	limited := m.added(t, say("--device cpu --time-limit 1s -- sleep 100")...)
	l.ended(m, limited, fsm.Failed)
	m.expect(t, 0, say("why %s", limited), "time limit")
}

// A config with a mistake is refused with its place; the seed's own is accepted, and its author is warned.
func storyConfigs(t *testing.T, l *lab, m *machine) {
	bad := filepath.Join(l.dir, "bad.yaml")
	l.must(os.WriteFile(bad, []byte("project: x\nepochs: 3\ncvlab:\n  priority: soon\n"), 0o644))
	m.expect(t, exitFailed, say("run %s", bad), "line 4", "column 13", "urgent")
	l.must(os.WriteFile(bad, []byte("a: [1\nb: 2\n"), 0o644))
	m.expect(t, exitFailed, say("run %s", bad), "line ")
	m.expect(t, 0, say("run --hold testdata/seed.yaml"), "warning", "agent", "added")
	m.expect(t, 0, say("queue --status held"), "distributed_experiment")
	m.expect(t, 0, say("cancel --project distributed_experiment"), "cancelled: ")
	m.expect(t, 0, append(say("run --dry-run testdata/seed.yaml --set"), "batch_size=[64, 128]", "--set", "epochs=[1, 2, 3]"), "would add 6", "epochs=1 batch_size=64", "batch_size: 128")
}

// The example's own sweep trains for real and leaves metrics in the run's directory.
func storyExample(t *testing.T, l *lab, m *machine) {
	config := filepath.Join(l.dir, "sweep.yaml")
	l.must(os.WriteFile(config, []byte(m.must("example", "config")), 0o644))
	m.expect(t, 0, append(say("run %s --set epochs=2 --set epoch_seconds=0 --set", config), "lr=[0.01, 0.003]"), "4 of them")
	l.eventually(60*time.Second, "the sweep to end", func() bool {
		return !strings.Contains(m.must("queue"), "digits")
	})
	out := m.must("queue", "--all", "--project", "digits")
	if !strings.HasPrefix(out, "0 pending, 0 running, 4 completed\n") {
		t.Fatalf("the sweep ended as\n%s%s", out, m.must("logs", strings.Fields(strings.Split(out, "\n")[3])[0]))
	}
	found := 0
	l.must(filepath.WalkDir(filepath.Join(m.dir, "runs"), func(path string, d os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".csv") {
			text, _ := os.ReadFile(path)
			if bytes.HasPrefix(text, []byte("step,")) && bytes.Count(text, []byte("\n")) > 2 {
				found++
			}
		}
		return err
	}))
	if found < 4 {
		t.Errorf("found %d files of metrics below the runs, want 4", found)
	}
}

// A large and ugly output comes back byte for byte.
func storyOutput(t *testing.T, l *lab, m *machine) {
	const script = `head -c 1000 /dev/urandom > "$1"; printf '\033]52;c;eA==\007\000\377' >> "$1"; seq -f 'line %.0f of a log that grows and grows' 1 2500000 | head -c 104857600 >> "$1"; head -c 1048576 /dev/zero | tr '\0' x >> "$1"; cat "$1"`
	file := filepath.Join(l.dir, "wanted")
	id := m.added(t, "--device", "cpu", "--", "sh", "-c", script, "sh", file)
	l.ended(m, id, fsm.Completed)
	want, err := os.ReadFile(file)
	l.must(err)
	if len(want) < 100<<20 {
		t.Fatalf("the job wrote only %d bytes", len(want))
	}
	if got := m.must("logs", "--raw", id); got != string(want) {
		t.Errorf("logs --raw gives %d bytes, want the %d that were written", len(got), len(want))
	}
	l.must(os.Remove(file))
}

// On a terminal a job's output has no power, and each command names the next one.
func storyTerminal(t *testing.T, m *machine) {
	u := newPerson(t, "CVLAB_DATA_DIR="+m.dir)
	text := u.onTerminal("run", "--device", "cpu", "--", "printf", `\033[31mred\033[0m \033]0;title\007\033[2J\n`)
	if !strings.Contains(text, "cvlab logs -f ") {
		t.Errorf("run does not name the next command: %q", text)
	}
	id := strings.Fields(text)[1]
	if text := u.onTerminal("logs", "-f", id); !strings.Contains(text, "\x1b[31mred\x1b[0m "+`\x1b]0;title\x07\x1b[2J`+"\n") || strings.Contains(text, "\x1b]") {
		t.Errorf("the terminal got %q", text)
	}
	if text := u.onTerminal("logs", "--raw", id); !strings.Contains(text, "\x1b]0;title\x07\x1b[2J") {
		t.Errorf("with --raw the terminal got %q", text)
	}
	if out, _, _ := u.cvlab("logs", id); !strings.Contains(out, "\x1b]0;title\x07\x1b[2J\n") {
		t.Errorf("a pipe got %q", out)
	}
	held := m.added(t, say("--hold --device cpu -- true")...)
	for _, c := range []struct{ args, next string }{
		{"show " + id, "cvlab logs " + id},
		{"queue", "cvlab release " + held},
		{"release " + held, "cvlab queue"},
		{"devices", "cvlab queue"},
		{"cluster", "cvlab token create --join"},
		{"projects", "cvlab queue --all --project"},
		{"queue --status failed", "cvlab why"},
		{"queue --status completed", "cvlab show"},
		{"drain m1", "cvlab resume m1"},
		{"resume m1", "m1"},
	} {
		if text := u.onTerminal(strings.Fields(c.args)...); !strings.Contains(text, c.next) {
			t.Errorf("cvlab %s does not name %q:\n%s", c.args, c.next, text)
		}
	}
}

func storyPeople(t *testing.T, m *machine) {
	server := "CVLAB_SERVER_URL=http://" + m.http
	if _, errs, code := newPerson(t, server).cvlab("queue"); code != exitNotAllowed {
		t.Errorf("without a token: exit code %d, want %d; said %s", code, exitNotAllowed, errs)
	}
	viewer := strings.TrimSpace(m.must("token", "create", "--user", "ana", "--role", "viewer"))
	ana := newPerson(t, server, "CVLAB_TOKEN="+viewer)
	if out, errs, code := ana.cvlab("queue", "--all"); code != 0 || !strings.Contains(out, "completed") {
		t.Errorf("a viewer reads with exit code %d: %s%s", code, out, errs)
	}
	for _, args := range [][]string{say("run -- true"), say("cancel 1"), say("token create --join"), say("drain m1")} {
		if _, errs, code := ana.cvlab(args...); code != exitNotAllowed || !strings.Contains(errs, "viewer") {
			t.Errorf("a viewer's %v: exit code %d, said %q; want %d", args, code, errs, exitNotAllowed)
		}
	}
	id := ""
	for line := range strings.SplitSeq(m.must("token", "list"), "\n") {
		if strings.Contains(line, " ana ") {
			id = strings.Fields(line)[0]
		}
	}
	m.expect(t, 0, say("token revoke %s", id), "revoked")
	if _, _, code := ana.cvlab("queue"); code != exitNotAllowed {
		t.Errorf("a revoked token: exit code %d, want %d", code, exitNotAllowed)
	}
	storyLogin(t, m)
}

// Every command that has something to tell tells it to programs too.
func storyJSON(t *testing.T, m *machine) {
	for _, args := range [][]string{
		nil, say("queue"), say("queue -a"), say("show 1"), say("why 1"), say("ckpt ls 1"), say("projects"), say("devices"), say("cluster"), say("token list"), say("token create --join"),
		say("run --device cpu -- true"), say("run --dry-run testdata/seed.yaml"), say("run --hold --device cpu -- true"), say("version"), say("drain m1"), say("resume m1"), say("openapi"), say("run --key once --device cpu -- true"),
		say("cancel --status held"),
	} {
		out, errs, code := m.cvlab(append([]string{"--json"}, args...)...)
		if code != 0 || !json.Valid([]byte(out)) || !strings.HasPrefix(out, "{") {
			t.Errorf("cvlab %v --json: exit code %d, no JSON object: %s%s", args, code, out, errs)
		}
	}
	var made struct{ Token, ID, Expires string }
	if err := json.Unmarshal([]byte(m.must("token", "create", "--join", "--json")), &made); err != nil || made.Token == "" || made.ID == "" || made.Expires == "" {
		t.Errorf("token create --json gives %+v, %v", made, err)
	}
}

func storyDrain(t *testing.T, l *lab, m *machine) {
	m.expect(t, 0, say("drain m1"), "cvlab resume m1")
	m.expect(t, 0, say("devices"), "draining")
	id := m.added(t, say("--gpus 1 -- true")...)
	l.eventually(10*time.Second, "the reason", func() bool { return strings.Contains(m.must("why", id), "drain") })
	m.expect(t, 0, say("resume m1"), "gets work again")
	m.expect(t, 0, say("logs -f %s", id))
	m.expect(t, exitFailed, say("drain nowhere"), "nowhere")
}

// A machine that only votes and serves gets no work; one that only works serves no pages, but all the rest.
func TestRoles(t *testing.T) {
	l := newLab(t, 1, "--server-only", "--sim-gpus", "1")
	server := l.machines[0]
	id := server.added(t, say("--gpus 1 -- true")...)
	l.eventually(10*time.Second, "a reason", func() bool { return strings.Contains(server.must("why", id), "m1") })
	server.expect(t, 0, say("queue"), "1 pending, 0 running")
	worker := l.machine("worker", "--client-only", "--sim-gpus", "1")
	worker.join(server, l.joinToken(1, time.Hour))
	server.expect(t, 0, say("logs -f %s", id))
	server.expect(t, 0, say("show %s", id), "worker")
	worker.expect(t, 0, say("show %s", id), "completed")
	page := func(m *machine) (int, string) {
		token, err := node.ReadToken(m.dir)
		l.must(err)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+m.http+"/", nil)
		l.must(err)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		l.must(err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		l.must(err)
		return resp.StatusCode, string(text)
	}
	if code, text := page(server); code != http.StatusOK || !strings.Contains(text, "<html") {
		t.Errorf("the server's page: status %d %q", code, text)
	}
	if code, text := page(worker); code != http.StatusNotFound || strings.Contains(text, "<html") || !strings.Contains(text, "there is no") {
		t.Errorf("the worker serves status %d %q, want 404 and a sentence", code, text)
	}
	said, err := os.ReadFile(worker.dir + ".log")
	l.must(err)
	if strings.Contains(string(said), "/login?code") {
		t.Error("a machine without pages offers a link to one")
	}
	u := newPerson(t, "CVLAB_DATA_DIR="+worker.dir)
	if _, errs, code := u.cvlab("up", "--server-only", "--client-only", "--data", u.home); code == 0 || !strings.Contains(errs, "exclude") {
		t.Errorf("both roles at once: exit code %d, said %q", code, errs)
	}
}

// The node's name comes from CVLAB_DEVICE_ID, and clients find a server by CVLAB_SERVER_URL.
func TestEnvironment(t *testing.T) {
	l := &lab{t: t, dir: t.TempDir()}
	t.Cleanup(l.end)
	u := newPerson(t, "CVLAB_DEVICE_ID=lab-pc-7")
	dir := filepath.Join(l.dir, "d")
	cmd, cancel := u.command("up", "--data", dir, "--http", "127.0.0.1:0", "--mesh", "127.0.0.1:0", "--gossip", "127.0.0.1:0")
	defer cancel()
	var said bytes.Buffer
	cmd.Stdout = &said
	l.must(cmd.Start())
	l.eventually(30*time.Second, "the node to be led", func() bool {
		out, _, code := newPerson(t).cvlab("cluster", "--data", dir)
		return code == 0 && strings.Contains(out, "leader   lab-pc-7")
	})
	l.must(cmd.Process.Signal(syscall.SIGTERM))
	if err := cmd.Wait(); err != nil {
		t.Errorf("a node told to end ends with %v", err)
	}
	for _, w := range []string{"cluster  lab-pc-7", "node     lab-pc-7", "cvlab join 127.0.0.1:", "CVLAB_JOIN_TOKEN=", "/login?code=", "cvlab run"} {
		if !strings.Contains(said.String(), w) {
			t.Errorf("up does not say %q:\n%s", w, said.String())
		}
	}
}
