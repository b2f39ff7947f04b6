// Package holders finds the processes that hold sockets, by the numbers that the kernel's
// tables have of these: who serves where a rule leads to, and who has taken a name.
package holders

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/netrules/netns"
)

// program is what our program's file is called.
const program = "ambassadord"

// Process is one that holds a socket.
type Process struct {
	PID       int
	Namespace netns.ID // the network namespace that it is in itself
	// Daemon says that it is an ambassadord: it has a lock of one open, or its program
	// has the name.
	Daemon bool
}

// Index knows who holds which socket, at the moment of its making.
type Index map[uint64][]Process

// Scan looks at every process in our sight. Those that end meanwhile, or that we may not
// look at, are passed over.
func Scan(ctx context.Context) Index {
	index := Index{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return index
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || ctx.Err() != nil {
			continue
		}
		index.add(pid)
	}
	return index
}

// lockFile is the path of an open lock, as internal/rundir names them.
var lockFile = regexp.MustCompile(`/(host|control)-\d+-\d+[^/]*\.lock( \(deleted\))?$`)

func (index Index) add(pid int) {
	dir := fmt.Sprintf("/proc/%d", pid)
	files, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return
	}
	p := Process{PID: pid}
	if exe, err := os.Readlink(filepath.Join(dir, "exe")); err == nil {
		p.Daemon = filepath.Base(strings.TrimSuffix(exe, " (deleted)")) == program
	}
	var st unix.Stat_t
	if unix.Stat(filepath.Join(dir, "ns", "net"), &st) == nil {
		p.Namespace = netns.ID{Dev: st.Dev, Inode: st.Ino}
	}
	var sockets []uint64
	for _, f := range files {
		to, err := os.Readlink(filepath.Join(dir, "fd", f.Name()))
		if err != nil {
			continue
		}
		if number, ok := strings.CutPrefix(to, "socket:["); ok {
			if inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64); err == nil {
				sockets = append(sockets, inode)
			}
			continue
		}
		p.Daemon = p.Daemon || lockFile.MatchString(to)
	}
	for _, inode := range sockets {
		index[inode] = append(index[inode], p)
	}
}
