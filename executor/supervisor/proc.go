package supervisor

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// BootID gives the kernel's identifier of this boot.
func BootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// Mark is put into the environment of every process of the job. It is made from the nonce but does not give it away, so
// that what a lost supervisor left behind can be told from everything else on the machine.
func Mark(nonce string) string {
	sum := sha256.Sum256([]byte("cvlab mark " + nonce))
	return hex.EncodeToString(sum[:12])
}

// stat is the part of /proc/PID/stat that matters here.
type stat struct {
	Proc
	state  byte
	parent int
}

func readStat(pid int) (stat, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, err
	}
	// The second field is the program's name, which may hold blanks and parentheses.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 20 {
		return stat{}, fmt.Errorf("read process %d: short stat", pid)
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return stat{}, fmt.Errorf("read process %d: %w", pid, err)
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("read process %d: %w", pid, err)
	}
	return stat{Proc: Proc{PID: pid, Start: start}, state: fields[0][0], parent: parent}, nil
}

// allProcs lists every process now, without zombies.
func allProcs() []stat {
	d, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	var all []stat
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if s, err := readStat(pid); err == nil && s.state != 'Z' && s.state != 'X' {
			all = append(all, s)
		}
	}
	return all
}

// descendants lists the processes below root, nearest first, without root.
func descendants(root int) []stat {
	below := make(map[int][]stat)
	for _, s := range allProcs() {
		below[s.parent] = append(below[s.parent], s)
	}
	list := slices.Clone(below[root])
	for i := 0; i < len(list); i++ {
		list = append(list, below[list[i].PID]...)
	}
	return list
}

// signalProc signals exactly this process: the number is checked after it has been pinned by a pidfd, so a stranger that
// got the number meanwhile is never touched.
func signalProc(p Proc, sig unix.Signal) error {
	fd, err := pin(p)
	if err != nil {
		return err
	}
	return errors.Join(unix.PidfdSendSignal(fd, sig, nil, 0), unix.Close(fd))
}

// pin opens a pidfd for p, ESRCH if that process is gone.
func pin(p Proc) (int, error) {
	fd, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if err != nil {
		return -1, err
	}
	if s, err := readStat(p.PID); err != nil || s.Start != p.Start {
		return -1, errors.Join(unix.ESRCH, unix.Close(fd))
	}
	return fd, nil
}

// catches says whether the process has a handler for the signal.
func catches(pid int, sig unix.Signal) bool {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(data), "\nSigCgt:")
	word, _, _ := strings.Cut(rest, "\n")
	mask, err := strconv.ParseUint(strings.TrimSpace(word), 16, 64)
	return err == nil && sig > 0 && mask&(1<<(uint(sig)-1)) != 0
}

// hasEnv says whether the process was started with this KEY=VALUE. False if that cannot be read.
func hasEnv(pid int, entry string) bool {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		return false
	}
	for e := range bytes.SplitSeq(data, []byte{0}) {
		if string(e) == entry {
			return true
		}
	}
	return false
}
