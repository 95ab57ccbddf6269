package node

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFileSystemsThatAreRefused(t *testing.T) {
	for magic, want := range map[int64]string{
		unix.NFS_SUPER_MAGIC: "NFS", cifsMagic: "CIFS", smb2Magic: "CIFS", unix.FUSE_SUPER_MAGIC: "FUSE", unix.V9FS_MAGIC: "9P",
		ceph: "CephFS", int64(int32(-0x00acb2be)): "CIFS", // as a machine with 32-bit types gives 0xff534d42
	} {
		kind, fault := judgeFilesystem(magic)
		if !strings.Contains(kind, want) || fault == "" {
			t.Errorf("%#x is %q, %q, want %s and why not", magic, kind, fault, want)
		}
	}
	for magic, want := range map[int64]string{unix.EXT4_SUPER_MAGIC: "", unix.XFS_SUPER_MAGIC: "", unix.BTRFS_SUPER_MAGIC: "", unix.OVERLAYFS_SUPER_MAGIC: "", unix.TMPFS_MAGIC: "tmpfs"} {
		if kind, fault := judgeFilesystem(magic); kind != want || fault != "" {
			t.Errorf("%#x is %q, refused: %q", magic, kind, fault)
		}
	}
}

func TestARefusedFileSystemIsTakenWhenOneInsists(t *testing.T) {
	n := &Node{o: Options{Logger: quiet()}}
	err := n.takeFilesystem("/home/lab", unix.NFS_SUPER_MAGIC)
	if err == nil || !strings.Contains(err.Error(), "/home/lab is on NFS") || !strings.Contains(err.Error(), "--data") {
		t.Errorf("refused with %v", err)
	}
	if err := n.takeFilesystem("/dev/shm", unix.TMPFS_MAGIC); err != nil {
		t.Errorf("tmpfs is refused: %v", err)
	}
	n.o.AnyFilesystem = true
	if err := n.takeFilesystem("/home/lab", unix.NFS_SUPER_MAGIC); err != nil {
		t.Errorf("refused although told to take it: %v", err)
	}
}
