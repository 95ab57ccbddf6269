package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/deveronica/cvlab/cluster/mesh"
	"github.com/deveronica/cvlab/ui/api"
)

// savedLogin is what cvlab login keeps for this user, in ~/.config/cvlab/config.yaml.
type savedLogin struct {
	ServerURL string `yaml:"server_url"`
	// Fingerprint is the ID of the node that must answer; empty where an authority vouches for the server, or nobody can.
	Fingerprint string `yaml:"fingerprint,omitempty"`
	Token       string `yaml:"token"`
}

func loginPath() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find this user's settings: %w", err)
	}
	return filepath.Join(dir, "cvlab", "config.yaml"), nil
}

// loadLogin reads what login has kept; nothing is no error.
func loadLogin() (savedLogin, error) {
	var l savedLogin
	path, err := loginPath()
	if err != nil {
		return l, nil // no home, no login: a service, for example
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return l, fmt.Errorf("read the login: %w", err)
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&l); err != nil {
		return l, fmt.Errorf("read the login in %s: %w; sign in again with: cvlab login URL", path, err)
	}
	return l, nil
}

// save writes the login where only this user reads it, as a whole or not at all.
func (l savedLogin) save() (string, error) {
	path, err := loginPath()
	if err != nil {
		return "", err
	}
	text, err := yaml.Marshal(l)
	if err != nil {
		return "", fmt.Errorf("keep the login: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("keep the login: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".login-*") // made with 0600
	if err != nil {
		return "", fmt.Errorf("keep the login: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return "", fmt.Errorf("keep the login: %w", err)
	}
	return path, nil
}

type loginFlags struct{ tokenFile, fingerprint string }

func (p *program) loginCommand() *cobra.Command {
	var f loginFlags
	c := &cobra.Command{
		Use:   "login URL",
		Short: "Keep a server and your token for this user, so that later commands need neither",
		Long: `login keeps a server's address, its key and your token in ~/.config/cvlab/config.yaml, for you alone to read. An
administrator makes the token with "cvlab token create --user NAME --role member". Give it by --token-file, CVLAB_TOKEN or at the
prompt. Flags, environment and settings stay stronger; remove the file to sign out.`,
		Args: exactly(1, "one URL, such as https://gpu1:8000"),
		RunE: func(cmd *cobra.Command, args []string) error { return p.login(cmd.Context(), f, args[0]) },
	}
	c.Flags().StringVar(&f.tokenFile, "token-file", "", "file that holds your token")
	c.Flags().StringVar(&f.fingerprint, "fingerprint", "", "ID of the node that must answer there (cvlab cluster shows it); without it you are asked")
	return c
}

func (p *program) login(ctx context.Context, f loginFlags, server string) error {
	l, err := p.identify(ctx, f, server)
	if err != nil {
		return err
	}
	if l.Token, err = p.userToken(ctx, f); err != nil {
		return err
	}
	c, err := api.NewClient(api.ClientOptions{URL: l.ServerURL, Fingerprint: l.Fingerprint, Token: l.Token})
	if err != nil {
		return err
	}
	me, err := c.Me(ctx)
	if err != nil {
		return err
	}
	path, err := l.save()
	if err != nil {
		return err
	}
	if p.json {
		return p.printJSON(map[string]string{"server": l.ServerURL, "fingerprint": l.Fingerprint, "user": me.User, "role": string(me.Role), "file": path})
	}
	fmt.Fprintf(p.stdout, "signed in at %s as %s (%s); kept in %s\n", l.ServerURL, plain(me.User), me.Role, path)
	p.next("what runs and waits: cvlab queue")
	return nil
}

// identify finds out how the server proves who it is: by an authority this machine trusts, or by a node's key that the
// user confirms once.
func (p *program) identify(ctx context.Context, f loginFlags, server string) (savedLogin, error) {
	address, err := hostPort(server)
	if err != nil {
		return savedLogin{}, err
	}
	secure := savedLogin{ServerURL: "https://" + address, Fingerprint: strings.ToLower(f.fingerprint)}
	shown, trusted, err := peek(ctx, address)
	switch {
	case errors.As(err, new(*net.OpError)):
		return savedLogin{}, &exitError{code: exitUnreachable, err: fmt.Errorf("%w at %s: %w", api.ErrUnreachable, address, err)}
	case err != nil && f.fingerprint == "" && strings.HasPrefix(server, "http:"):
		fmt.Fprintf(p.stderr, "warning: %s does not speak TLS; your token will cross the network in the clear\n", address)
		return savedLogin{ServerURL: "http://" + address}, nil
	case err != nil:
		return savedLogin{}, fmt.Errorf("look at the key of %s: %w; if it only speaks HTTP, write http:// before it", address, err)
	case f.fingerprint != "" && shown != secure.Fingerprint:
		return savedLogin{}, fmt.Errorf("the node at %s is %s, not %s; do not give it your token before you know why", address, shown, secure.Fingerprint)
	case f.fingerprint != "" || trusted:
		return secure, nil
	}
	secure.Fingerprint = shown
	return secure, p.confirm(ctx, address, shown)
}

// peek gives the ID that belongs to the key of the server, and whether this machine's authorities vouch for it.
func peek(ctx context.Context, address string) (id string, trusted bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	// Nothing is sent over this connection, so whoever answers may prove who it is afterwards.
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return "", false, err
	}
	defer conn.Close()
	chain := conn.(*tls.Conn).ConnectionState().PeerCertificates
	host, _, _ := net.SplitHostPort(address)
	o := x509.VerifyOptions{DNSName: host, Intermediates: x509.NewCertPool()}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	_, err = chain[0].Verify(o)
	return mesh.FingerprintID(chain[0]), err == nil, nil
}

func (p *program) confirm(ctx context.Context, address, id string) error {
	f, ok := p.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return usage("the node at %s says that it is %s; if \"cvlab cluster\" on it says so too, repeat this with --fingerprint %s (%w)", address, id, id, errNoTerminal)
	}
	fmt.Fprintf(p.stderr, "The node at %s says that it is %s.\nDoes \"cvlab cluster\" on it say so too? [y/N] ", address, id)
	if err := typed(ctx, f); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	line, err := bufio.NewReader(f).ReadString('\n')
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if answer := strings.ToLower(strings.TrimSpace(line)); answer != "y" && answer != "yes" {
		return &exitError{code: exitFailed, err: errors.New("not signed in")}
	}
	return nil
}

// userToken finds the token to keep.
func (p *program) userToken(ctx context.Context, f loginFlags) (string, error) {
	if f.tokenFile != "" {
		text, err := os.ReadFile(f.tokenFile)
		if err != nil {
			return "", fmt.Errorf("read the token: %w", err)
		}
		return strings.TrimSpace(string(text)), nil
	}
	if t := os.Getenv("CVLAB_TOKEN"); t != "" {
		return t, nil
	}
	return p.askSecret(ctx, "Your token: ", "want your token in --token-file FILE or CVLAB_TOKEN")
}

// askSecret asks at the terminal without showing the answer; where there is none, it says what else to do.
func (p *program) askSecret(ctx context.Context, prompt, otherwise string) (string, error) {
	f, ok := p.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return "", usage("%s (%w)", otherwise, errNoTerminal)
	}
	fd := int(f.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	// Silent before the prompt: what is pasted at once must not show either.
	silent := *before
	silent.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &silent); err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	defer unix.IoctlSetTermios(fd, unix.TCSETS, before)
	fmt.Fprint(p.stderr, prompt)
	var text []byte
	if err = typed(ctx, f); err == nil {
		text, err = term.ReadPassword(fd)
	}
	fmt.Fprintln(p.stderr)
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// typed waits until a line was typed. A read cannot be interrupted, and Ctrl-C at a question has to work.
func typed(ctx context.Context, f *os.File) error {
	for {
		fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 100)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && !errors.Is(err, unix.EINTR):
			return err
		case n > 0:
			return nil
		}
	}
}

// unknownKey says how to go on when a server's certificate is its own.
func unknownKey(err error) string {
	if untrusted, ok := errors.AsType[*tls.CertificateVerificationError](err); ok && errors.As(untrusted.Err, new(x509.UnknownAuthorityError)) {
		server := "URL"
		if u, ok := errors.AsType[*url.Error](err); ok {
			if parsed, err := url.Parse(u.URL); err == nil {
				server = "https://" + parsed.Host
			}
		}
		return "\nits key has to be known first; sign in once with: cvlab login " + server
	}
	return ""
}
