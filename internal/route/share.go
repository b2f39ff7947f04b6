package route

import (
	"net"
	"net/netip"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/proxy/limit"
)

// ReserveOf is how many of so many places are kept for clients that have few: an eighth. Of
// fewer than eight there is none to spare.
func ReserveOf(places int) int {
	const eighth = 8
	return places / eighth
}

// unknownClients is for how many clients that are no containers a place is kept: those of
// listeners are addresses, of which nobody knows how many there will be.
const unknownClients = 32

// addressesOf is how many clients listeners have that are no containers: of those on
// loopback addresses all are one (proxy.ClientAddr).
func addressesOf(listeners []config.Listener) int {
	addresses := 0
	for _, l := range listeners {
		host, _, err := net.SplitHostPort(l.Address)
		if err != nil {
			return unknownClients
		}
		if addr, err := netip.ParseAddr(host); err != nil || !addr.IsLoopback() {
			return unknownClients
		}
		addresses = 1
	}
	return addresses
}

// shareKey is whose part of which limit.
type shareKey struct {
	limit *limit.Limit
	who   string
}

// share is the part of a limit, of, of one client; nil of none. who is by which key it is known:
// the ID of the container whose namespace it is in, or an address (proxy.ClientAddr).
func (u *serverSets) share(of *limit.Limit, who, name string) *limit.Share {
	if of == nil {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	key := shareKey{of, who}
	if s := u.shares[key]; s != nil {
		return s
	}
	if u.shares == nil {
		u.shares = map[shareKey]*limit.Share{}
	}
	if len(u.shares) >= mostClients {
		u.sweepShares(nil, nil)
	}
	s := of.Share(name)
	u.shares[key] = s
	return s
}

// sweepShares forgets the shares that nobody uses of clients that are not alive, or of
// limits that are gone. Code that keeps one asks anew after that (serverSets.forgotten). It
// is called with mu held.
func (u *serverSets) sweepShares(alive map[string]bool, gone map[*limit.Limit]bool) {
	had := len(u.shares)
	for key, s := range u.shares {
		if (!alive[key.who] || gone[key.limit]) && s.Idle() {
			delete(u.shares, key)
		}
	}
	if len(u.shares) < had {
		u.forgotten.Add(1)
	}
}

// among says of how many clients those of a target that is limited are.
func (u *serverSets) among(clients int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.mayCome = clients
	for _, l := range u.limits {
		l.SetClients(clients)
	}
}
