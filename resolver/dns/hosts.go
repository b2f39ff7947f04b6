package dns

import (
	"net/netip"
	"slices"
	"strings"
)

// hosts is a hosts(5) file: lower-case names without a final dot → addresses.
// Docker writes the aliases of --link there.
type hosts map[string][]netip.Addr

// parseHosts skips lines it cannot read, as the C library does.
func parseHosts(text string) hosts {
	h := hosts{}
	for line := range strings.Lines(text) {
		line, _, _ := strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(fields[0])
		if err != nil {
			continue
		}
		for _, name := range fields[1:] {
			name = hostsName(name)
			if !slices.Contains(h[name], addr) {
				h[name] = append(h[name], addr)
			}
		}
	}
	return h
}

// find returns the addresses of name that can be dialled, and whether name is in
// the file at all: a name that it sends to 0.0.0.0 is blocked, and not for DNS to
// answer. localhost and the names below it are loopback even when the file does
// not say so (RFC 6761, section 6.3).
func (h hosts) find(name string) (addrs []netip.Addr, known bool) {
	name = hostsName(name)
	if all := h[name]; len(all) > 0 {
		for _, addr := range all {
			if diallable(addr) {
				addrs = append(addrs, addr)
			}
		}
		return addrs, true
	}
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, true
	}
	return nil, false
}

func hostsName(name string) string {
	return strings.ToLower(strings.TrimSuffix(name, "."))
}
