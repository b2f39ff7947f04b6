package dialfault

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"
)

// FixPorts is what to do when the kernel finds no local port.
const FixPorts = "widen net.ipv4.ip_local_port_range, give the target more endpoints or dial it from another source-address, and let clients keep their connections; does one of them leak connections?"

// Fault is an errno with which a dial fails: whose fault it is and what to do about it.
type Fault struct {
	errnos []unix.Errno
	// Own says that the dial fails before anything has reached the endpoint: this host lacks
	// something, or does not let it be done.
	Own bool
	Fix string
}

// faults are what connect(2), socket(2) and bind(2) may say, in the order of docs/balancing.md.
// ENETUNREACH and EHOSTUNREACH come from this host's routes as well as from a router on the
// way, and connect(2) does not tell which. They count, so that another endpoint, to which
// there is a way, goes before.
var faults = []Fault{
	{[]unix.Errno{unix.ECONNREFUSED}, false, "nobody listens there: is the backend up, and at this address and port? Or a firewall rejects it"},
	{[]unix.Errno{unix.ETIMEDOUT}, false, FixSilence},
	{[]unix.Errno{unix.ECONNRESET, unix.EPIPE}, false, "the backend, or something before it, reset the connection at once: look at its log"},
	{[]unix.Errno{unix.EHOSTUNREACH}, false, "is its machine up, and in this network? Nobody answers for the address there, a firewall rejects it, or a route of this host is `unreachable` (`ip route get ADDRESS`)"},
	{[]unix.Errno{unix.ENETUNREACH}, false, "this host has no route there, or a router on the way has none (`ip route get ADDRESS`)"},
	{[]unix.Errno{unix.EADDRNOTAVAIL, unix.EADDRINUSE, unix.EAGAIN}, true, FixPorts},
	{[]unix.Errno{unix.EMFILE}, true, "the daemon has no descriptor left: raise its limit of open files (ulimit -n, LimitNOFILE=), or lower --max-connections"},
	{[]unix.Errno{unix.ENFILE}, true, "this host has no descriptor left for any process: raise fs.file-max, or look who holds so many (/proc/sys/fs/file-nr)"},
	{[]unix.Errno{unix.ENOMEM, unix.ENOBUFS}, true, "the kernel has no memory left for sockets: look at the memory limit of the daemon's control group, net.ipv4.tcp_mem and net.ipv4.tcp_max_orphans"},
	{[]unix.Errno{unix.EACCES}, true, "this host forbids it: a route or rule that is `prohibit` (`ip route get ADDRESS`, `ip rule`), a broadcast address, or SELinux"},
	{[]unix.Errno{unix.EPERM}, true, "this host forbids it: a firewall, a program of the daemon's control group at connect(2) (`bpftool cgroup tree`), or a missing capability"},
	{[]unix.Errno{unix.EINVAL}, true, "this host cannot go there so: a route is `blackhole` (`ip route get ADDRESS`), or the source address does not go with the destination"},
	{[]unix.Errno{unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT}, true, "this host has no such protocol: IPv6 may be off (ipv6.disable=1)"},
}

// FixSilence is what to look at when nothing answers.
const FixSilence = "nothing comes back: is the backend's machine up, is the backend busy, or does a firewall drop it?"

// Of is the fault of err; nil if the kernel has not said one that is known.
func Of(err error) *Fault {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return nil
	}
	for i := range faults {
		if slices.Contains(faults[i].errnos, errno) {
			return &faults[i]
		}
	}
	return nil
}
