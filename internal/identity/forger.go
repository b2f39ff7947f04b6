package identity

import (
	"net/netip"
	"slices"

	"github.com/ambassadord/ambassadord/internal/dockerd"
)

// Forger returns a running container that could send packets from addr, because
// it is on a network where a client has that address and holds CAP_NET_RAW, or
// CAP_NET_ADMIN, with which it can take the address. It may be that client
// itself: others of its kind can join at any moment. It is nil when there is
// none.
func (t *Table) Forger(addr netip.Addr) *dockerd.Container {
	addr = addr.Unmap()
	client := t.At(addr)
	if client == nil {
		return nil
	}
	has := func(n dockerd.Network) bool { return n.IPv4 == addr || n.IPv6 == addr }
	at := slices.IndexFunc(client.Owner.Networks, has)
	if at < 0 {
		return nil
	}
	network := client.Owner.Networks[at]
	for _, n := range t.Namespaces() {
		if !slices.ContainsFunc(n.Owner.Networks, func(other dockerd.Network) bool {
			return other.ID == network.ID && other.Name == network.Name
		}) {
			continue
		}
		for _, c := range n.Clients {
			if c.Container.NetRaw || c.Container.NetAdmin {
				return c.Container
			}
		}
	}
	return nil
}
