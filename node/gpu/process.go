package gpu

import (
	"bytes"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// people finds out whose a process is. Names of users are remembered, since looking one up may ask a server.
type people struct {
	proc  string // where procfs is mounted
	names map[uint32]string
}

func newPeople() *people {
	return &people{proc: "/proc", names: map[uint32]string{}}
}

// describe fills in name and owner of a process; a process that has ended or cannot be seen stays without.
func (p *people) describe(pid int, memory uint64) Process {
	out := Process{PID: pid, MemoryUsed: memory}
	dir := filepath.Join(p.proc, strconv.Itoa(pid))
	info, err := os.Stat(dir)
	if err != nil {
		return out
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		out.User = p.name(st.Uid)
	}
	out.Name = shortName(filepath.Join(dir, "comm"))
	return out
}

func (p *people) name(uid uint32) string {
	if name, ok := p.names[uid]; ok {
		return name
	}
	number := strconv.FormatUint(uint64(uid), 10)
	name := number
	if u, err := user.LookupId(number); err == nil {
		name = u.Username
	}
	p.names[uid] = name
	return name
}

// shortName reads the kernel's name of a process, at most 15 bytes that its owner can choose freely.
func shortName(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	data, err := io.ReadAll(io.LimitReader(f, 64))
	if f.Close() != nil || err != nil {
		return ""
	}
	return string(bytes.ToValidUTF8(bytes.TrimRight(data, "\n"), []byte("?")))
}
