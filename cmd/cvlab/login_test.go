package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Bo signs in once, and from then on names neither server nor token; the server's key is looked at each time.
func storyLogin(t *testing.T, m *machine) {
	bo := newPerson(t)
	token := filepath.Join(bo.home, "token")
	member := m.must("token", "create", "--user", "bo", "--role", "member")
	if err := os.WriteFile(token, []byte(member), 0o600); err != nil {
		t.Fatal(err)
	}
	server := "https://" + m.http
	_, errs, code := bo.cvlab("login", server, "--token-file", token)
	at := strings.Index(errs, "--fingerprint ")
	if code != exitUsage || at < 0 {
		t.Fatalf("an unknown key, and nobody to ask: exit code %d, said %q", code, errs)
	}
	id := strings.Fields(errs[at:])[1]
	if !strings.Contains(m.must("cluster"), id) {
		t.Errorf("cvlab cluster does not show the ID %s that login does", id)
	}
	if _, errs, code := bo.cvlab("login", server, "--token-file", token, "--fingerprint", "another"); code != exitFailed || !strings.Contains(errs, id) {
		t.Errorf("another key than expected: exit code %d, said %q", code, errs)
	}
	if out, errs, code := bo.cvlab("login", server, "--token-file", token, "--fingerprint", id); code != 0 || !strings.Contains(out, "as bo (member)") {
		t.Fatalf("login: exit code %d, said %q %q", code, out, errs)
	}
	info, err := os.Stat(filepath.Join(bo.home, ".config/cvlab/config.yaml"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the login is kept as %v, %v; want 0600", info, err)
	}
	if out, errs, code := bo.cvlab("run", "--device", "cpu", "--follow", "--", "echo", "mine"); code != 0 || !strings.Contains(out, "mine") {
		t.Errorf("run after login: exit code %d, said %q %q", code, out, errs)
	}
	if out, _, code := bo.cvlab("openapi"); code != 0 || !json.Valid([]byte(out)) || !strings.Contains(out, "/api/queue/add") {
		t.Errorf("openapi after login: exit code %d, %d bytes", code, len(out))
	}
	storyPrompt(t, server, id, strings.TrimSpace(member))
	nobody := newPerson(t, "CVLAB_SERVER_URL="+server, "CVLAB_TOKEN="+strings.TrimSpace(member))
	if _, errs, code := nobody.cvlab("queue"); code != exitUnreachable || !strings.Contains(errs, "cvlab login "+server) {
		t.Errorf("a key that was never seen: exit code %d, said %q; want the way out", code, errs)
	}
}

// Cy is asked at the terminal instead: for the key, then for the token, which the screen does not show.
func storyPrompt(t *testing.T, server, id, token string) {
	cy := newPerson(t)
	master, slave := pty(t)
	cmd, cancel := cy.command("login", server)
	defer cancel()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	var screen []byte
	for _, step := range []struct{ prompt, answer string }{{"[y/N] ", "y"}, {"Your token: ", token}, {"cvlab queue", ""}} {
		for !bytes.Contains(screen, []byte(step.prompt)) {
			piece := make([]byte, 4096)
			n, err := master.Read(piece)
			if err != nil {
				t.Fatalf("no %q: %v after %q", step.prompt, err, screen)
			}
			screen = append(screen, piece[:n]...)
		}
		if step.answer != "" {
			if _, err := master.WriteString(step.answer + "\n"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err != nil || !bytes.Contains(screen, []byte(id)) || bytes.Contains(screen, []byte(token)) {
		t.Errorf("login at a terminal: %v; the screen showed\n%s", err, screen)
	}
	if out, errs, code := cy.cvlab("queue"); code != 0 {
		t.Errorf("queue after login: exit code %d, %s%s", code, out, errs)
	}
}

// Ctrl-C at a question ends the program and gives the terminal back as it was.
func TestInterruptedQuestion(t *testing.T) {
	u := newPerson(t)
	master, slave := pty(t)
	before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	cmd, cancel := u.command("join", "127.0.0.1:1", "--data", u.home)
	defer cancel()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	screen := make([]byte, 4096)
	n, err := master.Read(screen)
	if err != nil || !bytes.Contains(screen[:n], []byte("Join token")) {
		t.Fatalf("asked %q, %v", screen[:n], err)
	}
	if _, err := master.WriteString("\x03"); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit code %d, want 130", code)
	}
	after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil || after.Lflag != before.Lflag {
		t.Errorf("the terminal's flags are %x, %v; they were %x", after.Lflag, err, before.Lflag)
	}
	slave.Close()
}
