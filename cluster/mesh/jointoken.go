package mesh

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"log/slog"
	"strings"
)

const (
	tokenPrefix       = "cvj1"
	tokenIDBytes      = 5  // 8 characters
	tokenSecretBytes  = 16 // 26 characters
	tokenCheckLength  = 6  // 30 bits: a slip of the hand passes once in 10^9
	tokenTextLimit    = 256
	minExporterLength = 32
)

// Roles of the two ends of a join. They keep a proof from being sent back to the one who made it.
const (
	RoleJoiner  = "joiner"
	RoleCluster = "cluster"
)

// JoinToken admits a new machine. Its text form is cvj1_<id>_<secret>_<check>. The ID is public and names the record in
// the replicated state; the secret is known only to the person who made the token and to the machine that uses it, and
// is never sent and never stored: see VerifyKey and Prove.
type JoinToken struct {
	// ID names the token in lists, logs and the replicated state; it is not secret.
	ID     string
	secret [tokenSecretBytes]byte
}

// NewJoinToken makes a token with a random ID and a random secret of 128 bits.
func NewJoinToken() (JoinToken, error) {
	var id [tokenIDBytes]byte
	var t JoinToken
	if _, err := rand.Read(id[:]); err != nil {
		return JoinToken{}, err
	}
	if _, err := rand.Read(t.secret[:]); err != nil {
		return JoinToken{}, err
	}
	t.ID = lowerBase32(id[:])
	return t, nil
}

// ParseJoinToken reads the text form. Space around it and upper case are forgiven; every error is a sentence for the
// person who pasted it and never repeats the text.
func ParseJoinToken(s string) (JoinToken, error) {
	if len(s) > tokenTextLimit {
		return JoinToken{}, errors.New("that is too long for a join token: paste the token alone")
	}
	text := strings.ToLower(strings.TrimSpace(s))
	if text == "" {
		return JoinToken{}, errors.New("the join token is empty: make one with `cvlab token create --join` on a machine of the cluster")
	}
	prefix, rest, _ := strings.Cut(text, "_")
	if prefix != tokenPrefix {
		return JoinToken{}, errors.New("that is not a join token: a join token begins with " + tokenPrefix + "_")
	}
	damaged := errors.New("the join token is mistyped or cut off: copy it again")
	parts := strings.Split(rest, "_")
	if len(parts) != 3 {
		return JoinToken{}, damaged
	}
	id, idErr := decodeBase32(parts[0], tokenIDBytes)
	secret, secretErr := decodeBase32(parts[1], tokenSecretBytes)
	if errors.Join(idErr, secretErr) != nil {
		return JoinToken{}, damaged
	}
	t := JoinToken{ID: lowerBase32(id), secret: [tokenSecretBytes]byte(secret)}
	if subtle.ConstantTimeCompare([]byte(t.String()), []byte(text)) != 1 {
		return JoinToken{}, damaged
	}
	return t, nil
}

func decodeBase32(s string, size int) ([]byte, error) {
	b, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(strings.ToUpper(s))
	if err == nil && len(b) != size {
		err = errors.New("wrong length")
	}
	return b, err
}

// String returns the text form, secret included. Print it once, to the person who asked for it.
func (t JoinToken) String() string {
	body := tokenPrefix + "_" + t.ID + "_" + lowerBase32(t.secret[:])
	sum := sha256.Sum256([]byte(body))
	return body + "_" + lowerBase32(sum[:])[:tokenCheckLength]
}

// LogValue hides the secret from logs.
func (t JoinToken) LogValue() slog.Value {
	return slog.StringValue(tokenPrefix + "_" + t.ID + "_***")
}

// VerifyKey returns the 32 bytes that the cluster stores to check proofs. The secret cannot be computed from them, but
// they are enough to answer a joiner in the cluster's name, and to join: they belong to members only.
func (t JoinToken) VerifyKey() []byte {
	return mac(t.secret[:], []byte("cvlab join token "+t.ID))
}

// Prove returns the proof of knowing verifyKey on the one TLS channel that exporter (Conn.ExportKey) comes from. Over a
// relay the two ends have different exporters, so a proof carried from one to the other is worthless.
func Prove(verifyKey, exporter []byte, role string) []byte {
	return mac(verifyKey, append([]byte(role+"\x00"), exporter...))
}

// CheckProof reports, in constant time, whether proof was made by Prove with the same arguments. It refuses an empty key
// and an exporter under 32 bytes, so that a forgotten argument cannot become an open door.
func CheckProof(verifyKey, exporter, proof []byte, role string) bool {
	if len(verifyKey) == 0 || len(exporter) < minExporterLength {
		return false
	}
	return hmac.Equal(proof, Prove(verifyKey, exporter, role))
}

func mac(key, message []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(message)
	return h.Sum(nil)
}
