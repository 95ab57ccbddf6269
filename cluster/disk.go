package cluster

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// DiskState says in one word whether a node's data directory has room.
type DiskState string

// What a DiskState may be; empty where nothing is known.
const (
	DiskOK   DiskState = "ok"
	DiskLow  DiskState = "low"  // less free than the floor: no new experiments are taken
	DiskFull DiskState = "full" // the node lives on its reserve, or on what is left of it
)

// short says whether the node has no room for new experiments. A node that says nothing of its disk has.
func (d DiskState) short() bool { return d == DiskLow || d == DiskFull }

// DiskLimits say how much of the data directory's file system a node keeps for itself. Zero means the default.
type DiskLimits struct {
	// Reserve is the size in bytes of the file that is given up when the disk is full: 128 MiB, at most 1/8 of the file system;
	// 8 MiB on tmpfs, where it costs memory and nothing outlives the machine anyway.
	Reserve int64
	// Floor is the free space in bytes below which the disk is low: 2 % of the file system, at least 256 MiB (or 1/8 of a
	// small file system), at most 16 GiB: what the node itself needs does not grow with the disk.
	Floor int64
}

const (
	reserveSize, reserveInMemory = 128 << 20, 8 << 20
	leastFloor, mostFloor        = 256 << 20, 16 << 30
	// fewInodes is how many files must be possible still; each attempt needs some.
	fewInodes = 64
)

func (l DiskLimits) withDefaults(u usage) DiskLimits {
	if l.Reserve == 0 {
		l.Reserve = min(reserveSize, u.total/8)
		if u.inMemory {
			l.Reserve = min(reserveInMemory, l.Reserve)
		}
	}
	if l.Floor == 0 {
		l.Floor = min(max(u.total/50, leastFloor), mostFloor, u.total/8)
	}
	return l
}

// nothing is so little free space that the next write may not find any.
func (l DiskLimits) nothing() int64 { return min(l.Reserve/8, l.Floor/2, 16<<20) }

// usage is what a file system says of itself, in bytes.
type usage struct {
	total, free int64 // free for ordinary users
	noFiles     bool  // (almost) no further file can be made
	inMemory    bool
}

func measure(dir string) (usage, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return usage{}, fmt.Errorf("measure the disk of %s: %w", dir, err)
	}
	block := int64(st.Bsize)
	// Files is 0 where files are not counted.
	return usage{total: int64(st.Blocks) * block, free: int64(st.Bavail) * block, noFiles: st.Files > 0 && st.Ffree < fewInodes,
		inMemory: st.Type == unix.TMPFS_MAGIC}, nil
}

// judge gives the state of a disk. It becomes ok again only a quarter above the floor, so that it does not flutter there.
func (l DiskLimits) judge(u usage, held bool, was DiskState) DiskState {
	floor := l.Floor
	if was.short() {
		floor += floor / 4
	}
	switch {
	case !held:
		return DiskFull
	case u.free < floor || u.noFiles:
		return DiskLow
	}
	return DiskOK
}
