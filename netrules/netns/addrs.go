package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

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

// Name names a namespace, which may be nil, in an error or a line.
func (n *Namespace) Name() string {
	if n == nil {
		return "our own network namespace"
	}
	return "network namespace " + n.path
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
