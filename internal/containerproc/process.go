package containerproc

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// IsOf reports whether pid is, in our PID namespace and at this moment, a process of
// the container id: its cgroup is named after that. A process ID alone proves nothing, for
// it may be another process's by now, or be of another PID namespace.
func IsOf(pid int, id string) bool {
	return pid > 0 && id != "" && idIn(fmt.Sprintf("/proc/%d/cgroup", pid)) == id
}

// Netns returns the inode of the network namespace of a process, named as in /proc; 0
// where it is out of our sight.
func Netns(process string) uint64 {
	var s unix.Stat_t
	if unix.Stat("/proc/"+process+"/ns/net", &s) != nil {
		return 0
	}
	return s.Ino
}

// HasLeft reports whether the process pid can be seen to have ended, or to be in another network
// namespace than the one of that inode. It is one stat(2), for it is asked at each dial.
func HasLeft(pid int, netns uint64) bool {
	var s unix.Stat_t
	switch err := unix.Stat("/proc/"+strconv.Itoa(pid)+"/ns/net", &s); err {
	case nil:
		return s.Ino != netns
	case unix.ENOENT, unix.ESRCH:
		return true
	}
	return false
}
