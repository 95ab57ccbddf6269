package node

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os/user"
	"path/filepath"
	"regexp"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

// credentials keep the token by which programs of this machine's own account reach their node: whoever can read DATA is
// trusted, nobody else. The token is made before the node is in any cluster and is granted by a command afterwards.
type credentials struct {
	seat proposer
	own  fsm.Access
}

// proposer is the seat as credentials needs it.
type proposer interface {
	ID() string
	State() *fsm.State
	Propose(ctx context.Context, e fsm.Entry) (fsm.Result, error)
}

// loadToken reads DATA/token or makes it.
func loadToken(dataDir string, logger *slog.Logger) (string, error) {
	token, err := ReadToken(dataDir)
	if err == nil && wholeToken.MatchString(token) {
		return token, nil
	}
	if err == nil && token != "" {
		// Nobody could sign in with it, and it is worth nothing but to the programs of this machine.
		logger.Warn("the token of this machine's own programs is damaged; it is made anew", "path", filepath.Join(dataDir, "token"))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	token = "cvu_" + rand.Text() + rand.Text()
	return token, writeFile(filepath.Join(dataDir, "token"), []byte(token+"\n"), 0o600)
}

// wholeToken is the form of what loadToken makes.
var wholeToken = regexp.MustCompile(`^cvu_[A-Z2-7]{52}$`)

// Run grants the token, and grants it again should somebody revoke it; to lock this machine out, remove the node.
func (c *credentials) Run(ctx context.Context) error {
	for {
		changed := c.seat.State().Changed()
		if err := c.grant(ctx); err != nil {
			changed = nil
		}
		timer := time.NewTimer(time.Second)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-changed:
			// A busy queue changes all the time, and one look a second is enough for tokens.
			select {
			case <-ctx.Done():
			case <-timer.C:
			}
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (c *credentials) grant(ctx context.Context) error {
	v := c.seat.State().View()
	if n := v.Node(c.seat.ID()); n == nil || n.Removed {
		return errors.New("not a member")
	}
	old := v.AccessByID(c.own.ID)
	if old != nil && string(old.Secret) == string(c.own.Secret) {
		return nil
	}
	if old != nil {
		if _, err := c.seat.Propose(ctx, c.entry(&fsm.Revoke{ID: c.own.ID})); err != nil {
			return fmt.Errorf("replace the token of this machine's programs: %w", err)
		}
	}
	r, err := c.seat.Propose(ctx, c.entry(&fsm.Grant{Access: c.own}))
	if err == nil && r.Refused() {
		err = errors.New(r.Message)
	}
	if err != nil {
		return fmt.Errorf("grant the token of this machine's programs: %w", err)
	}
	return nil
}

// ownAccess is what the facts hold of the token of a node's own machine.
func ownAccess(nodeID, token string) fsm.Access {
	secret := sha256.Sum256([]byte(token))
	return fsm.Access{ID: "node-" + nodeID[:12], Kind: fsm.AccessUser, User: account(), Role: fsm.Admin, Secret: secret[:]}
}

func (c *credentials) entry(command fsm.Command) fsm.Entry {
	return fsm.Entry{By: c.seat.ID(), At: time.Now().UTC(), Command: command}
}

// account is the name under which this machine's own programs act.
func account() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return "admin"
}
