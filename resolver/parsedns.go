package resolver

import (
	"net/netip"
	"strings"
)

const dnsURLHint = "write dns://SERVER/NAME:PORT for addresses, dns://SERVER/NAME or srv://SERVER/NAME for SRV records"

// parseDNS reads dns://[SERVER[:PORT]]/NAME[:PORT] and srv://[SERVER[:PORT]/]NAME;
// the "://" stands at i. Both parts are read as the forms without a scheme are,
// so that the same names are refused, at exact columns. Nothing is looked up.
func parseDNS(text string, i int) (Query, error) {
	scheme := strings.ToLower(strings.TrimSpace(text[:i]))
	offset := i + len("://")
	authority, name, slash := strings.Cut(text[offset:], "/")
	switch {
	case slash:
	case scheme == SchemeDNS:
		return Query{}, syntaxError(text, len(text), dnsURLHint+"; to ask the system's servers leave out dns://",
			"nothing after the DNS server %q", authority)
	default:
		authority, name = "", authority
	}
	server, err := dnsServer(text, offset, authority)
	if err != nil {
		return Query{}, err
	}
	if slash {
		offset += len(authority) + 1
	}
	q, err := dnsName(text, offset, name, scheme)
	q.Server = server
	return q, err
}

// dnsServer reads the server's part as host:port; "" stays "", the system's.
func dnsServer(text string, offset int, authority string) (string, error) {
	if authority == "" {
		return "", nil
	}
	if ip, err := netip.ParseAddr(authority); err == nil && ip.Is6() {
		return "", syntaxError(text, offset, "write ["+authority+"]", "an IPv6 address needs brackets here")
	}
	if strings.LastIndexByte(authority, ':') <= strings.LastIndexByte(authority, ']') {
		authority += ":53"
	}
	q, err := hostPort(text, offset, authority)
	return q.HostPort(), err
}

// dnsName reads what the server is asked for: with a port addresses, without one
// SRV records.
func dnsName(text string, offset int, name, scheme string) (Query, error) {
	trimmed := strings.TrimSpace(name)
	offset += strings.Index(name, trimmed)
	colon := strings.LastIndexByte(trimmed, ':')
	if _, err := netip.ParseAddr(trimmed); err == nil {
		return Query{}, syntaxError(text, offset, dnsURLHint, "%s is an address, not a DNS name", trimmed)
	}
	switch {
	case colon < 0:
		if err := checkHostname(text, offset, trimmed); err != nil {
			return Query{}, err
		}
		return Query{Scheme: SchemeSRV, Host: strings.ToLower(trimmed)}, nil
	case scheme == SchemeSRV:
		return Query{}, syntaxError(text, offset+colon, "leave the port out, or write dns:// for addresses",
			"SRV records bring their own ports")
	}
	q, err := hostPort(text, offset, trimmed)
	if err == nil && q.Scheme != SchemeDNS {
		return Query{}, syntaxError(text, offset, "write "+q.HostPort()+" alone", "%s is an address, not a DNS name", q.Host)
	}
	return q, err
}
