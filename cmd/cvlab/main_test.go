package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/ui/api"
)

func TestExitCode(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want int
	}{
		{"plain", errors.New("x"), 1},
		{"usage", usage("x"), 2},
		{"wrapped usage", fmt.Errorf("a: %w", usage("x")), 2},
		{"nobody answers", fmt.Errorf("%w at x", api.ErrUnreachable), 3},
		{"no token", &api.Error{Status: http.StatusUnauthorized}, 4},
		{"no right", fmt.Errorf("a: %w", &api.Error{Status: http.StatusForbidden}), 4},
		{"unknown", &api.Error{Status: http.StatusServiceUnavailable, Type: api.TypeOutcomeUnknown}, 5},
		{"not now", &api.Error{Status: http.StatusServiceUnavailable}, 1},
		{"refused", &api.Error{Status: http.StatusUnprocessableEntity}, 1},
		{"job", &exitError{code: 137}, 137},
		{"own code wins", &exitError{code: 5, err: &api.Error{Status: http.StatusForbidden}}, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := exitCode(c.err); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func TestOutcome(t *testing.T) {
	code := func(n int) *int { return &n }
	for _, c := range []struct {
		name string
		f    api.FinalStatus
		want int
	}{
		{"completed", api.FinalStatus{Status: fsm.Completed, ExitCode: code(0)}, 0},
		{"failed", api.FinalStatus{Status: fsm.Failed, ExitCode: code(3)}, 3},
		{"killed", api.FinalStatus{Status: fsm.Failed, ExitCode: code(137)}, 137},
		{"lost", api.FinalStatus{Status: fsm.Failed}, 1},
		{"failed with 0, such as at its time limit", api.FinalStatus{Status: fsm.Failed, ExitCode: code(0)}, 1},
		{"cancelled while it waited", api.FinalStatus{Status: fsm.Cancelled}, 1},
		{"absurd", api.FinalStatus{Status: fsm.Failed, ExitCode: code(256)}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := outcome(7, c.f)
			if c.want == 0 {
				if err != nil {
					t.Errorf("got %v", err)
				}
				return
			}
			if got := exitCode(err); got != c.want || !strings.Contains(err.Error(), "experiment 7") {
				t.Errorf("got %d %v, want %d and the experiment's number", got, err, c.want)
			}
		})
	}
}

// A signal's code is given only when the signal is what ended the command.
func TestStoppedBy(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	if got := stoppedBy(ctx, context.Canceled); got != 0 {
		t.Errorf("without a signal: %d", got)
	}
	cancel(signalled("interrupt signal received"))
	if got := stoppedBy(ctx, fmt.Errorf("wait: %w", context.Cause(ctx))); got != 130 {
		t.Errorf("after an interrupt: %d, want 130", got)
	}
	if got := stoppedBy(ctx, errors.New("disk full")); got != 0 {
		t.Errorf("an error of its own after an interrupt: %d, want 0", got)
	}
}

// signalled is as os/signal says which signal ended a context.
type signalled string

func (s signalled) Error() string        { return string(s) }
func (s signalled) Is(target error) bool { return target == context.Canceled }

// Each command says what it is for, stands in a group, and takes --help.
func TestCommands(t *testing.T) {
	var out bytes.Buffer
	p := &program{stdout: &out, stderr: &out}
	root := p.root()
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			if sub.Short == "" || strings.HasSuffix(sub.Short, ".") {
				t.Errorf("%s: Short is %q, want a phrase without a full stop", sub.CommandPath(), sub.Short)
			}
			if sub.Run == nil && sub.RunE == nil && !sub.HasSubCommands() && sub.Name() != "example" {
				t.Errorf("%s does nothing", sub.CommandPath())
			}
			walk(sub)
		}
	}
	walk(root)
	for name := range strings.FieldsSeq("up join install uninstall dev example run queue show why logs ckpt cancel retry hold release priority projects devices cluster drain resume remove token login") {
		c, _, err := root.Find([]string{name})
		if err != nil || c.Name() != name || c.GroupID == "" {
			t.Errorf("cvlab %s is not there or in no group (%v)", name, err)
		}
	}
	for name := range strings.FieldsSeq("version openapi completion help") {
		if c, _, err := root.Find([]string{name}); err != nil || c.Name() != name {
			t.Errorf("cvlab %s is not there (%v)", name, err)
		}
	}
}

func TestCompletion(t *testing.T) {
	for shell, want := range map[string]string{"bash": "__start_cvlab", "zsh": "#compdef cvlab", "fish": "complete -c cvlab"} {
		var out, errs bytes.Buffer
		if code := run([]string{"completion", shell}, nil, &out, &errs); code != 0 || !strings.Contains(out.String(), want) {
			t.Errorf("completion %s: exit code %d, %d bytes without %q, %s", shell, code, out.Len(), want, errs.String())
		}
	}
	var out, errs bytes.Buffer
	if code := run([]string{"__complete", "que"}, nil, &out, &errs); code != 0 || !strings.Contains(out.String(), "queue") {
		t.Errorf("completing que gives %q", out.String())
	}
}

// Wrong usage ends with 2 and says what would be right, before any server is asked.
func TestWrongUsage(t *testing.T) {
	atHome(t)
	t.Setenv("CVLAB_SERVER_URL", "http://127.0.0.1:1")
	for args, want := range map[string]string{
		"nonsense":                          "no command",
		"queue --nonsense":                  "--help",
		"queue extra":                       "cvlab show",
		"queue --status done":               "pending",
		"show":                              "number",
		"show abc":                          "cvlab queue",
		"show 1 2":                          "number",
		"why 0":                             "cvlab queue",
		"logs":                              "number",
		"ckpt":                              "done PATH",
		"ckpt rm":                           "no command",
		"ckpt ls":                           "number",
		"ckpt done":                         "CVLAB_RUN_DIR",
		"run":                               "FILE.yaml",
		"run a.yaml b.yaml":                 "FILE.yaml",
		"run /nonexistent.yaml":             "no such file",
		"run --":                            "FILE.yaml",
		"run --env X -- true":               "KEY=VALUE",
		"run --after x -- true":             "number",
		"run --gpus two -- true":            "--help",
		"run --time-limit 12 -- true":       "--help",
		"cancel":                            "numbers",
		"cancel 3 --project p":              "not both",
		"cancel 9-3":                        "range",
		"priority 3":                        "low, normal",
		"drain":                             "node",
		"token create":                      "--join",
		"token create --join --user x":      "choose one",
		"token create --user x --role king": "viewer",
		"token revoke":                      "cvlab token list",
		"dev --nodes 0":                     "1 to 9",
		"join":                              "PEER",
		"install extra":                     "no argument",
		"login":                             "URL",
		"login ftp://x":                     "https://host:8000",
		"example --nonsense":                "usage",
		"logs 3 --attempt x":                "--help",
		"logs 3 --tail -3":                  "tail",
		"queue --limit 0":                   "limit",
		"run --gpus -1 -- true":             "gpus",
		"run --retries -1 -- true":          "retries",
	} {
		t.Run(args, func(t *testing.T) {
			var out, errs bytes.Buffer
			code := run(strings.Fields(args), strings.NewReader(""), &out, &errs)
			if code != exitUsage || !strings.Contains(errs.String(), want) {
				t.Errorf("exit code %d, said %q; want %d and %q", code, errs.String(), exitUsage, want)
			}
			if out.Len() > 0 {
				t.Errorf("printed %q to stdout", out.String())
			}
		})
	}
}

func TestNoServer(t *testing.T) {
	atHome(t)
	t.Setenv("CVLAB_SERVER_URL", "http://127.0.0.1:1")
	var out, errs bytes.Buffer
	if code := run([]string{"queue"}, strings.NewReader(""), &out, &errs); code != exitUnreachable || !strings.Contains(errs.String(), "127.0.0.1:1") {
		t.Errorf("exit code %d, said %q; want %d and the address", code, errs.String(), exitUnreachable)
	}
}

// Somebody else's words in a message must not act on the terminal of who reads it.
func TestMessagesAreHarmless(t *testing.T) {
	atHome(t)
	var out, errs bytes.Buffer
	if code := run([]string{"show", "\x1b]52;c;eA==\x07"}, nil, &out, &errs); code != exitUsage || strings.ContainsAny(errs.String(), "\x1b\x07") {
		t.Errorf("exit code %d, said %q", code, errs.String())
	}
}
