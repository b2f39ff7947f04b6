package handover

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/ambassadord/ambassadord/netrules/netns"
)

// Name is what a socket at address is called where it is kept without a description, in
// systemd's descriptor store: printable, without a colon, and the same at every start.
//
//	redirect-4-4026532281-127.0.0.1-61000
func (s Socket) Name(address netip.AddrPort) string {
	return fmt.Sprintf("%s-%d-%d-%s-%d", s.Role, s.Namespace.Dev, s.Namespace.Inode,
		strings.ReplaceAll(address.Addr().String(), ":", "_"), address.Port())
}

// Stored reports whether a socket may be kept while no daemon runs. Those of modes host
// and link may not: meanwhile there is no guard, so whoever waits in their queue could be
// anybody.
func (s Socket) Stored() bool { return s.Role == Fixed || s.Role == Redirect || s.Role == Listen }

// ParseName reads a Name; any other is a socket that the user gave us: a fixed one.
func ParseName(name string) Socket {
	fields := strings.Split(name, "-")
	if len(fields) != 5 {
		return Socket{Role: Fixed}
	}
	dev, err := strconv.ParseUint(fields[1], 10, 64)
	inode, err2 := strconv.ParseUint(fields[2], 10, 64)
	s := Socket{Role: Role(fields[0]), Namespace: netns.ID{Dev: dev, Inode: inode}}
	if err != nil || err2 != nil || !s.Stored() {
		return Socket{Role: Fixed}
	}
	return s
}
