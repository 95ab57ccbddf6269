package fsm

import (
	"fmt"
	"strconv"
	"strings"
)

// Token names one attempt for ever: the cluster's epoch and the log index of the Assign that made it. Tokens only grow,
// so a later attempt of an experiment always has the greater one; only the current one may start, publish or finish.
type Token struct {
	Epoch uint64
	Index uint64
}

// IsZero says whether the token names no attempt.
func (t Token) IsZero() bool { return t == Token{} }

// Less orders tokens by epoch, then by index.
func (t Token) Less(o Token) bool {
	return t.Epoch < o.Epoch || t.Epoch == o.Epoch && t.Index < o.Index
}

// String gives the text form EPOCH-INDEX, such as "1-42"; it is also the name of the attempt's directory.
func (t Token) String() string {
	return strconv.FormatUint(t.Epoch, 10) + "-" + strconv.FormatUint(t.Index, 10)
}

// MarshalText gives the text form, and "" for no token.
func (t Token) MarshalText() ([]byte, error) {
	if t.IsZero() {
		return nil, nil
	}
	return []byte(t.String()), nil
}

// UnmarshalText reads what MarshalText writes.
func (t *Token) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*t = Token{}
		return nil
	}
	parsed, err := ParseToken(string(text))
	if err != nil {
		return err
	}
	*t = parsed
	return nil
}

// ParseToken reads the text form EPOCH-INDEX; both numbers are decimal without sign or leading zeros.
func ParseToken(s string) (Token, error) {
	epoch, index, ok := strings.Cut(s, "-")
	if !ok {
		return Token{}, fmt.Errorf("parse token %q: want EPOCH-INDEX", s)
	}
	e, err := strconv.ParseUint(epoch, 10, 64)
	if err != nil {
		return Token{}, fmt.Errorf("parse token %q: epoch: %w", s, err)
	}
	i, err := strconv.ParseUint(index, 10, 64)
	if err != nil {
		return Token{}, fmt.Errorf("parse token %q: index: %w", s, err)
	}
	t := Token{Epoch: e, Index: i}
	if t.String() != s {
		return Token{}, fmt.Errorf("parse token %q: not in its shortest form %q", s, t)
	}
	return t, nil
}
