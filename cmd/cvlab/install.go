package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/spf13/cobra"

	"github.com/deveronica/cvlab/node"
)

//go:embed cvlab.service.tmpl
var unitTemplate string

const unitName = "cvlab.service"

type installFlags struct {
	join, token, tokenFile string
	user, print            bool
	kitDir, kitCommand     string
	name                   string
}

func (f *installFlags) define(c *cobra.Command) {
	c.Flags().BoolVar(&f.user, "user", false, "install for this user only, without root")
	c.Flags().BoolVar(&f.print, "print", false, "only print what would be written and run")
}

func (p *program) installCommand() *cobra.Command {
	var f installFlags
	c := &cobra.Command{
		Use:   "install [--join PEER]",
		Short: "Keep this machine's node running with systemd",
		Long: `install writes a systemd unit for this machine's node, enables it and starts it. Restarting or upgrading the node never
touches running experiments. As root the unit is the system's; with --user it is yours.`,
		Args: exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error { return p.install(cmd.Context(), f) },
	}
	f.define(c)
	c.Flags().StringVar(&f.join, "join", "", "join this member's cluster (host or host:port) instead of founding one")
	c.Flags().StringVar(&f.token, "token", "", "join token")
	c.Flags().StringVar(&f.tokenFile, "token-file", "", "file that holds the join token")
	c.Flags().StringVar(&f.kitDir, "kit-dir", "", "checkout of cvlab-kit that runs configs here")
	c.Flags().StringVar(&f.kitCommand, "kit-command", "", "command that runs configs instead")
	c.Flags().StringVar(&f.name, "name", "", "what people call this machine")
	return c
}

func (p *program) uninstallCommand() *cobra.Command {
	var f installFlags
	c := &cobra.Command{
		Use:   "uninstall",
		Short: "Undo install; data and running experiments stay",
		Args:  exactly(0, "no argument"),
		RunE:  func(cmd *cobra.Command, _ []string) error { return p.uninstall(cmd.Context(), f) },
	}
	f.define(c)
	return c
}

// unit is what the template is filled with.
type unit struct {
	User    bool
	Command string
}

// renderUnit gives the text of the unit.
func renderUnit(u unit) (string, error) {
	t, err := template.New(unitName).Parse(unitTemplate)
	if err != nil {
		return "", fmt.Errorf("read the unit's template: %w", err)
	}
	var text bytes.Buffer
	if err := t.Execute(&text, u); err != nil {
		return "", fmt.Errorf("fill the unit's template: %w", err)
	}
	return text.String(), nil
}

func (p *program) install(ctx context.Context, f installFlags) error {
	s, err := loadSettings()
	if err != nil {
		return err
	}
	dir, _ := p.dataDir(s)
	if dir, err = filepath.Abs(dir); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if temporary(self) && !f.print {
		return usage("this program is a temporary file (%s) and will be gone; build it first: go build -o /usr/local/bin/cvlab ./cmd/cvlab", self)
	}
	tokenPath := filepath.Join(dir, "join.token")
	text, err := renderUnit(unit{User: f.user, Command: commandLine(f.nodeCommand(self, dir, tokenPath))})
	if err != nil {
		return err
	}
	path, err := unitPath(f.user)
	if err != nil {
		return err
	}
	// restart, and not enable --now: it also makes a node that runs already follow the new unit.
	commands := [][]string{systemctl(f.user, "daemon-reload"), systemctl(f.user, "enable", unitName), systemctl(f.user, "restart", unitName)}
	if f.print {
		fmt.Fprintf(p.stdout, "# %s\n%s\n# then:\n", path, text)
		for _, c := range commands {
			fmt.Fprintf(p.stdout, "# %s\n", strings.Join(c, " "))
		}
		return nil
	}
	if err := p.keepToken(ctx, f, tokenPath); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write the unit: %w", err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write the unit: %w; run this as root, or with --user", err)
	}
	for _, command := range commands {
		if err := p.execute(ctx, command); err != nil {
			return err
		}
	}
	fmt.Fprintf(p.stdout, "installed %s; the node runs and will after every restart\n", path)
	if f.user {
		fmt.Fprintln(p.stdout, "so that it also runs while you are not signed in: loginctl enable-linger")
	}
	p.next("how it is: systemctl%s status %s; its log: journalctl%s -u %s", userFlag(f.user), unitName, userFlag(f.user), unitName)
	return nil
}

func userFlag(user bool) string {
	if user {
		return " --user"
	}
	return ""
}

// temporary says whether the program is one that "go run" has built and will remove.
func temporary(program string) bool {
	inside, err := filepath.Rel(os.TempDir(), program)
	return err == nil && !strings.HasPrefix(inside, "..") || strings.Contains(program, "/go-build")
}

func (f *installFlags) nodeCommand(self, dir, tokenPath string) []string {
	args := []string{self, "up"}
	if f.join != "" {
		args = []string{self, "join", f.join, "--token-file", tokenPath}
	}
	args = append(args, "--data", dir)
	for _, o := range [][2]string{{"--name", f.name}, {"--kit-dir", f.kitDir}, {"--kit-command", f.kitCommand}} {
		if o[1] != "" {
			args = append(args, o[0], o[1])
		}
	}
	return args
}

// commandLine quotes words as systemd reads them (systemd.service(5), "Command lines").
func commandLine(words []string) string {
	quoted := make([]string, len(words))
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`, `$`, `$$`, "\n", `\n`)
	for i, w := range words {
		quoted[i] = escape.Replace(w)
		if w == "" || strings.ContainsAny(w, " \t\n\"'\\;") {
			quoted[i] = `"` + quoted[i] + `"`
		}
	}
	return strings.Join(quoted, " ")
}

// keepToken writes the join token where only the node reads it; command lines and units are for everybody to read.
func (p *program) keepToken(ctx context.Context, f installFlags, path string) error {
	dir := filepath.Dir(path)
	if f.join == "" || f.token == "" && f.tokenFile == "" && node.Admitted(dir) {
		return nil
	}
	token, err := p.joinToken(ctx, &nodeFlags{token: f.token, tokenFile: f.tokenFile})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
		return fmt.Errorf("keep the join token: %w", err)
	}
	return nil
}

func unitPath(user bool) (string, error) {
	if !user {
		return filepath.Join("/etc/systemd/system", unitName), nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find the user's units: %w", err)
	}
	return filepath.Join(dir, "systemd", "user", unitName), nil
}

func systemctl(user bool, args ...string) []string {
	if user {
		return append([]string{"systemctl", "--user"}, args...)
	}
	return append([]string{"systemctl"}, args...)
}

func (p *program) execute(ctx context.Context, command []string) error {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = p.stdout, p.stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(command, " "), err)
	}
	return nil
}

func (p *program) uninstall(ctx context.Context, f installFlags) error {
	path, err := unitPath(f.user)
	if err != nil {
		return err
	}
	disable := systemctl(f.user, "disable", "--now", unitName)
	reload := systemctl(f.user, "daemon-reload")
	if f.print {
		fmt.Fprintf(p.stdout, "# %s\n# rm %s\n# %s\n", strings.Join(disable, " "), path, strings.Join(reload, " "))
		return nil
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no %s; was it installed with --user, or without?", path)
	}
	if err := p.execute(ctx, disable); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove the unit: %w", err)
	}
	if err := p.execute(ctx, reload); err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "removed %s; the data and what runs stay\n", path)
	return nil
}
