package mesh

import (
	"bytes"
	"encoding/hex"
	"io"
	"log/slog"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// A token, its verify key and a proof, computed by another program: tokens that were handed out must work after an upgrade.
const (
	knownToken     = "cvj1_aebagbaf_aaaqeayeaudaocajbifqydiob4_pgb66d"
	knownVerifyKey = "b6472693fa92fb15773765142279031f8579c00da44c89b917455cef48d85af1"
	knownProof     = "d452f815aeac33653a62f94e06873dfa22c3d1e056e22af9d369f410edf91c28" // by the joiner, exporter 32 times 7
)

func newToken(t testing.TB) JoinToken {
	t.Helper()
	token, err := NewJoinToken()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestJoinTokenSurvivesCopyAndPaste(t *testing.T) {
	token := newToken(t)
	if !regexp.MustCompile(`^cvj1_[a-z2-7]{8}_[a-z2-7]{26}_[a-z2-7]{6}$`).MatchString(token.String()) {
		t.Fatalf("text form is %q", token)
	}
	for _, text := range []string{token.String(), " \t" + token.String() + "\r\n", strings.ToUpper(token.String())} {
		got, err := ParseJoinToken(text)
		if err != nil || got != token {
			t.Errorf("parse %q: %v, %v", text, got, err)
		}
	}
	if newToken(t) == token {
		t.Error("two tokens are equal")
	}
}

func TestJoinTokenGolden(t *testing.T) {
	token, err := ParseJoinToken(knownToken)
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(token.VerifyKey()); got != knownVerifyKey {
		t.Errorf("verify key is %s, want %s", got, knownVerifyKey)
	}
	if got := hex.EncodeToString(Prove(token.VerifyKey(), bytes.Repeat([]byte{7}, 32), RoleJoiner)); got != knownProof {
		t.Errorf("proof is %s, want %s", got, knownProof)
	}
}

func TestEverySlipOfTheHandIsFound(t *testing.T) {
	text := newToken(t).String()
	for i := range text {
		for _, c := range []string{"a", "7", "_", "", "0", "é"} {
			slip := text[:i] + c + text[i+1:]
			if slip == text {
				continue
			}
			if got, err := ParseJoinToken(slip); err == nil {
				t.Fatalf("%q was read as %q", slip, got)
			}
		}
		if i > len("cvj1_") {
			if _, err := ParseJoinToken(text[:i]); err == nil || !strings.Contains(err.Error(), "is mistyped or cut off") {
				t.Fatalf("cut after %d characters: %v", i, err)
			}
		}
	}
}

func TestJoinTokenErrorsAreForPeople(t *testing.T) {
	for text, want := range map[string]string{
		"":                        "is empty",
		"cvu_abcdef":              "begins with cvj1_",
		"gpu1:8001":               "begins with cvj1_",
		"cvj1_a_b":                "is mistyped or cut off",
		strings.Repeat("x", 1000): "too long",
	} {
		if _, err := ParseJoinToken(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("parse %.20q: %v, want %q", text, err, want)
		}
	}
}

func TestLogsDoNotShowTheSecret(t *testing.T) {
	token := newToken(t)
	secret := strings.Split(token.String(), "_")[2]
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("made", "token", token)
	if strings.Contains(log.String(), secret) || !strings.Contains(log.String(), token.ID) {
		t.Errorf("the log says: %s", &log)
	}
	if bytes.Contains(token.VerifyKey(), token.secret[:]) {
		t.Error("the verify key contains the secret")
	}
}

func TestProof(t *testing.T) {
	key, exporter := newToken(t).VerifyKey(), bytes.Repeat([]byte{7}, 32)
	proof := Prove(key, exporter, RoleJoiner)
	flipped := bytes.Clone(proof)
	flipped[31] ^= 1
	otherChannel := bytes.Repeat([]byte{8}, 32)
	tests := []struct {
		name                 string
		key, exporter, proof []byte
		role                 string
		want                 bool
	}{
		{"honest", key, exporter, proof, RoleJoiner, true},
		{"sent back to its maker", key, exporter, proof, RoleCluster, false},
		{"on another channel", key, otherChannel, proof, RoleJoiner, false},
		{"other token", newToken(t).VerifyKey(), exporter, proof, RoleJoiner, false},
		{"one bit off", key, exporter, flipped, RoleJoiner, false},
		{"cut", key, exporter, proof[:16], RoleJoiner, false},
		{"empty", key, exporter, nil, RoleJoiner, false},
		{"forgotten key", nil, exporter, Prove(nil, exporter, RoleJoiner), RoleJoiner, false},
		{"forgotten exporter", key, nil, Prove(key, nil, RoleJoiner), RoleJoiner, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := CheckProof(tt.key, tt.exporter, tt.proof, tt.role); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// prove writes this side's proof for its own channel; check reads the other side's and judges it.
func prove(t *testing.T, c *Conn, verifyKey []byte, role string) {
	t.Helper()
	exporter, err := c.ExportKey("join")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(Prove(verifyKey, exporter, role)); err != nil {
		t.Fatal(err)
	}
}

func check(t *testing.T, c *Conn, verifyKey []byte, role string) bool {
	t.Helper()
	exporter, err := c.ExportKey("join")
	if err != nil {
		t.Fatal(err)
	}
	proof := make([]byte, 32)
	if _, err := io.ReadFull(c, proof); err != nil {
		t.Fatal(err)
	}
	return CheckProof(verifyKey, exporter, proof, role)
}

// relay copies between two connections until both have ended.
func relay(t *testing.T, left, right net.Conn) {
	t.Helper()
	var copying sync.WaitGroup
	copying.Go(func() { io.Copy(left, right); left.Close() })
	copying.Go(func() { io.Copy(right, left); right.Close() })
	t.Cleanup(func() {
		left.Close()
		right.Close()
		copying.Wait()
	})
}

// A machine in the middle that speaks the mesh with a key of its own sees both proofs and can use neither.
func TestManInTheMiddleOfAJoin(t *testing.T) {
	key := newToken(t).VerifyKey()
	joiner, middle, member := newNode(t), newNode(t, "join"), newNode(t, "join")
	for _, n := range []*node{joiner, middle} {
		n.roster.belong("", 0)
	}
	for _, n := range []*node{joiner, middle, member} {
		n.Open("join")
		n.run(t)
	}

	atJoiner, err := joiner.DialUnknown(t.Context(), middle.Addr().String(), "join")
	if err != nil {
		t.Fatal(err)
	}
	defer atJoiner.Close()
	onward, err := middle.DialUnknown(t.Context(), member.Addr().String(), "join")
	if err != nil {
		t.Fatal(err)
	}
	atMember := member.accept(t, "join")
	relay(t, middle.accept(t, "join"), onward)

	prove(t, atJoiner, key, RoleJoiner)
	prove(t, atMember, key, RoleCluster)
	if check(t, atMember, key, RoleJoiner) {
		t.Error("the member believes a proof that came through another channel")
	}
	if check(t, atJoiner, key, RoleCluster) {
		t.Error("the joiner believes a proof that came through another channel")
	}
}

// A relay of bytes below TLS is only a longer cable: the proofs hold, and the relay learns nothing.
func TestJoinThroughAByteRelay(t *testing.T) {
	key := newToken(t).VerifyKey()
	joiner, member := newNode(t), newNode(t, "join")
	joiner.roster.belong("", 0)
	member.Open("join")
	joiner.run(t)
	member.run(t)
	cable, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer cable.Close()
	var laying sync.WaitGroup
	laying.Go(func() {
		near, err := cable.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", member.Addr().String())
		if err != nil {
			near.Close()
			return
		}
		relay(t, near, far)
	})

	atJoiner, err := joiner.DialUnknown(t.Context(), cable.Addr().String(), "join")
	laying.Wait()
	if err != nil {
		t.Fatal(err)
	}
	defer atJoiner.Close()
	atMember := member.accept(t, "join")
	prove(t, atJoiner, key, RoleJoiner)
	prove(t, atMember, key, RoleCluster)
	if !check(t, atMember, key, RoleJoiner) || !check(t, atJoiner, key, RoleCluster) {
		t.Error("an honest join failed")
	}
}

func FuzzParseJoinToken(f *testing.F) {
	f.Add(knownToken)
	f.Add("cvj1___")
	f.Add("cvj1_" + strings.Repeat("_", 200))
	f.Add(" CVJ1_AEBAGBAF")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseJoinToken(text)
		if err != nil {
			return
		}
		if again, err := ParseJoinToken(token.String()); err != nil || again != token {
			t.Fatalf("%q was read as %q, which is read as %q, %v", text, token, again, err)
		}
		if !strings.EqualFold(strings.TrimSpace(text), token.String()) {
			t.Fatalf("%q was read as %q", text, token)
		}
	})
}
