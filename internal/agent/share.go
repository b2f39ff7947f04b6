package agent

import (
	"net"
	"net/netip"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/proxy"
)

// reserveOf is how many of so many places are kept for clients that have few: an eighth. Of
// fewer than eight there is none to spare.
func reserveOf(places int) int {
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
	limit *proxy.Limit
	who   string
}

// share is the part of limit of one client; nil of none. who is by which key it is known:
// the ID of the container whose namespace it is in, or an address (proxy.ClientAddr).
func (u *upstreams) share(limit *proxy.Limit, who, name string) *proxy.Share {
	if limit == nil {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	key := shareKey{limit, who}
	if s := u.shares[key]; s != nil {
		return s
	}
	if u.shares == nil {
		u.shares = map[shareKey]*proxy.Share{}
	}
	if len(u.shares) >= mostClients {
		u.sweepShares(nil, nil)
	}
	s := limit.Share(name)
	u.shares[key] = s
	return s
}

// sweepShares forgets the shares that nobody uses of clients that are not alive, or of
// limits that are gone. Who keeps one asks anew after that (upstreams.forgotten). It is
// called with mu held.
func (u *upstreams) sweepShares(alive map[string]bool, gone map[*proxy.Limit]bool) {
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
func (u *upstreams) among(clients int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.mayCome = clients
	for _, l := range u.limits {
		l.SetClients(clients)
	}
}

// places is the part that a client has of the daemon's connections; nil where there is no
// limit.
func (a *agent) places(who, name string) *proxy.Share {
	if a.server == nil {
		return nil // parts of the daemon that run alone, for a test
	}
	return a.upstreams.share(a.server.Limit, who, name)
}

// shareAmong lets each of table's clients be sure of a part of what is kept for those that
// have few. table is nil as long as nobody knows them.
func (a *agent) shareAmong(table *identity.Table) {
	if a.server == nil {
		return
	}
	clients := a.clientsIn(table)
	a.server.Limit.SetClients(clients)
	a.server.Unknown.SetClients(clients)
	a.upstreams.among(clients)
}

// clientsIn is how many clients may come: those of table that declare something, or all of
// them where a listener waits for whoever dials it, and addresses.
func (a *agent) clientsIn(table *identity.Table) int {
	clients := addressesOf(a.tuned().cfg.Listeners)
	if table == nil {
		if len(a.modes) > 0 {
			clients = unknownClients
		}
		return max(1, clients)
	}
	anybody := clients > 0
	for _, n := range table.Namespaces() {
		if anybody || len(n.Bindings()) > 0 {
			clients++
		}
	}
	return max(1, clients)
}
