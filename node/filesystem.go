package node

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// checkFilesystem refuses a data directory where locks, durable writes or mapped files cannot be relied on: two nodes could
// use one directory, and what was acknowledged could be lost.
func (n *Node) checkFilesystem(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look at the file system of %s: %w", dir, err)
	}
	return n.takeFilesystem(dir, int64(st.Type))
}

func (n *Node) takeFilesystem(dir string, magic int64) error {
	kind, fault := judgeFilesystem(magic)
	switch {
	case kind == "":
	case fault != "" && !n.o.AnyFilesystem:
		return fmt.Errorf("data directory %s is on %s: %s; choose a directory on a local disk with --data (or insist with --any-filesystem)", dir, kind, fault)
	case fault != "":
		n.o.Logger.Warn("the data directory is on a file system that cannot be relied on", "dir", dir, "kind", kind, "why", fault)
	default:
		n.o.Logger.Warn("the data directory is in memory: after a restart of this machine it must join again", "dir", dir, "kind", kind)
	}
	return nil
}

// Types that golang.org/x/sys/unix does not name (statfs(2), linux/magic.h).
const (
	cifsMagic, smb2Magic     = 0xff534d42, 0xfe534d42
	lustreMagic, gpfsMagic   = 0x0bd00bd0, 0x47504653
	ceph, glusterOnFUSE, bee = 0x00c36400, unix.FUSE_SUPER_MAGIC, 0x19830326
)

// judgeFilesystem names a file system that deserves a word, and what is wrong with it when it is no place for a node.
func judgeFilesystem(magic int64) (kind, fault string) {
	const shared = "locks and durable writes over the network cannot be relied on, and the node would stop with the file server"
	switch uint32(magic) { // some architectures sign-extend it
	case unix.NFS_SUPER_MAGIC:
		return "NFS", shared
	case cifsMagic, smb2Magic, unix.SMB_SUPER_MAGIC:
		return "CIFS (SMB)", shared
	case lustreMagic, gpfsMagic, bee:
		return "a cluster file system", shared
	case ceph:
		return "CephFS", shared
	case unix.V9FS_MAGIC:
		return "9P", shared
	case unix.AFS_SUPER_MAGIC:
		return "AFS", shared
	case glusterOnFUSE:
		return "FUSE", "what keeps the files is a process that may die or lie about durable writes"
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		return "tmpfs", ""
	}
	return "", ""
}
