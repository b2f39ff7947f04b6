package resolver

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// parseList reads HOST:PORT [WEIGHT], or several with commas between them.
func parseList(text string) (Choice, error) {
	items := strings.Split(text, ",")
	if len(items) > maxListItems {
		return Choice{}, syntaxError(text[:32]+"…", 0, "keep a list this long in a registry",
			"%d items; the most is %d", len(items), maxListItems)
	}
	c := Choice{Queries: make([]Query, 0, len(items)), Weights: make([]uint16, 0, len(items))}
	offset := 0
	for _, item := range items {
		q, weight, err := listItem(text, offset, item)
		if err != nil {
			return Choice{}, err
		}
		c.Queries, c.Weights = append(c.Queries, q), append(c.Weights, weight)
		offset += len(item) + 1
	}
	if !slices.ContainsFunc(c.Weights, func(w uint16) bool { return w != 1 }) {
		c.Weights = nil
	}
	return c, nil
}

// ParseItem reads one item of a list, HOST:PORT or HOST:PORT WEIGHT: a static query for
// an IP address, a DNS query for a name; and its weight, 1 if it has none. Sources that
// find lists in a registry read them with it.
func ParseItem(text string) (Query, uint16, error) { return listItem(text, 0, text) }

// ParseHostPort is ParseItem for HOST:PORT alone.
func ParseHostPort(text string) (Query, error) { return hostPort(text, 0, text) }

// listItem reads item, which starts at offset of text.
func listItem(text string, offset int, item string) (Query, uint16, error) {
	place, rest := item, ""
	if colon := strings.LastIndexByte(item, ':'); colon >= 0 {
		if i := strings.IndexFunc(item[colon:], unicode.IsSpace); i >= 0 {
			place, rest = item[:colon+i], item[colon+i:]
		}
	}
	q, err := hostPort(text, offset, place)
	if err != nil {
		return Query{}, 0, err
	}
	at := offset + len(item) - len(strings.TrimLeftFunc(rest, unicode.IsSpace))
	words := strings.Fields(rest)
	if len(words) == 0 {
		return q, 1, nil
	}
	weight, err := strconv.ParseUint(words[0], 10, 16)
	if err != nil {
		return Query{}, 0, syntaxError(text, at, weightHint, "%.32q is not a weight from 0 to 65535", words[0])
	}
	if len(words) > 1 {
		at += len(words[0]) + strings.Index(text[at+len(words[0]):], words[1])
		return Query{}, 0, syntaxError(text, at, weightHint, "%.32q follows the weight", words[1])
	}
	return q, uint16(weight), nil
}

// hostPort reads item, which starts at offset of text.
func hostPort(text string, offset int, item string) (Query, error) {
	trimmed := strings.TrimSpace(item)
	offset += strings.Index(item, trimmed)
	colon := strings.LastIndexByte(trimmed, ':')
	switch {
	case trimmed == "":
		return Query{}, syntaxError(text, offset, "remove the extra comma, or "+hostPortHint, "an empty item")
	case colon < 0:
		return Query{}, syntaxError(text, offset+len(trimmed), hostPortHint, "%q has no port", trimmed)
	case colon == 0:
		return Query{}, syntaxError(text, offset, hostPortHint, "no host before the port")
	}
	host, portText := trimmed[:colon], trimmed[colon+1:]
	port, ok := parsePort(portText)
	if !ok {
		return Query{}, syntaxError(text, offset+colon+1, "a port is a number from 1 to 65535",
			"%q is not a port", portText)
	}
	if bare, ok := strings.CutPrefix(host, "["); ok {
		ip, err := netip.ParseAddr(strings.TrimSuffix(bare, "]"))
		if err != nil || !strings.HasSuffix(host, "]") || !ip.Is6() {
			return Query{}, syntaxError(text, offset, hostPortHint, "%q is not an IPv6 address in brackets", host)
		}
		return Query{Scheme: SchemeStatic, Host: ip.String(), Port: port}, nil
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.Is6() {
			return Query{}, syntaxError(text, offset, "write ["+host+"]:"+portText,
				"an IPv6 address needs brackets before its port")
		}
		return Query{Scheme: SchemeStatic, Host: ip.String(), Port: port}, nil
	}
	if strings.Contains(host, ":") {
		return Query{}, syntaxError(text, offset, hostPortHint, "%q is neither a name nor an address", host)
	}
	if err := checkHostname(text, offset, host); err != nil {
		return Query{}, err
	}
	return Query{Scheme: SchemeDNS, Host: strings.ToLower(host), Port: port}, nil
}

// parsePort reads a port as people write it: digits alone, 1 to 65535.
func parsePort(text string) (uint16, bool) {
	for _, c := range []byte(text) {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err == nil && n != 0
}

// checkHostname accepts what DNS can carry (RFC 1035, with the underscore that
// SRV names and container names use) and refuses numbers that were meant to be
// an IPv4 address.
func checkHostname(text string, offset int, name string) error {
	const fix = "a name has letters, digits, '-', '_' and '.', at most 63 to a label and 253 in all"
	dotless := strings.TrimSuffix(name, ".")
	if dotless == "" || len(dotless) > 253 {
		return syntaxError(text, offset, fix, "a name of %d characters", len(dotless))
	}
	start := 0
	var label string
	for label = range strings.SplitSeq(dotless, ".") {
		if label == "" || len(label) > 63 {
			return syntaxError(text, offset+start, fix, "a label of %d characters in the name %q", len(label), name)
		}
		for i, c := range label {
			if c >= utf8.RuneSelf || !hostnameByte(byte(c)) {
				return syntaxError(text, offset+start+i, fix, "%q cannot stand in a name", c)
			}
		}
		start += len(label) + 1
	}
	if strings.Trim(label, "0123456789") == "" {
		return syntaxError(text, offset, targetHint, "%q is neither an IPv4 address nor a name", name)
	}
	return nil
}

func hostnameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}
