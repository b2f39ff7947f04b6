package netns

import (
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// New makes a network namespace without a name, a mount or a process: it goes
// when it is closed and no socket made in it is left. Its lo is down. It takes
// CAP_SYS_ADMIN.
func New() (*Namespace, error) {
	home, err := Current()
	if err != nil {
		return nil, err
	}
	defer func() { _ = home.Close() }()
	var made *Namespace
	// Do brings the thread that moves into the new namespace back, or ends it.
	err = home.Do(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		made, err = Current()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make network namespace: %w", err)
	}
	return made, nil
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
