package control

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// ErrUnseen says that a process is in a PID namespace out of our sight: the host's, or
// another container's, seen from a container without --pid host.
var ErrUnseen = errors.New("the peer's process is out of our sight, in another container or on the host")

// Peer is the process at the other end of a Unix socket: the one that has connected, or
// that has called listen(2). Its user ID alone says little, for that of a container's
// root is root's.
type Peer struct {
	UID int
	// PID is its process ID as we see it, 0 if it is in a PID namespace out of our sight.
	PID   int
	pidfd int // holds the process's identity, so that PID stays its own; -1 before Linux 6.5
}

// PeerOf asks the kernel (SO_PEERCRED and SO_PEERPIDFD, unix(7)). Close it.
func PeerOf(socket syscall.Conn) (*Peer, error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, err
	}
	p := &Peer{pidfd: -1}
	var credErr error
	err = raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); credErr != nil {
			return
		}
		p.UID, p.PID = int(cred.Uid), int(cred.Pid)
		pidfd, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
		switch {
		case err == nil:
			p.pidfd = pidfd
		case errors.Is(err, unix.ENOPROTOOPT): // before Linux 6.5
		default: // it has ended, and its process ID may be another's
			p.PID = 0
		}
	})
	if err := errors.Join(err, credErr); err != nil {
		return nil, fmt.Errorf("who the peer is: %w", err)
	}
	return p, nil
}

// Close lets go of the peer's identity.
func (p *Peer) Close() {
	if p.pidfd >= 0 {
		_ = unix.Close(p.pidfd)
		p.pidfd = -1
	}
}

// sameUser refuses a peer of another user.
func (p *Peer) sameUser() error {
	if p.UID == os.Geteuid() {
		return nil
	}
	return hint.Errorf("run both as the same user", "the peer is of user %d, process %d, and we are of user %d", p.UID, p.PID, os.Geteuid())
}

// SameSystem refuses a peer that is not of our own user, mount namespace and user
// namespace: a container's process is of none of these, or of all if we are in that
// container, too.
//
// A process that we may not look at has capabilities that we lack. It is let through if it
// is in our sight: a container's is not, if we are in another; and the host's root may
// look at every process.
func (p *Peer) SameSystem() error {
	if err := p.sameUser(); err != nil {
		return err
	}
	if p.PID == 0 {
		return hint.Wrap(ErrUnseen, "run it where the daemon runs: in its container, with docker exec")
	}
	for _, kind := range []string{"mnt", "user"} {
		own, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			return fmt.Errorf("our own namespaces: %w", err)
		}
		its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", p.PID, kind))
		if errors.Is(err, fs.ErrPermission) {
			continue
		}
		if err != nil {
			return fmt.Errorf("the namespaces of the peer, process %d: %w", p.PID, err)
		}
		if its != own {
			return hint.Errorf("run it where the daemon runs, not in a container; or, if whoever has the daemon's folder is to be trusted, start the daemon with --run-dir-shared",
				"the peer, %s, is in another %s namespace", p, map[string]string{"mnt": "mount", "user": "user"}[kind])
		}
	}
	if !p.alive() {
		return fmt.Errorf("the peer, process %d, has ended", p.PID)
	}
	return nil
}

// MayServe reports whether the peer could serve this host, whatever it has mounted: it is
// of our user and user namespace, and has SYS_ADMIN in it. A process that has that can enter
// any mount namespace (setns(2)), so to believe it gives it nothing. A container has it only
// by --cap-add SYS_ADMIN or --privileged.
func (p *Peer) MayServe() bool {
	if p.PID == 0 || p.sameUser() != nil {
		return false
	}
	own, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		return false
	}
	its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", p.PID))
	if err != nil || its != own {
		return false
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
	if err != nil {
		return false
	}
	return hasSysAdmin(string(status)) && p.alive()
}

// hasSysAdmin looks for the capability in a process's status (proc_pid_status(5)).
func hasSysAdmin(status string) bool {
	for line := range strings.Lines(status) {
		if mask, ok := strings.CutPrefix(line, "CapEff:"); ok {
			set, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
			return err == nil && set&(1<<unix.CAP_SYS_ADMIN) != 0
		}
	}
	return false
}

// alive reports whether PID is still the peer's.
func (p *Peer) alive() bool {
	return p.pidfd < 0 || unix.PidfdSendSignal(p.pidfd, 0, nil, 0) != unix.ESRCH
}

// String is "process 123 (name)", with the container's ID where it is in one.
func (p *Peer) String() string {
	if p.PID == 0 {
		return "a process of user " + strconv.Itoa(p.UID) + " out of our sight"
	}
	return DescribeProcess(p.PID)
}

// DescribeProcess names a process, and the container that it is in.
func DescribeProcess(pid int) string {
	text := "process " + strconv.Itoa(pid)
	if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil {
		text += fmt.Sprintf(" (%s)", printable(strings.TrimSuffix(string(name), "\n")))
	}
	if id := containerOf(pid); id != "" {
		text += " of container " + id[:12]
	}
	return text
}

// printable is what a process has called itself, for a line of text.
func printable(name string) string {
	return strings.Trim(strconv.Quote(name), `"`)
}

var containerID = regexp.MustCompile(`[0-9a-f]{64}`)

// containerOf is the ID of the container that a process is in, "" if its cgroups name
// none (cgroups(7)).
func containerOf(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return ""
	}
	return containerID.FindString(string(text))
}
