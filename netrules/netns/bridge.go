package netns

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// HasBridge reports whether the caller's own namespace holds a bridge, as a
// container host's does and a container's on a bridge network does not. It
// enters nothing, so it needs no privilege.
func HasBridge() (bool, error) {
	var links []netlink.Link
	err := dump(func() (err error) {
		links, err = netlink.LinkList()
		return err
	})
	if err != nil {
		return false, fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		if l.Type() == "bridge" {
			return true, nil
		}
	}
	return false, nil
}
