package cluster

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// ErrDamaged marks files in the data directory that this program cannot go on from; see DamageError.
var ErrDamaged = errors.New("this node's knowledge of its cluster is damaged")

// DamageError says which file is damaged, how, and what a person can do. It is an ErrDamaged.
type DamageError struct {
	// File is the damaged file, Part the place in it.
	File, Part string
	// Err is what is wrong there.
	Err error
	// Members says how many other members the node knows of; negative when it does not know.
	Members int
	// Peer is the mesh address of one of them.
	Peer string
}

// damage is a DamageError of a file before anybody has looked who the others are.
func damage(file, part string, err error) error {
	return &DamageError{File: file, Part: part, Err: err, Members: -1}
}

// Unwrap gives ErrDamaged and the cause.
func (e *DamageError) Unwrap() []error { return []error{ErrDamaged, e.Err} }

// Error gives one paragraph: what is damaged, what it means for what runs here, and the commands that lead out.
func (e *DamageError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s is damaged (", e.File)
	if e.Part != "" {
		fmt.Fprintf(&b, "%s: ", e.Part)
	}
	fmt.Fprintf(&b, "%v), so this node must not take part under its old identity: it could forget what it has promised to the others. "+
		"Experiments that run here go on. ", e.Err)
	join := fmt.Sprintf("make a token on another member with: cvlab token create --join, and here run: cvlab join %s --as-new", e.peer())
	alone := "to see what can be saved, run here: cvlab recover"
	switch {
	case e.Members > 0:
		fmt.Fprintf(&b, "To come back as a new node, %s (it stops what runs here, after asking, and keeps the damaged files). "+
			"If the other members are lost for good, %s.", join, alone)
	case e.Members == 0:
		fmt.Fprintf(&b, "This node is the only member of its cluster; %s.", alone)
	default:
		fmt.Fprintf(&b, "If it has other members, %s. If it was alone, %s.", join, alone)
	}
	return b.String()
}

func (e *DamageError) peer() string {
	if e.Peer == "" {
		return "PEER"
	}
	return e.Peer
}

// advised adds to a DamageError what is known of the other members.
func advised(err error, f clusterFile, self string) error {
	d, ok := errors.AsType[*DamageError](err)
	if !ok || f.Phase == "" {
		return err
	}
	others := without(f.Peers, self)
	d.Members = len(others)
	if len(others) > 0 {
		d.Peer = others[0].Mesh
	}
	return err
}

// checkOwner says whether cluster.json and the key belong together. A key with a flipped bit is somebody else's key, and a
// raft directory without cluster.json must not become part of a new cluster.
func (s *Seat) checkOwner() error {
	f := s.file.get()
	if f.Phase == "" {
		if have, err := hasLog(s.raftDir()); err != nil || have {
			return errors.Join(err, damage(s.file.path, "", errors.New("it is gone, and there is a log")))
		}
		return nil
	}
	if f.Node != "" && f.Node != s.id {
		return advised(damage(filepath.Join(s.o.Dir, "identity.key"), "",
			fmt.Errorf("its key is that of node %s, and %s is of node %s", s.id, s.file.path, f.Node)), f, f.Node)
	}
	return nil
}

// fellDamaged ends the seat because something damaged was read while it runs.
func (s *Seat) fellDamaged(err error) { s.replica.fail(advised(err, s.file.get(), s.id)) }

// Owner gives the node that a data directory belongs to, by its cluster.json; empty if that does not say.
func Owner(dataDir string) string {
	f, err := openFile(dataDir)
	if err != nil {
		return ""
	}
	return f.get().Node
}

// Founded says whether a data directory is part of a cluster, whole or not.
func Founded(dataDir string) (bool, error) {
	for _, name := range []string{"cluster.json", "raft", recoveredDir} {
		if there, err := exists(filepath.Join(dataDir, name)); err != nil || there {
			return there, err
		}
	}
	return false, nil
}

// Damaged is a DamageError about a file of a data directory, with advice that fits what is known of the cluster.
func Damaged(dataDir, file string, err error) error {
	d := damage(filepath.Join(dataDir, file), "", err)
	f, ferr := openFile(dataDir)
	if ferr != nil {
		return d
	}
	return advised(d, f.get(), f.get().Node)
}

// KeepDamaged moves files of a data directory to where damaged ones are kept, and gives that directory.
func KeepDamaged(dataDir string, now time.Time, names ...string) (string, error) {
	kept := damagedDir(dataDir, now)
	for _, name := range names {
		if err := keep(dataDir, kept, name); err != nil {
			return kept, fmt.Errorf("set %s aside: %w", name, err)
		}
	}
	return kept, nil
}
