package netns

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

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
