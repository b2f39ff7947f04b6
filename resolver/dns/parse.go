package dns

import (
	"cmp"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/internal/answer"
)

// maxChain is how many aliases (CNAME) in a row are followed.
const maxChain = 16

// maxExpanded is the number of endpoints at which no further SRV records are looked
// at: each multiplies with the addresses of its target, so that 64 KiB could stand
// for millions.
const maxExpanded = 16 * answer.MaxEndpoints

// longest stands for "no TTL seen yet".
const longest = time.Duration(math.MaxInt64)

// ttl is a record's TTL; one with the highest bit set counts as zero (RFC 2181,
// section 8).
func ttl(h *mdns.RR_Header) time.Duration {
	if h.Ttl > math.MaxInt32 {
		return 0
	}
	return time.Duration(h.Ttl) * time.Second
}

// negativeTTL is how long the absence that m tells of holds: the lesser of the
// SOA's TTL and its last field (RFC 2308, section 5). It returns longest when
// there is no SOA, for the caller to clamp.
func negativeTTL(m *mdns.Msg) time.Duration {
	for _, rr := range m.Ns {
		if soa, ok := rr.(*mdns.SOA); ok {
			minimum := &mdns.RR_Header{Ttl: soa.Minttl}
			return min(ttl(soa.Header()), ttl(minimum))
		}
	}
	return longest
}

// aliases are CNAME records by owner.
type aliases map[string]*mdns.CNAME

func aliasesIn(rrs []mdns.RR) aliases {
	a := aliases{}
	for _, rr := range rrs {
		if cname, ok := rr.(*mdns.CNAME); ok {
			a[mdns.CanonicalName(cname.Hdr.Name)] = cname
		}
	}
	return a
}

// follow returns the end of name's chain of aliases and the shortest TTL on the
// way; false if the chain is a loop or too long.
func (a aliases) follow(name string) (end string, shortest time.Duration, ok bool) {
	end, shortest = mdns.CanonicalName(name), longest
	for range maxChain + 1 {
		cname, more := a[end]
		if !more {
			return end, shortest, true
		}
		end = mdns.CanonicalName(cname.Target)
		shortest = min(shortest, ttl(&cname.Hdr))
	}
	return end, shortest, false
}

// looseEnd is the name at the end of q's aliases, if m gives no records of it and
// does not say that there are none; "" otherwise. Whoever has authority over the
// alias alone answers like that.
func looseEnd(m *mdns.Msg, q dnsQuestion) string {
	end, _, ok := aliasesIn(m.Answer).follow(q.name)
	if !ok || end == mdns.CanonicalName(q.name) || m.Rcode != mdns.RcodeSuccess || negativeTTL(m) != longest {
		return ""
	}
	for _, rr := range m.Answer {
		if rr.Header().Rrtype == q.qtype && mdns.CanonicalName(rr.Header().Name) == end {
			return ""
		}
	}
	return end
}

// aliasRecords are the aliases that m's answer has.
func aliasRecords(m *mdns.Msg) []mdns.RR {
	return slices.DeleteFunc(slices.Clone(m.Answer), func(rr mdns.RR) bool { return rr.Header().Rrtype != mdns.TypeCNAME })
}

// address is the address in an A or AAAA record; false for any other record and
// for an address that cannot be dialled.
func address(rr mdns.RR) (netip.Addr, bool) {
	var ip net.IP
	switch rr := rr.(type) {
	case *mdns.A:
		ip = rr.A
	case *mdns.AAAA:
		ip = rr.AAAA
	}
	addr, ok := netip.AddrFromSlice(ip)
	addr = addr.Unmap()
	return addr, ok && diallable(addr)
}

// diallable refuses the addresses that are no one host's. The unspecified address
// is one of those: to dial it reaches this very host.
func diallable(addr netip.Addr) bool {
	return !addr.IsUnspecified() && !addr.IsMulticast() && addr != broadcast
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// hostAnswer is what a message says of a host's addresses of one family.
type hostAnswer struct {
	addrs []netip.Addr
	end   string // the name that they are of, at the end of all aliases
	ttl   time.Duration
	note  string // why there are none, if the message is odd
}

// parseHost reads the addresses of q from m, through aliases.
func parseHost(m *mdns.Msg, q dnsQuestion) hostAnswer {
	end, shortest, ok := aliasesIn(m.Answer).follow(q.name)
	if !ok {
		return hostAnswer{ttl: negativeTTL(m), note: fmt.Sprintf("%s is a chain of more than %d aliases", q.name, maxChain)}
	}
	found := hostAnswer{end: end, ttl: shortest}
	for _, rr := range m.Answer {
		if rr.Header().Rrtype != q.qtype || mdns.CanonicalName(rr.Header().Name) != end {
			continue
		}
		if addr, ok := address(rr); ok {
			found.addrs = append(found.addrs, addr)
			found.ttl = min(found.ttl, ttl(rr.Header()))
		}
	}
	if len(found.addrs) == 0 {
		found.ttl = min(shortest, negativeTTL(m))
	}
	return found
}

// serviceAnswer is what a message says of a service.
type serviceAnswer struct {
	endpoints []resolver.Endpoint
	end       string // the name that has the records, at the end of all aliases
	ttl       time.Duration
	records   int                // SRV records seen, good or not
	none      bool               // a record says that there is no such service here
	odd       string             // why there are no records, if the message is odd
	leftOut   []resolver.LeftOut // records that cannot be used
}

func (s *serviceAnswer) note() string {
	if s.none && len(s.endpoints) == 0 && len(s.leftOut) == 0 {
		return `the service is not offered (its SRV target is ".")`
	}
	return s.odd
}

// answer is what there is to publish. Records come in any order: which of many are
// left out by name must not depend on that.
func (s *serviceAnswer) answer() resolver.Answer {
	slices.SortFunc(s.leftOut, answer.CompareLeftOut)
	var leftOut answer.LeftOut
	for _, one := range s.leftOut {
		leftOut.Add(one)
	}
	return leftOut.Answer(s.endpoints, s.note())
}

// parseService reads the SRV records of name from m. Addresses that came along
// belong to the target that bears their owner's name: their order means nothing.
// A target without any becomes an endpoint by name; one with several, an endpoint
// for each.
func parseService(m *mdns.Msg, name string) serviceAnswer {
	end, shortest, ok := aliasesIn(m.Answer).follow(name)
	if !ok {
		note := fmt.Sprintf("%s is a chain of more than %d aliases", name, maxChain)
		return serviceAnswer{ttl: negativeTTL(m), odd: note}
	}
	found := serviceAnswer{end: end, ttl: shortest}
	glue := glueIn(m)
	for _, rr := range m.Answer {
		srv, ok := rr.(*mdns.SRV)
		if !ok || mdns.CanonicalName(srv.Hdr.Name) != end {
			continue
		}
		found.records++
		found.ttl = min(found.ttl, ttl(&srv.Hdr))
		if len(found.endpoints) < maxExpanded {
			found.add(srv, glue)
		}
	}
	if found.records == 0 {
		found.ttl = min(shortest, negativeTTL(m))
	}
	slices.SortFunc(found.endpoints, compareServices)
	found.endpoints = slices.Compact(found.endpoints)
	return found
}

func (s *serviceAnswer) add(srv *mdns.SRV, glue glue) {
	target := strings.ToLower(srv.Target)
	name := strings.TrimSuffix(target, ".")
	switch {
	case target == ".": // RFC 2782: decidedly no such service
		s.none = true
		return
	case srv.Port == 0:
		s.leaveOut(name, "has port 0 in its SRV record")
		return
	}
	endpoint := resolver.Endpoint{
		Name:     name,
		Priority: srv.Priority,
		Weight:   srv.Weight,
	}
	addrs, shortest := glue.find(target)
	if len(addrs) > 0 {
		s.ttl = min(s.ttl, shortest)
		for _, addr := range addrs {
			endpoint.Addr = netip.AddrPortFrom(addr, srv.Port)
			s.endpoints = append(s.endpoints, endpoint)
		}
		return
	}
	// Some servers put an address where a name belongs; ParseHostPort knows both,
	// and refuses what is neither before it gets anywhere near a log.
	q, err := resolver.ParseHostPort(net.JoinHostPort(endpoint.Name, strconv.Itoa(int(srv.Port))))
	switch {
	case err != nil:
		s.leaveOut(name, "is an SRV target that is not a host name")
		return
	case q.Scheme == resolver.SchemeStatic:
		endpoint.Addr = q.AddrPort()
	default:
		endpoint.Host, endpoint.Port = target, srv.Port // with its final dot: no search list
	}
	s.endpoints = append(s.endpoints, endpoint)
}

func (s *serviceAnswer) leaveOut(name, why string) {
	s.leftOut = append(s.leftOut, resolver.LeftOut{Name: name, Why: why})
}

// glue is the addresses that came along with SRV records.
type glue struct {
	aliases aliases
	records map[string][]mdns.RR
}

func glueIn(m *mdns.Msg) glue {
	g := glue{aliases: aliasesIn(m.Extra), records: map[string][]mdns.RR{}}
	for _, rr := range m.Extra {
		if _, ok := address(rr); ok {
			owner := mdns.CanonicalName(rr.Header().Name)
			g.records[owner] = append(g.records[owner], rr)
		}
	}
	return g
}

func (g glue) find(target string) (addrs []netip.Addr, shortest time.Duration) {
	end, shortest, ok := g.aliases.follow(target)
	if !ok {
		return nil, longest
	}
	for _, rr := range g.records[end] {
		addr, _ := address(rr)
		addrs = append(addrs, addr)
		shortest = min(shortest, ttl(rr.Header()))
	}
	return addrs, shortest
}

// compareServices orders endpoints by priority, then so that equal answers are
// published in equal order.
func compareServices(a, b resolver.Endpoint) int {
	return cmp.Or(
		cmp.Compare(a.Priority, b.Priority),
		cmp.Compare(a.Name, b.Name),
		a.Addr.Compare(b.Addr),
		cmp.Compare(a.Port, b.Port),
		cmp.Compare(b.Weight, a.Weight),
	)
}
