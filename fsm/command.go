package fsm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Command is one change of the facts. Its Kind is its name in the log and never changes once released.
type Command interface {
	Kind() string
	// apply changes the transaction and answers. It writes nothing when it refuses.
	apply(t *tx) Result
}

// Entry is a command with what its proposer adds: who asked, when, and under which key.
type Entry struct {
	// By is the user or node that asked.
	By string
	// At is the proposer's wall clock in UTC. The state machine's own time never runs backwards: an older At counts as
	// the newest one seen.
	At time.Time
	// Key makes a repeat harmless: a second entry of the same user with the same key changes nothing and answers what
	// the first one answered. Empty means no such promise.
	Key     string
	Command Command
}

// Limits of one entry.
const (
	// MaxEntry is the size of an encoded entry in bytes. A config may have 1 MiB; the rest is room for its axes and JSON.
	// Raft sends an entry in one frame, so a larger one would hold up heartbeats behind it.
	MaxEntry = 4 << 20
	// MaxKey is the length of an idempotency key in bytes.
	MaxKey = 256
)

// ErrUnknownCommand marks an entry this program does not understand. A node that meets it must stop: to skip it would
// make its facts differ from everybody else's.
var ErrUnknownCommand = errors.New("entry is not understood by this version of cvlab; upgrade it and start it again")

type envelope struct {
	Kind string          `json:"kind"`
	By   string          `json:"by,omitempty"`
	At   time.Time       `json:"at"`
	Key  string          `json:"key,omitempty"`
	Body json.RawMessage `json:"body"`
}

// commands is the one place that gives kinds their meaning.
func newCommand(kind string) Command {
	switch kind {
	case "found":
		return new(Found)
	case "submit":
		return new(Submit)
	case "assign":
		return new(Assign)
	case "withdraw":
		return new(Withdraw)
	case "start":
		return new(Start)
	case "publish":
		return new(Publish)
	case "finish":
		return new(Finish)
	case "cancel":
		return new(Cancel)
	case "hold":
		return new(Hold)
	case "release":
		return new(Release)
	case "retry":
		return new(Retry)
	case "annotate":
		return new(Annotate)
	case "admit":
		return new(Admit)
	case "update":
		return new(Update)
	case "drain":
		return new(Drain)
	case "remove":
		return new(Remove)
	case "grant":
		return new(Grant)
	case "revoke":
		return new(Revoke)
	case "reign":
		return new(Reign)
	case "expire":
		return new(Expire)
	case "epoch":
		return new(NewEpoch)
	case "adopt":
		return new(Adopt)
	}
	return nil
}

// Encode writes an entry for the log: one JSON object, readable as it stands.
func Encode(e Entry) ([]byte, error) {
	body, err := json.Marshal(e.Command)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", e.Command.Kind(), err)
	}
	data, err := json.Marshal(envelope{Kind: e.Command.Kind(), By: e.By, At: e.At.UTC(), Key: e.Key, Body: body})
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", e.Command.Kind(), err)
	}
	if len(e.Key) > MaxKey {
		return nil, fmt.Errorf("encode %s: key has %d bytes, the limit is %d", e.Command.Kind(), len(e.Key), MaxKey)
	}
	if len(data) > MaxEntry {
		return nil, fmt.Errorf("encode %s: %d bytes, the limit is %d", e.Command.Kind(), len(data), MaxEntry)
	}
	return data, nil
}

// Decode reads an entry strictly. Every failure wraps ErrUnknownCommand.
func Decode(data []byte) (Entry, error) {
	var env envelope
	if err := decodeStrict(data, &env); err != nil {
		return Entry{}, fmt.Errorf("%w (envelope: %w)", ErrUnknownCommand, err)
	}
	c := newCommand(env.Kind)
	if c == nil {
		return Entry{}, fmt.Errorf("%w (kind %q)", ErrUnknownCommand, env.Kind)
	}
	if err := decodeStrict(env.Body, c); err != nil {
		return Entry{}, fmt.Errorf("%w (body of %q: %w)", ErrUnknownCommand, env.Kind, err)
	}
	return Entry{By: env.By, At: env.At, Key: env.Key, Command: c}, nil
}

func decodeStrict(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	// Not More: it takes a closing bracket for the end of an array it is not in.
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON value")
	}
	return nil
}
