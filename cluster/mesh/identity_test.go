package mesh

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func load(t *testing.T, path string) (*Identity, bool) {
	t.Helper()
	identity, created, err := LoadOrCreateIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	return identity, created
}

func TestIdentityIsMadeOnceAndKept(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "identity.pem")
	first, created := load(t, path)
	if !created {
		t.Error("the first start did not create")
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("key file has mode %o", info.Mode().Perm())
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("the directory holds %v", entries)
	}
	if !regexp.MustCompile(`^[a-z2-7]{26}$`).MatchString(first.ID()) {
		t.Errorf("ID is %q", first.ID())
	}

	second, created := load(t, path)
	if created || second.ID() != first.ID() {
		t.Errorf("second start: created %v, ID %s, was %s", created, second.ID(), first.ID())
	}
	if string(second.Certificate().Certificate[0]) != string(first.Certificate().Certificate[0]) {
		t.Error("a restart changed the certificate, browsers would warn again")
	}
	other, _ := load(t, filepath.Join(t.TempDir(), "identity.pem"))
	if other.ID() == first.ID() {
		t.Error("two machines have one ID")
	}
}

// The way from key to ID is on every disk and in every log entry: it can never change.
func TestIdentityGolden(t *testing.T) {
	identity, err := newIdentity(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	if want := "gopc76ixmmcqpnveeo244ccofb"; identity.ID() != want {
		t.Errorf("got %s, want %s", identity.ID(), want)
	}
	if got := FingerprintID(identity.Certificate().Leaf); got != identity.ID() {
		t.Errorf("fingerprint of the certificate is %s", got)
	}
}

func TestKeyFileOthersCanReadIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity.pem")
	load(t, path)
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660, 0o644} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, _, err := LoadOrCreateIdentity(path)
		if err == nil || !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	if err := os.Chmod(path, 0o400); err != nil {
		t.Fatal(err)
	}
	load(t, path)
}

func pemKey(t *testing.T, key crypto.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyBlockType, Bytes: der})
}

func TestKeyKinds(t *testing.T) {
	_, edKey, edErr := ed25519.GenerateKey(rand.Reader)
	p256, p256Err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, p384Err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	rsaKey, rsaErr := rsa.GenerateKey(rand.Reader, 2048)
	if err := errors.Join(edErr, p256Err, p384Err, rsaErr); err != nil {
		t.Fatal(err)
	}
	good := pemKey(t, p256)
	tests := []struct {
		name string
		file []byte
		ok   bool
	}{
		{"P-256", good, true},
		{"Ed25519", pemKey(t, edKey), true},
		{"P-384", pemKey(t, p384), false},
		{"RSA", pemKey(t, rsaKey), false},
		{"empty", nil, false},
		{"cut off", good[:len(good)/2], false},
		{"two keys", append(append([]byte{}, good...), good...), false},
		{"not PEM", []byte("secret"), false},
		{"other PEM", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "identity.pem")
			if err := os.WriteFile(path, tt.file, 0o600); err != nil {
				t.Fatal(err)
			}
			_, created, err := LoadOrCreateIdentity(path)
			if (err == nil) != tt.ok || created {
				t.Fatalf("created %v, %v", created, err)
			}
			if err != nil && !strings.Contains(err.Error(), "join as a new node") {
				t.Errorf("the error does not say what to do: %v", err)
			}
			if left, _ := os.ReadFile(path); string(left) != string(tt.file) {
				t.Error("the file was changed")
			}
		})
	}
}

func TestIdentityNeedsADirectoryAndAFile(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := LoadOrCreateIdentity(filepath.Join(dir, "missing", "identity.pem")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
	if _, _, err := LoadOrCreateIdentity(dir); err == nil {
		t.Error("a directory was taken for a key")
	}
}

func TestCertificateServesHTTPSNames(t *testing.T) {
	identity, _ := load(t, filepath.Join(t.TempDir(), "identity.pem"))
	cert, err := identity.CertificateFor("gpu1", "192.0.2.7", "gpu1.lab.example", "")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert.Leaf)
	for _, name := range []string{"gpu1", "gpu1.lab.example", "192.0.2.7", "localhost", "127.0.0.1", "::1", identity.ID()} {
		for _, year := range []int{2001, 2026, 2400} {
			at := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)
			if _, err := cert.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, CurrentTime: at}); err != nil {
				t.Errorf("%s in %d: %v", name, year, err)
			}
		}
	}
	again, err := identity.CertificateFor("gpu1.lab.example", "gpu1", "192.0.2.7", "gpu1")
	if err != nil || string(again.Certificate[0]) != string(cert.Certificate[0]) {
		t.Errorf("the order of names changed the certificate (%v)", err)
	}
}
