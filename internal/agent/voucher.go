package agent

import (
	"net/netip"
	"slices"
	"time"

	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/netrules/guard"
	"github.com/ambassadord/ambassadord/proxy"
)

// voucherSettles is how long an address has to be bound as it is before the guard
// vouches for its owner: a connection may have been established, and have waited for us
// to accept it, while the address was another's.
const voucherSettles = 3 * time.Second

// voucher is what the guard has bound an address to.
type voucher struct {
	owner string // a container's ID; "" if several have the address
	ports []int  // of bridges, sorted
	since time.Time
}

func (v voucher) same(as voucher) bool { return v.owner == as.owner && slices.Equal(v.ports, as.ports) }

// vouchers are those of what is bound from now on: owners are the containers' IDs, by
// what is bound for each. One that is in before, and has not changed, goes on.
func vouchers(owners map[string][]guard.Binding, before map[netip.Addr]voucher, now time.Time) map[netip.Addr]voucher {
	all := map[netip.Addr]voucher{}
	for owner, bindings := range owners {
		for _, b := range bindings {
			v, there := all[b.Addr]
			if !there {
				v = voucher{owner: owner, since: now}
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

// vouches reports whether a connection that was accepted at that time from source can
// only be n's: to nobody else could the guard have let it through, and all bridge ports
// that it came by, one of which it was, are there still, as they would not be if n's owner
// had ended or left a network. What it does not know the engine does. A nil sentry knows
// nothing.
func (s *sentry) vouches(n *identity.Namespace, source netip.Addr, accepted time.Time) bool {
	if s == nil {
		return false
	}
	bound, links := s.bound.Load(), s.links
	if bound == nil || links == nil {
		return false
	}
	v := (*bound)[source]
	if v.owner != n.Owner.ID || accepted.Sub(v.since) < voucherSettles {
		return false
	}
	for _, port := range v.ports {
		if !links.Has(port) {
			return false
		}
	}
	return true
}

// sourcePort is what a prompt of modes host and link is for.
type sourcePort struct {
	client *identity.Namespace
	port   uint16
}

// sourceRouter is a Router of modes host and link that is prompt about clients for whom
// the guard vouches.
type sourceRouter struct {
	proxy.RouterFunc
	agent  *agent
	sentry *sentry
	listen netip.AddrPort // our socket's address if nobody may dial that
	known  prompts[sourcePort]
}

// RouteNow is Route for the ports that such clients declare.
func (r *sourceRouter) RouteNow(conn proxy.Accepted) (*proxy.Route, proxy.Chooser) {
	dst, err := proxy.OriginalDstOf(conn.FD, conn.Source.Addr())
	if err != nil || dst == r.listen {
		return nil, nil
	}
	accepted, source := time.Now(), conn.Source.Addr().Unmap()
	table := r.agent.table.load()
	if table == nil {
		return nil, nil
	}
	n := table.At(source)
	if n == nil || !r.sentry.vouches(n, source, accepted) {
		return nil, nil
	}
	from := basis{table: table, policy: r.agent.policy(), forgotten: r.agent.upstreams.forgotten.Load()}
	w := way{netip.AddrPortFrom(source, conn.Source.Port()), dst}
	return promptAt(r.agent, &r.known, from, sourcePort{n, dst.Port()}, n, w)
}
