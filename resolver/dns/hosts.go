package dns

import (
	"bufio"
	"io"
	"net/netip"
	"slices"
	"strings"
)

// hosts is a hosts(5) file: lower-case names without a final dot → addresses.
// Docker writes the aliases of --link there.
type hosts map[string][]netip.Addr

// parseHosts skips lines it cannot read, as the C library does.
func parseHosts(r io.Reader) (hosts, error) {
	h := hosts{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
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
	return h, lines.Err()
}

// find returns the addresses of name. localhost and the names below it are
// loopback even when the file does not say so (RFC 6761, section 6.3).
func (h hosts) find(name string) []netip.Addr {
	name = hostsName(name)
	if addrs := h[name]; len(addrs) > 0 {
		return addrs
	}
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	return nil
}

func hostsName(name string) string {
	return strings.ToLower(strings.TrimSuffix(name, "."))
}
