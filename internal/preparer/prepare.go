package preparer

import (
	"cmp"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/advance"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// Config is what the process and the daemon have to agree on.
type Config struct {
	Folders []string // where namespaces appear: the first that exists
	// First and Last are the ports to listen at, the first that is free.
	First, Last uint16
}

// prepare opens sockets in the namespace at path, where lo may be down still, and makes rules
// that lead ports to them. It is called on the watching thread. The descriptors that it has made are in fds, in the
// order of a report's.
//
// It makes both or nothing. Where the rules are there already another daemon's process has made
// them, or a daemon without one: our daemon is taking over from it, or the other way round.
func prepare(c Config, path string, ports []uint16) (r preparerReport, fds []int, err error) {
	r = preparerReport{Path: path}
	ns, err := netns.Open(path)
	if err != nil {
		return r, nil, err
	}
	defer func() { _ = ns.Close() }()
	err = ns.Here(func() error {
		four, port, err := listenFirst(c)
		if err != nil {
			return err
		}
		r.Listen, fds = port, append(fds, four)
		families := []netrules.Family{netrules.IPv4}
		// Where there is no IPv6 there is no such socket.
		if six, err := listen(netip.IPv6Loopback(), port); err == nil {
			r.Six, fds, families = true, append(fds, six), append(families, netrules.IPv6)
		}
		rules, err := advance.Redirect(nil, families, port, asPorts(ports))
		if err != nil {
			return err
		}
		r.Ports, fds = ports, append(fds, rules.Socket())
		return nil
	})
	return r, fds, err
}

func asPorts(numbers []uint16) []netrules.Port {
	ports := make([]netrules.Port, len(numbers))
	for i, n := range numbers {
		ports[i].Number = n
	}
	return ports
}

// listenFirst takes the first port that is free.
func listenFirst(c Config) (fd int, port uint16, err error) {
	for port = c.First; port <= c.Last; port++ {
		var failed error
		if fd, failed = listen(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port); failed == nil {
			return fd, port, nil
		}
		err = cmp.Or(err, failed)
	}
	return -1, 0, err
}

// listen listens at addr in the namespace of this thread, also while addr is not there yet:
// connections come as soon as it is. The socket is as that of netns.Namespace.ListenTCP.
func listen(addr netip.Addr, port uint16) (int, error) {
	family, to := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(port), Addr: [4]byte{127, 0, 0, 1}})
	if addr.Is6() {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: int(port), Addr: addr.As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	for _, option := range [][3]int{
		{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}, {unix.IPPROTO_IP, unix.IP_FREEBIND, 1}, {unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
	} {
		if option[0] == unix.IPPROTO_IPV6 && family != unix.AF_INET6 {
			continue
		}
		if err == nil {
			err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, option[0], option[1], option[2]))
		}
	}
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, to))
	}
	if err == nil {
		err = os.NewSyscallError("listen", unix.Listen(fd, backlog))
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// backlog is how many connections may wait to be accepted; the kernel makes it somaxconn.
const backlog = 1 << 15
