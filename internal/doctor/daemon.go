package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// lockName is the abstract socket (unix(7)) that the daemon of a host holds,
// as /proc/net/unix shows it.
const lockName = "@ambassadord/redirect"

func (h *host) daemon(ctx context.Context) Result {
	text, err := os.ReadFile("/proc/self/net/unix")
	if err != nil {
		return undone(err)
	}
	inodes := locks(string(text))
	if len(inodes) == 0 {
		return ok("none is running")
	}
	if pid, name := owner(ctx, inodes[0]); pid != 0 {
		return ok("one is running: %s, process %d", name, pid)
	}
	return ok("one is running, in a process out of our sight")
}

// locks finds the sockets of daemons in what /proc/net/unix says (proc_net(5)):
// Num, RefCount, Protocol, Flags, Type, St, Inode, Path.
func locks(text string) (inodes []string) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 8 && f[7] == lockName {
			inodes = append(inodes, f[6])
		}
	}
	return inodes
}

// owner finds the process that holds a socket, 0 if none that we may look at does.
func owner(ctx context.Context, inode string) (pid int, name string) {
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return 0, ""
	}
	want := "socket:[" + inode + "]"
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		if ctx.Err() != nil {
			return 0, ""
		}
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		files, err := os.ReadDir(dir)
		if err != nil {
			continue // it has ended, or is not ours to look at
		}
		for _, f := range files {
			if link, err := os.Readlink(filepath.Join(dir, f.Name())); err == nil && link == want {
				comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)) // the number says enough
				return pid, strings.TrimSpace(string(comm))
			}
		}
	}
	return 0, ""
}
