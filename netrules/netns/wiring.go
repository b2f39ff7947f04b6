package netns

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// Wiring is the bridge ports of a namespace as they were at one moment: the veth
// devices in it that are attached to a bridge, by where their other end is.
type Wiring struct {
	ns    *Namespace
	ports map[remoteLink]int
}

// remoteLink is an interface in another namespace, as the kernel names that from here
// (network namespace ID, IFLA_LINK_NETNSID in rtnetlink(7)).
type remoteLink struct{ namespace, link int }

// ReadWiring reads the bridge ports of a namespace; nil is the process's own. It
// needs no privilege there.
func ReadWiring(ns *Namespace) (*Wiring, error) {
	w := &Wiring{ns: ns, ports: map[remoteLink]int{}}
	err := ns.netlink(func(h *netlink.Handle) error {
		var links []netlink.Link
		err := dump(func() (err error) {
			links, err = h.LinkList()
			return err
		})
		if err != nil {
			return err
		}
		bridges := map[int]bool{}
		for _, l := range links {
			bridges[l.Attrs().Index] = l.Type() == "bridge"
		}
		for _, l := range links {
			a := l.Attrs()
			if l.Type() == "veth" && a.NetNsID >= 0 && bridges[a.MasterIndex] {
				w.ports[remoteLink{a.NetNsID, a.ParentIndex}] = a.Index
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the bridge ports of %s: %w", ns.Name(), err)
	}
	return w, nil
}

// Has reports whether port is the interface index of a bridge port.
func (w *Wiring) Has(port int) bool {
	for _, p := range w.ports {
		if p == port {
			return true
		}
	}
	return false
}

// PortsOf returns the interface indices of the bridge ports whose other end is in the
// namespace far, whatever addresses it has there.
func (w *Wiring) PortsOf(far *Namespace) ([]int, error) {
	id, err := w.idOf(far)
	if err != nil {
		return nil, err
	}
	var ports []int
	for e, port := range w.ports {
		if e.namespace == id {
			ports = append(ports, port)
		}
	}
	slices.Sort(ports)
	return ports, nil
}

// idOf is how the kernel names far from here.
func (w *Wiring) idOf(far *Namespace) (id int, err error) {
	err = far.WithFD(func(fd int) error {
		return w.ns.netlink(func(h *netlink.Handle) (err error) {
			id, err = h.GetNetNsIdByFd(fd)
			return err
		})
	})
	if err != nil {
		return 0, fmt.Errorf("look up %s from %s: %w", far.Name(), w.ns.Name(), err)
	}
	return id, nil
}

// Behind returns the addresses in the namespace far that are on the other end of
// a bridge port, each with that port's interface index. Entering far takes
// CAP_SYS_ADMIN.
func (w *Wiring) Behind(far *Namespace) (map[netip.Addr]int, error) {
	id, err := w.idOf(far)
	if err != nil {
		return nil, err
	}
	found := map[netip.Addr]int{}
	err = far.netlink(func(h *netlink.Handle) error {
		return dump(func() error {
			list, err := h.AddrList(nil, netlink.FAMILY_ALL)
			for _, a := range list {
				addr, ok := netip.AddrFromSlice(a.IP)
				if port := w.ports[remoteLink{id, a.LinkIndex}]; ok && port != 0 {
					found[addr.Unmap()] = port
				}
			}
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses in %s: %w", far.Name(), err)
	}
	return found, nil
}
