package sourceguard

import (
	"net/netip"
	"slices"
	"time"

	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/netrules/guard"
)

// evidenceSettles is how long an address has to be bound as it is before that proves whose a
// connection is: a connection may have been established, and have waited for us
// to accept it, while the address was another's.
const evidenceSettles = 3 * time.Second

// evidence is what the guard has bound an address to.
type evidence struct {
	owner string // a container's ID; "" if several have the address
	ports []int  // of bridges, sorted
	since time.Time
}

func (v evidence) same(as evidence) bool {
	return v.owner == as.owner && slices.Equal(v.ports, as.ports)
}

// evidenceOf is that of what is bound from now on: owners are the containers' IDs, by
// what is bound for each. One that is in before, and has not changed, goes on.
func evidenceOf(owners map[string][]guard.Binding, before map[netip.Addr]evidence, now time.Time) map[netip.Addr]evidence {
	all := map[netip.Addr]evidence{}
	for owner, bindings := range owners {
		for _, b := range bindings {
			v, there := all[b.Addr]
			if !there {
				v = evidence{owner: owner, since: now}
			} else if v.owner != owner {
				v.owner = ""
			}
			v.ports = append(v.ports, b.Port)
			all[b.Addr] = v
		}
	}
	for addr, v := range all {
		slices.Sort(v.ports)
		if was, ok := before[addr]; ok && was.same(v) {
			v.since = was.since
		}
		all[addr] = v
	}
	return all
}

// proves reports whether a connection that was accepted at that time from source can
// only be n's: to nobody else could the guard have let it through, and all bridge ports
// that it came by, one of which it was, are there still, as they would not be if n's owner
// had ended or left a network. The engine knows the others. A nil Guard knows
// nothing.
func (s *Guard) proves(n *identity.Namespace, source netip.Addr, accepted time.Time) bool {
	if s == nil {
		return false
	}
	bound, links := s.bound.Load(), s.links
	if bound == nil || links == nil {
		return false
	}
	v := (*bound)[source]
	if v.owner != n.Owner.ID || accepted.Sub(v.since) < evidenceSettles {
		return false
	}
	for _, port := range v.ports {
		if !links.Has(port) {
			return false
		}
	}
	return true
}
