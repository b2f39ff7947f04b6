package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/suggest"
)

// places are the words for several addresses.
var places = map[string]class{
	"loopback": loopback, "link-local": linkLocal, "metadata": metadata, "host": host | loopback, "own": own,
}

// Places lists the words that ParsePlace takes beside networks.
func Places() []string { return []string{"loopback", "link-local", "metadata", "host", "own"} }

// ParsePlace reads a network, an address, or a word of Places.
func ParsePlace(text string) (Place, error) {
	text = strings.TrimSpace(text)
	if c, ok := places[text]; ok {
		return Place{text: text, class: c}, nil
	}
	if addr, err := netip.ParseAddr(unbracketed(text)); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return Place{text: text, prefix: netip.PrefixFrom(addr, addr.BitLen())}, nil
	}
	prefix, err := netip.ParsePrefix(text)
	switch mapped := err == nil && prefix.Addr().Is4In6(); {
	case mapped && prefix.Bits() < 96:
		return Place{}, hint.Errorf("write the IPv4 network, such as 10.0.0.0/8", "%q: IPv4 addresses that are mapped into IPv6 are IPv4 addresses here", text)
	case mapped:
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
	}
	if err == nil {
		return Place{text: text, prefix: prefix.Masked()}, nil
	}
	fix := "write a network such as 10.0.0.0/8, an address, or one of " + strings.Join(Places(), ", ")
	if s := suggest.Closest(text, Places()); s != "" {
		fix = "did you mean " + s + "?"
	} else if isHost(strings.TrimSuffix(text, ".")) && fits(text, containerRune) {
		fix += "; a name is matched as it is written in targets, by target: or registry:"
	}
	return Place{}, hint.Errorf(fix, "%q is neither a network nor a word for one", text)
}

// ParsePorts reads a port, or a range such as 8000-8999.
func ParsePorts(text string) (PortRange, error) {
	from, to, ranged := strings.Cut(strings.TrimSpace(text), "-")
	if !ranged {
		to = from
	}
	a, errA := strconv.ParseUint(from, 10, 16)
	b, errB := strconv.ParseUint(to, 10, 16)
	if errA != nil || errB != nil || a == 0 || a > b {
		return PortRange{}, hint.Errorf("write a port from 1 to 65535, or a range such as 8000-8999", "%q is neither a port nor a range of them", text)
	}
	return PortRange{uint16(a), uint16(b)}, nil
}

// ParseFlag reads what --allow and --deny take: a place, and after a colon ports.
func ParseFlag(text string) (Place, []PortRange, error) {
	where, ports := cutPorts(text)
	place, err := ParsePlace(where)
	if err != nil {
		return place, nil, err
	}
	var ranges []PortRange
	if ports != "" {
		r, err := ParsePorts(ports)
		if err != nil {
			return place, nil, err
		}
		ranges = append(ranges, r)
	}
	return place, ranges, nil
}

// cutPorts splits PLACE:PORTS. A colon of an IPv6 address is none of these.
func cutPorts(text string) (place, ports string) {
	at := strings.LastIndexByte(text, ':')
	if at < 0 {
		return text, ""
	}
	slash, bracket := strings.LastIndexByte(text, '/'), strings.LastIndexByte(text, ']')
	if at > max(slash, bracket) && (slash >= 0 || bracket >= 0 || strings.Count(text, ":") == 1) {
		return text[:at], text[at+1:]
	}
	return text, ""
}

// ParseAction reads allow, deny or audit.
func ParseAction(text string) (Action, error) {
	for _, a := range []Action{Allow, Deny, Audit} {
		if text == a.String() {
			return a, nil
		}
	}
	return Deny, choice(text, "action", []string{"allow", "deny", "audit"})
}

// ParseKind reads the kind of a target.
func ParseKind(text string) (string, error) {
	if slices.Contains(Kinds(), text) {
		return text, nil
	}
	return "", choice(text, "kind of target", Kinds())
}

// ParseDeclarer reads who declares.
func ParseDeclarer(text string) (Declarer, error) {
	words := make([]string, 0, len(Declarers()))
	for _, d := range Declarers() {
		if text == string(d) {
			return d, nil
		}
		words = append(words, string(d))
	}
	return "", choice(text, "declarer", words)
}

// ParseLabel reads K=V, or K for any value.
func ParseLabel(text string) (string, error) {
	if text == "" || strings.HasPrefix(text, "=") {
		return "", hint.Errorf("write a label as app=web", "%q names no label", text)
	}
	return text, nil
}

func choice(got, what string, words []string) error {
	fix := "give one of " + strings.Join(words, ", ")
	if s := suggest.Closest(got, words); s != "" {
		fix = fmt.Sprintf("did you mean %s?", s)
	}
	return hint.Errorf(fix, "%q is no %s", got, what)
}
