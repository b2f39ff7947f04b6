package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Links tells which interfaces a namespace has, at the price of one system call. Any
// number of goroutines may ask.
type Links struct {
	socket *os.File
	raw    syscall.RawConn // of socket; it knows when that is closed
}

// Links needs to be closed. A nil namespace is the process's own.
func (n *Namespace) Links() (*Links, error) {
	var l Links
	err := n.Do(func() error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		l.socket = os.NewFile(uintptr(fd), "interfaces")
		l.raw, err = l.socket.SyscallConn()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make a socket in %s: %w", n.Name(), err)
	}
	return &l, nil
}

// Has reports whether there is an interface with that index now (SIOCGIFNAME,
// netdevice(7)). The kernel gives no index out again before all others were used. After
// Close there is none.
func (l *Links) Has(index int) bool {
	request, err := unix.NewIfreq("")
	if err != nil {
		return false
	}
	request.SetUint32(uint32(index))
	asked := l.raw.Control(func(fd uintptr) { err = unix.IoctlIfreq(int(fd), unix.SIOCGIFNAME, request) })
	return asked == nil && err == nil
}

// Close ends it.
func (l *Links) Close() error { return l.socket.Close() }

// HasLoopback6 reports whether ::1 is an address of lo in the namespace. It is
// not while lo is down or where IPv6 is turned off.
func (n *Namespace) HasLoopback6() (bool, error) {
	found := false
	err := n.netlink(func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		addrs, err := listAddrs(h, lo, netlink.FAMILY_V6)
		for _, a := range addrs {
			found = found || a == netip.IPv6Loopback()
		}
		return err
	})
	if err != nil {
		return false, fmt.Errorf("look for ::1 in %s: %w", n.Name(), err)
	}
	return found, nil
}

// AllowsLoopback6 reports whether lo has ::1 in the namespace, or will have it when
// it is up: IPv6 is not turned off for it.
func (n *Namespace) AllowsLoopback6() (bool, error) {
	var off []byte
	err := n.Do(func() (err error) { // /proc/sys/net shows the reader's own namespace
		off, err = os.ReadFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
		return err
	})
	if errors.Is(err, fs.ErrNotExist) { // a kernel without IPv6
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look whether IPv6 is on in %s: %w", n.Name(), err)
	}
	return strings.TrimSpace(string(off)) == "0", nil
}

// LoopbackUp brings lo up, with ::1 where that can be had: new namespaces may be
// born with IPv6 turned off, and a read-only /proc/sys keeps it so. HasLoopback6
// tells.
func (n *Namespace) LoopbackUp() error {
	_ = n.Do(func() error {
		// Resolved by the thread that opens it, as all of /proc/sys/net is.
		return os.WriteFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6", []byte("0"), 0)
	})
	err := n.netlink(func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		return h.LinkSetUp(lo)
	})
	if err != nil {
		return fmt.Errorf("bring lo up in network namespace %s: %w", n.path, err)
	}
	return nil
}

// Addrs returns the addresses of all interfaces in the namespace, without zones.
func (n *Namespace) Addrs() ([]netip.Addr, error) {
	var addrs []netip.Addr
	err := n.netlink(func(h *netlink.Handle) (err error) {
		addrs, err = listAddrs(h, nil, netlink.FAMILY_ALL)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses in %s: %w", n.Name(), err)
	}
	return addrs, nil
}

// netlink calls fn with a route netlink socket that was made in the namespace.
// Only its making happens inside; a socket stays where it was made, so fn runs
// outside. A nil namespace is the process's own, which needs no entering.
func (n *Namespace) netlink(fn func(*netlink.Handle) error) error {
	var h *netlink.Handle
	err := n.Do(func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return err
	}
	defer h.Close()
	return fn(h)
}

// dump calls read again, a few times, when a change of what it lists has
// interrupted it.
func dump(read func() error) error {
	const tries = 5
	var err error
	for range tries {
		if err = read(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return err
}

// listAddrs lists the addresses of link, or of every link if it is nil.
func listAddrs(h *netlink.Handle, link netlink.Link, family int) ([]netip.Addr, error) {
	var list []netlink.Addr
	err := dump(func() (err error) {
		list, err = h.AddrList(link, family)
		return err
	})
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, a := range list {
		if a.IPNet == nil {
			continue
		}
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs, nil
}

// Lease makes addr an address of lo in the namespace for at least half of
// lifetime; call it again before that is over. Nobody has to clean up after a
// process that was killed: the kernel removes an address whose lifetime has ended
// (ip-address(8), valid_lft). While it lasts nothing is sent from it unasked
// (preferred_lft 0, scope host).
//
// An address without an end is somebody else's. Then Lease changes nothing and
// ours is false. A nil namespace is the process's own. It takes CAP_NET_ADMIN.
func (n *Namespace) Lease(addr netip.Addr, lifetime time.Duration) (ours bool, err error) {
	err = n.netlink(func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		left, found, err := lifetimeOf(h, lo, addr)
		switch {
		case err != nil:
			return err
		case found && left == math.MaxUint32:
			return nil
		case found && 2*left > int(lifetime/time.Second):
			ours = true
			return nil
		}
		a := loopbackAddr(addr)
		a.ValidLft = int(lifetime / time.Second)
		ours = true
		if err := h.AddrReplace(lo, a); err != nil || found || addr.Is4() {
			return err
		}
		awaitRoute(h, addr)
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("put %s on lo of %s: %w", addr, n.Name(), err)
	}
	return ours, nil
}

// awaitRoute waits, for a second at most, until addr, of IPv6, can be reached: the kernel makes
// its route in a work queue, after it has said that the address is there.
func awaitRoute(h *netlink.Handle, addr netip.Addr) {
	const patience, look = time.Second, time.Millisecond
	for until := time.Now().Add(patience); time.Now().Before(until); time.Sleep(look) {
		routes, err := h.RouteGet(addr.AsSlice())
		if err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL {
			return
		}
	}
}

// EndLease removes what Lease added. An address that is gone, or is somebody
// else's, is left as it is.
func (n *Namespace) EndLease(addr netip.Addr) error {
	err := n.netlink(func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		left, found, err := lifetimeOf(h, lo, addr)
		if err != nil || !found || left == math.MaxUint32 {
			return err
		}
		return h.AddrDel(lo, loopbackAddr(addr))
	})
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("take %s off lo of %s: %w", addr, n.Name(), err)
	}
	return nil
}

// Leases returns the addresses that Lease has put on lo of the namespace, by whichever
// process.
func (n *Namespace) Leases() ([]netip.Addr, error) {
	var leases []netip.Addr
	err := n.netlink(func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		return dump(func() error {
			leases = nil
			list, err := h.AddrList(lo, netlink.FAMILY_ALL)
			for _, a := range list {
				addr, ok := netip.AddrFromSlice(a.IP)
				// Not by the scope: that of an IPv6 address is the kernel's to say.
				if ones, bits := a.Mask.Size(); ok && ones == bits && a.ValidLft != math.MaxUint32 && a.PreferedLft == 0 {
					leases = append(leases, addr.Unmap())
				}
			}
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses on lo of %s: %w", n.Name(), err)
	}
	return leases, nil
}

// lifetimeOf returns how many seconds addr has left on link; math.MaxUint32 is
// for ever.
func lifetimeOf(h *netlink.Handle, link netlink.Link, addr netip.Addr) (left int, found bool, err error) {
	err = dump(func() error {
		found = false
		list, err := h.AddrList(link, netlink.FAMILY_ALL)
		for _, a := range list {
			if got, ok := netip.AddrFromSlice(a.IP); ok && got.Unmap() == addr {
				left, found = a.ValidLft, true
			}
		}
		return err
	})
	return left, found, err
}

func loopbackAddr(addr netip.Addr) *netlink.Addr {
	a := &netlink.Addr{
		IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())},
		Scope: unix.RT_SCOPE_HOST,
	}
	if addr.Is6() {
		a.Flags = unix.IFA_F_NODAD // usable at once
	}
	return a
}
