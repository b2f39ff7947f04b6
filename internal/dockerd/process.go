package dockerd

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// isProcess reports whether pid is, in our PID namespace and at this moment, a process of
// the container id: its cgroup is named after that. A process ID alone proves nothing, for
// it may be another process's by now, or be of another PID namespace.
func isProcess(pid int, id string) bool {
	return pid > 0 && len(id) == idLen && idIn(fmt.Sprintf("/proc/%d/cgroup", pid)) == id
}

// seeProcess notes what can be seen of c's main process.
func (c *Container) seeProcess() {
	inode := netnsOf(fmt.Sprint(c.PID))
	if c.PID <= 0 || !isProcess(c.PID, c.ID) { // after the look, which was at the container's then
		return
	}
	c.Seen = true
	if inode != netnsOf("self") && inode != netnsOf("1") {
		c.Netns = inode
	}
}

// ended reports whether c can be seen to have ended, or to have been started again, since it was
// inspected: no process of its ID is in its network namespace any more. It is one stat(2), for it
// is asked at each dial.
func (c *Container) ended() bool {
	if !c.Seen || c.Netns == 0 {
		return false
	}
	var s unix.Stat_t
	switch err := unix.Stat("/proc/"+strconv.Itoa(c.PID)+"/ns/net", &s); err {
	case nil:
		return s.Ino != c.Netns
	case unix.ENOENT, unix.ESRCH:
		return true
	}
	return false
}

// netnsOf returns the inode of the network namespace of a process, named as in /proc; 0
// where it is out of our sight.
func netnsOf(process string) uint64 {
	var s unix.Stat_t
	if unix.Stat("/proc/"+process+"/ns/net", &s) != nil {
		return 0
	}
	return s.Ino
}
