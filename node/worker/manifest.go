package worker

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/deveronica/cvlab/fsm"
)

// Manifest lists what a checkpoint consists of. It holds nothing else, so that the same files give the same digest.
type Manifest struct {
	Version    int    `json:"version"`
	Experiment uint64 `json:"experiment"`
	Attempt    int    `json:"attempt"`
	// Path is the file or directory below the run directory, with slashes.
	Path string `json:"path"`
	// Files are sorted by path.
	Files []ManifestFile `json:"files"`
}

// ManifestFile is one file of a checkpoint.
type ManifestFile struct {
	Path   string `json:"path"` // below the run directory
	Size   uint64 `json:"size"`
	SHA256 string `json:"sha256"` // hex
}

// Limits of a checkpoint.
const (
	// MaxCheckpointFiles is far above what a sharded checkpoint of a large model has (a few thousand); its manifest is some MB.
	MaxCheckpointFiles = 20_000
	// MaxManifest is the size of a manifest in bytes.
	MaxManifest = 16 << 20

	manifestVersion = 1
)

// ErrDamaged is wrapped by errors about a checkpoint that is not what was published, or not there any more.
var ErrDamaged = errors.New("the checkpoint is not what was published")

// Size is the sum over all files in bytes.
func (m Manifest) Size() uint64 {
	var n uint64
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}

// Encode gives the bytes of a manifest and the digest that is published.
func (m Manifest) Encode() (data []byte, digest string, err error) {
	m.Version = manifestVersion
	if err := m.validate(); err != nil {
		return nil, "", fmt.Errorf("encode the manifest: %w", err)
	}
	if data, err = json.Marshal(m); err != nil {
		return nil, "", fmt.Errorf("encode the manifest: %w", err)
	}
	if len(data) > MaxManifest {
		return nil, "", fmt.Errorf("encode the manifest: %d bytes, the limit is %d", len(data), MaxManifest)
	}
	sum := sha256.Sum256(data)
	return data, hex.EncodeToString(sum[:]), nil
}

// DecodeManifest reads the manifest of a published checkpoint and holds it against what was published. Errors wrap ErrDamaged.
func DecodeManifest(data []byte, k fsm.Checkpoint) (Manifest, error) {
	var m Manifest
	sum := sha256.Sum256(data)
	if hex.EncodeToString(sum[:]) != k.Digest {
		return m, fmt.Errorf("read the manifest: %w: its digest is another one", ErrDamaged)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return m, fmt.Errorf("read the manifest: %w: %w", ErrDamaged, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return m, fmt.Errorf("read the manifest: %w: something follows it", ErrDamaged)
	}
	if err := m.validate(); err != nil {
		return m, fmt.Errorf("read the manifest: %w: %w", ErrDamaged, err)
	}
	if m.Path != k.Path || m.Experiment != k.Experiment || m.Attempt != k.Attempt || len(m.Files) != k.Files || m.Size() != k.Size {
		return m, fmt.Errorf("read the manifest: %w: it is of another checkpoint", ErrDamaged)
	}
	return m, nil
}

func (m Manifest) validate() error {
	switch {
	case m.Version != manifestVersion:
		return fmt.Errorf("version %d, this program speaks %d", m.Version, manifestVersion)
	case !validCheckpointPath(m.Path):
		return fmt.Errorf("%q is no path below the run directory", m.Path)
	case len(m.Files) == 0 || len(m.Files) > MaxCheckpointFiles:
		return fmt.Errorf("%d files, want 1 to %d", len(m.Files), MaxCheckpointFiles)
	}
	total := uint64(0)
	for i, f := range m.Files {
		sum, err := hex.DecodeString(f.SHA256)
		switch {
		case err != nil || len(sum) != sha256.Size:
			return fmt.Errorf("%q has no SHA-256", f.Path)
		case !validPath(f.Path) || f.Path != m.Path && !strings.HasPrefix(f.Path, m.Path+"/"):
			return fmt.Errorf("%q is not below %q", f.Path, m.Path)
		case i > 0 && m.Files[i-1].Path >= f.Path:
			return fmt.Errorf("%q is not in its place", f.Path)
		case total+f.Size < total:
			return errors.New("its sizes are more than there can be")
		}
		total += f.Size
	}
	return nil
}

// file gives one file's entry.
func (m Manifest) file(path string) (ManifestFile, bool) {
	i, found := slices.BinarySearchFunc(m.Files, path, func(f ManifestFile, path string) int { return strings.Compare(f.Path, path) })
	if !found {
		return ManifestFile{}, false
	}
	return m.Files[i], true
}

func validCheckpointPath(path string) bool {
	return validPath(path) && len(path) <= fsm.MaxCheckpointPath
}

// validPath says whether a path names something below a directory, in the one way it can be written.
func validPath(path string) bool {
	return fs.ValidPath(path) && path != "." && !strings.ContainsRune(path, 0) && !strings.ContainsRune(path, '\ufffd')
}
