package mesh

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base32"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// idLength is the length of a node ID in characters: 130 bits of SHA-256, beyond any collision search.
const idLength = 26

// keyFileLimit bounds what is read of a key file, in bytes; a P-256 key takes about 240.
const keyFileLimit = 16 << 10

const keyBlockType = "PRIVATE KEY"

// Identity is the key of a node. Whoever holds the key file is that node, so it must live in one data directory only.
// Make one with LoadOrCreateIdentity; the zero value is not usable. Safe for concurrent use.
type Identity struct {
	id   string
	key  crypto.Signer
	cert tls.Certificate
}

// LoadOrCreateIdentity reads the key at path, or makes a P-256 key there when no file exists; created tells which. The
// directory must exist, and the caller must hold the lock of the data directory: two processes creating at the same time
// would each believe in their own key. A file that others can read, that is damaged, or that holds another kind of key
// (only P-256 and Ed25519 are accepted) is refused, never replaced.
func LoadOrCreateIdentity(path string) (identity *Identity, created bool, err error) {
	key, err := readKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		created = true
		key, err = createKey(path)
	}
	if err != nil {
		return nil, false, err
	}
	identity, err = newIdentity(key)
	if err != nil {
		return nil, false, err
	}
	return identity, created, nil
}

// LoadIdentity is LoadOrCreateIdentity for a node that must have a key: a missing file is an error that wraps fs.ErrNotExist.
func LoadIdentity(path string) (*Identity, error) {
	key, err := readKey(path)
	if err != nil {
		return nil, err
	}
	return newIdentity(key)
}

// ErrDamagedKey marks a key file that holds no usable key.
var ErrDamagedKey = errors.New("identity key is damaged")

func newIdentity(key crypto.Signer) (*Identity, error) {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	i := &Identity{id: fingerprint(spki), key: key}
	if i.cert, err = i.CertificateFor(); err != nil {
		return nil, err
	}
	return i, nil
}

// ID returns the node ID: the first 26 characters of the lower-case base32 of the SHA-256 of the public key.
func (i *Identity) ID() string { return i.id }

// Certificate returns the self-signed certificate of the key, valid for localhost and for the node ID as a name. It is
// the same bytes after every restart, so a browser or script that trusted it once goes on trusting it.
func (i *Identity) Certificate() tls.Certificate { return i.cert }

// CertificateFor is like Certificate with more host names or IP addresses in it. The same names, in any order, give the
// same bytes.
func (i *Identity) CertificateFor(names ...string) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber:          serialOf(i.id),
		Subject:               pkix.Name{CommonName: i.id, Organization: []string{"cvlab"}},
		NotBefore:             time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), // a wrong clock must not lock a node out
		NotAfter:              time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	all := append([]string{i.id, "localhost", "127.0.0.1", "::1"}, names...)
	slices.Sort(all)
	for _, name := range slices.Compact(all) {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if name != "" {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, i.key.Public(), repeatableSigner{i.key})
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("sign certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("parse own certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: i.key, Leaf: leaf}, nil
}

// FingerprintID returns the node ID that belongs to the public key in cert. Nothing else in the certificate counts.
func FingerprintID(cert *x509.Certificate) string {
	return fingerprint(cert.RawSubjectPublicKeyInfo)
}

func fingerprint(spki []byte) string {
	sum := sha256.Sum256(spki)
	return lowerBase32(sum[:])[:idLength]
}

func lowerBase32(b []byte) string {
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b))
}

func serialOf(id string) *big.Int {
	sum := sha256.Sum256([]byte(id))
	return new(big.Int).SetBytes(sum[:15])
}

// repeatableSigner signs without randomness (RFC 6979 for ECDSA), so that a certificate is a function of key and names.
type repeatableSigner struct{ crypto.Signer }

func (s repeatableSigner) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.Signer.Sign(nil, digest, opts)
}

func readKey(path string) (crypto.Signer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open identity key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("look at identity key: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("identity key %s is not a regular file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("identity key %s has mode %04o and other users may have read it: run chmod 600 %s", path, mode, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, keyFileLimit))
	if err != nil {
		return nil, fmt.Errorf("read identity key: %w", err)
	}
	key, err := parseKey(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w; restore it from a backup, or join as a new node", ErrDamagedKey, path, err)
	}
	return key, nil
}

func parseKey(text []byte) (crypto.Signer, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != keyBlockType || strings.TrimSpace(string(rest)) != "" {
		return nil, errors.New("not one PEM block of type " + keyBlockType)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse PKCS#8: %w", err)
	}
	switch key := key.(type) {
	case ed25519.PrivateKey:
		return key, nil
	case *ecdsa.PrivateKey:
		if key.Curve == elliptic.P256() {
			return key, nil
		}
	}
	return nil, fmt.Errorf("a %T is neither Ed25519 nor ECDSA P-256", key)
}

// createKey makes a P-256 key rather than an Ed25519 one, because the same key serves HTTPS and browsers know no Ed25519.
func createKey(path string) (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make identity key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode identity key: %w", err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: keyBlockType, Bytes: der})
	if err := writeDurably(path, text); err != nil {
		return nil, fmt.Errorf("write identity key: %w", err)
	}
	return key, nil
}

// writeDurably leaves either the whole file at path or nothing, also after a power cut: a node that has told others its
// ID must never wake up with another key.
func writeDurably(path string, content []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".identity-*") // made with mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
