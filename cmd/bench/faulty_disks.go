package main

// diskKind is where the nodes of a cluster keep their data.
type diskKind string

const (
	plainDisks  diskKind = ""      // in a directory
	faultyDisks diskKind = "fuse"  // on a file system of this program, which can hang, slow down and fail
	smallDisks  diskKind = "small" // each on a memory disk of 64 MiB
)

// disks are the disks of one cluster's nodes; nil are plain ones.
type disks struct{ kind diskKind }

func newDisks(k diskKind) *disks { return nil }

// attach puts a disk under an empty directory.
func (d *disks) attach(dir string) error { return nil }

// detach takes all disks away.
func (d *disks) detach() error { return nil }
