package policy

import (
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// ParsePattern reads a pattern of names. One that no name can match is refused.
func ParsePattern(text string) (string, error) {
	const fix = `write a name, or a pattern of *, ? and [a-z]`
	if _, err := path.Match(strings.ReplaceAll(text, "/", "\x00"), ""); err != nil || text == "" {
		return "", hint.Errorf(fix, "%q is no pattern", text)
	}
	for _, e := range elements(text) {
		if e.empty {
			return "", hint.Errorf("write the first of a range first, as in [a-z]", "%q has a range that nothing is in", text)
		}
	}
	return text, nil
}

// ParseContainer reads a pattern of containers' names.
func ParseContainer(text string) (string, error) {
	if strings.HasPrefix(text, "/") {
		return "", hint.Errorf("leave out the / before the name", "no container's name is like %q", text)
	}
	return parseOf(text, containerRune, "a container's name has letters, digits, '.', '_' and '-'; write one, or a pattern of *, ? and [a-z]", "no container's name is like %q")
}

// ParseNetwork reads the name of an engine's network.
func ParseNetwork(text string) (string, error) {
	if _, err := netip.ParsePrefix(text); err == nil {
		return "", hint.Errorf("write the name of a network of the engine's; to: takes addresses", "%q is no network's name", text)
	}
	return ParseWord(text)
}

// ParseWord reads a name that is no pattern.
func ParseWord(text string) (string, error) {
	if text == "" || strings.ContainsAny(text, "*?") {
		return "", hint.Errorf("write the name out", "%q is no name", text)
	}
	return text, nil
}

// ParseImage reads a pattern of images.
func ParseImage(text string) (string, error) {
	if strings.ContainsAny(text, " \t") || strings.Contains(text, "://") {
		return "", hint.Errorf("write it as docker run names it, such as registry.example/team/web:1, or a pattern such as registry.example/*", "no image is named like %q", text)
	}
	return ParsePattern(text)
}

// scheme is what begins a whole target.
var scheme = regexp.MustCompile(`^[a-zA-Z][a-zA-Z-]*://`)

// ParseTarget reads a pattern of what targets name: a host, a service, a container, a path.
func ParseTarget(text string) (string, error) {
	if s := scheme.FindString(text); s != "" {
		return "", hint.Errorf("write what comes after it, without a port, and kind: for the scheme", "no name that a target has begins with %q", s)
	}
	if addr, err := netip.ParseAddr(unbracketed(text)); err == nil {
		return canonicalHost(addr.String()), nil
	}
	if _, err := ParsePattern(withoutDot(text)); err != nil {
		return "", err
	}
	return ParsePattern(text)
}

// withoutDot is a pattern of hosts without the dot at its end, which is no part of what a
// DNS name is matched as.
func withoutDot(pattern string) string {
	if host, ok := strings.CutSuffix(pattern, `\.`); ok {
		return host
	}
	return strings.TrimSuffix(pattern, ".")
}

// ParseRegistry reads a pattern of servers: HOST, or HOST:PORT.
func ParseRegistry(text string) (string, error) {
	const fix = "write the server alone, with or without its port, such as 10.9.9.9:8500, [2001:db8::7]:8500, consul.example or 10.9.9.*"
	switch {
	case scheme.MatchString(text):
		return "", hint.Errorf(fix+"; kind: says the scheme", "%q is no server", text)
	case strings.Contains(text, "/"):
		return "", hint.Errorf(fix+"; to: takes networks", "%q is no server", text)
	}
	if host, err := netip.ParseAddr(unbracketed(text)); err == nil {
		return escaped(canonicalHost(host.String())), nil
	}
	if server, err := netip.ParseAddrPort(text); err == nil {
		if server.Port() == 0 {
			return "", notAPort(fix, "0")
		}
		return escaped(canonicalHost(server.Addr().String())) + ":" + strconv.Itoa(int(server.Port())), nil
	}
	if _, err := ParsePattern(text); err != nil {
		return "", err
	}
	none := hint.Errorf(fix, "no server is named like %q", text)
	if address, port, ok := bracketed(text); ok {
		if port != "" && (!fits(port, portRune) || isPlain(port) && !isPort(port)) {
			return "", notAPort(fix, port)
		}
		return addressPattern(address, port, none)
	}
	if isOfIPv6(text) {
		if isPlain(text) || text[0] == '[' || !fits(text, bracketRune) {
			return "", none
		}
		if err := impossibleAddress(text); err != nil {
			return "", err
		}
		return text, nil
	}
	host, port := text, ""
	if colon := lastColon(text); colon >= 0 {
		host, port = text[:colon], text[colon+1:]
		if !fits(port, portRune) || isPlain(port) && !isPort(port) {
			return "", notAPort(fix, port)
		}
	}
	name := strings.TrimSuffix(host, ".")
	if host == "" || !fits(host, containerRune) || isPlain(name) && !isHost(name) {
		return "", none
	}
	if port != "" {
		name += ":" + port
	}
	return name, nil
}

// bracketed takes apart a pattern of an IPv6 address in brackets, which path.Match would take
// for a class, and of a port after it; "" is none.
func bracketed(text string) (address, port string, ok bool) {
	inner, ok := strings.CutPrefix(text, "[")
	if !ok {
		return "", "", false
	}
	is := func(address string) bool { // the address may have classes of its own
		_, err := ParsePattern(address)
		return err == nil && isOfIPv6(address)
	}
	if end := strings.LastIndex(inner, "]:"); end >= 0 && end+2 < len(inner) && is(inner[:end]) {
		return inner[:end], inner[end+2:], true
	}
	address, ok = strings.CutSuffix(inner, "]")
	return address, "", ok && is(address)
}

// addressPattern is the pattern of a server at an IPv6 address, itself a pattern, and at a
// port; "" is any. none is the error of one that is no address.
func addressPattern(address, port string, none error) (string, error) {
	if isPlain(address) {
		addr, err := netip.ParseAddr(address)
		if err != nil {
			return "", none
		}
		address = escaped(canonicalHost(addr.String()))
	} else {
		if !fits(address, addressRune) {
			return "", none
		}
		if err := impossibleAddress(address); err != nil {
			return "", err
		}
		address = escaped(address)
	}
	if port != "" {
		address += ":" + port
	}
	return address, nil
}

// isOfIPv6 reports whether a pattern of hosts is of IPv6 addresses: it has two colons.
func isOfIPv6(pattern string) bool {
	colons := 0
	for _, e := range elements(pattern) {
		if e.r == ':' {
			colons++
		}
	}
	return colons > 1
}

// impossibleAddress says why no IPv6 address, as netip writes it, is like pattern.
func impossibleAddress(pattern string) error {
	all := elements(pattern)
	for i, e := range all {
		switch {
		case e.r == '.':
			return hint.Errorf("write its groups of hexadecimal digits, such as 64:ff9b::a09:*; an address that is mapped into IPv6 is matched as IPv4: 10.9.*",
				"no IPv6 address is matched with a dot: %q", pattern)
		case e.r == '0' && (i == 0 || strings.ContainsRune(":[", all[i-1].r)) && i+1 < len(all) && isHex(all[i+1].r):
			return hint.Errorf("write no 0 at the beginning of a group, as in 2001:db8::*, and :: for the groups of nothing but 0",
				"no IPv6 address is matched with a group that begins with 0: %q", pattern)
		}
	}
	return nil
}

func isHex(r rune) bool { return r >= 0 && addressRune(r) && r != ':' && r != '.' }

func notAPort(fix, port string) error {
	return hint.Errorf(fix+"; a port is a number from 1 to 65535", "%q is no port", port)
}

// parseOf is ParsePattern of names that have no other runes than those of is.
func parseOf(text string, is func(rune) bool, fix, format string) (string, error) {
	if _, err := ParsePattern(text); err != nil {
		return "", err
	}
	if !fits(text, is) {
		return "", hint.Errorf(fix, format, text)
	}
	return text, nil
}

func letterOrDigit(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}
func containerRune(r rune) bool { return letterOrDigit(r) || strings.ContainsRune("._-", r) }
func portRune(r rune) bool      { return r >= '0' && r <= '9' }
func addressRune(r rune) bool   { return portRune(r) || strings.ContainsRune("abcdefABCDEF.:", r) }
func bracketRune(r rune) bool   { return addressRune(r) || r == '[' || r == ']' }

// isPlain reports whether pattern is a name that stands for itself.
func isPlain(pattern string) bool { return !strings.ContainsAny(pattern, `*?[\`) }

// isPort reports whether text is a port as servers are written with it.
func isPort(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && n > 0 && strconv.FormatUint(n, 10) == text
}

// isHost reports whether name can be a server's: one whose last label is a number is an
// address that is none, or a name that no target can have.
func isHost(name string) bool {
	labels := strings.Split(name, ".")
	return !slices.ContainsFunc(labels, func(l string) bool { return l == "" || len(l) > 63 }) && !strings.Contains(name, ":") &&
		strings.Trim(labels[len(labels)-1], "0123456789") != ""
}

// lastColon is where the last : of a pattern is that stands for itself, -1 if none does.
func lastColon(pattern string) int {
	at := -1
	for _, e := range elements(pattern) {
		if e.r == ':' {
			at = e.at
		}
	}
	return at
}

// element is what a pattern (path.Match) has of single runes.
type element struct {
	at    int
	r     rune // that stands for itself; -1 is a *, a ? or a class
	empty bool // it is a class that nothing is in
}

// elements takes a pattern apart, which path.Match takes.
func elements(pattern string) []element {
	var all []element
	for i := 0; i < len(pattern); {
		r, size := utf8.DecodeRuneInString(pattern[i:])
		e := element{at: i, r: r}
		i += size
		switch r {
		case '*', '?':
			e.r = -1
		case '\\':
			e.r, size = utf8.DecodeRuneInString(pattern[i:])
			i += size
		case '[':
			e.r = -1
			var some bool
			some, i = classAt(pattern, i)
			e.empty = !some
		}
		all = append(all, e)
	}
	return all
}

// classAt reads what follows a [ at i: whether something is in it, and where it ends.
func classAt(pattern string, i int) (some bool, end int) {
	negated := strings.HasPrefix(pattern[i:], "^")
	if negated {
		i++
	}
	for i < len(pattern) && pattern[i] != ']' {
		low, at := classRune(pattern, i)
		high := low
		if strings.HasPrefix(pattern[at:], "-") {
			high, at = classRune(pattern, at+1)
		}
		some, i = some || low <= high, at
	}
	return some || negated, i + 1
}

func classRune(pattern string, i int) (r rune, end int) {
	if strings.HasPrefix(pattern[i:], `\`) {
		i++
	}
	r, size := utf8.DecodeRuneInString(pattern[i:])
	return r, i + size
}

// fits reports whether a pattern can match a name that has no other runes than those of is.
func fits(pattern string, is func(rune) bool) bool {
	return !slices.ContainsFunc(elements(pattern), func(e element) bool { return e.r >= 0 && !is(e.r) })
}

// escaped is host as a pattern: an IPv6 address of a server stands in brackets, which
// path.Match would take for a class.
func escaped(host string) string {
	if strings.Contains(host, ":") {
		return `\[` + host + `\]`
	}
	return host
}

// unbracketed is text without the brackets around all of it.
func unbracketed(text string) string {
	if inner, ok := strings.CutPrefix(text, "["); ok && strings.HasSuffix(inner, "]") {
		return strings.TrimSuffix(inner, "]")
	}
	return text
}

// canonicalHost is a host of a target as it is matched: whoever writes targets chooses the
// case, the dot at the end, and how an address is written.
func canonicalHost(host string) string {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().WithZone("").String()
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// Impossible says which key of the rule, by its name in a file, has what no target can have
// together with the kinds of the rule; "" is none.
func (r *Rule) Impossible() (key string, err error) {
	if len(r.Registries) > 0 && len(r.Kinds) > 0 && !slices.ContainsFunc(r.Kinds, func(k string) bool { return slices.Contains(withServer(), k) }) {
		return "registry", hint.Errorf("leave one of them out; targets that may name a server are of the kinds "+strings.Join(withServer(), ", "),
			"no target of the kind %s names a server", strings.Join(r.Kinds, " or "))
	}
	for _, t := range r.Targets {
		if err := r.impossible(t); err != nil {
			return "target", err
		}
	}
	return "", nil
}

// impossible says why no target of the rule's kinds has a name like pattern.
func (r *Rule) impossible(pattern string) error {
	among := func(kinds ...string) bool { // that none but these are asked for
		return len(r.Kinds) > 0 && !slices.ContainsFunc(r.Kinds, func(k string) bool { return !slices.Contains(kinds, k) })
	}
	named := func(kinds ...string) bool {
		return slices.ContainsFunc(r.Kinds, func(k string) bool { return slices.Contains(kinds, k) })
	}
	first, rooted := elements(pattern)[0].r, strings.HasPrefix(pattern, "/")
	_, err := netip.ParseAddrPort(pattern)
	hosts := len(r.Kinds) > 0 && !named("consul", "etcd", "file") // what is named is hosts, services and containers
	switch host, port, ok := strings.Cut(pattern, ":"); {
	// Keys of Consul and etcd may end like a port. In brackets before a port nobody means a
	// class of one character, unless he says that it is a key's.
	case hosts && (err == nil || ok && host != "" && isPort(port) && fits(host, containerRune)), len(r.Kinds) == 0 && err == nil && pattern[0] == '[':
		return hint.Errorf("leave out the port here, and write it after port:", "the name in a target has no port: %q", pattern)
	case rooted && len(r.Kinds) > 0 && !named("file"):
		return hint.Errorf("leave out the / at the beginning, or write kind: file", "only files have a name like %q", pattern)
	case !rooted && first >= 0 && among("file"):
		return hint.Errorf("write the whole path, from / on", "no file has a name like %q", pattern)
	case rooted && path.Clean(pattern) != pattern:
		return hint.Errorf("write it without ., .., // and a / at its end; a * at the end is what is in a folder, such as /srv/lists/*", "no rule is about a path like %q", pattern)
	case hosts && isOfIPv6(pattern):
		return impossibleAddress(pattern)
	case among("static") && !fits(pattern, addressRune):
		return hint.Errorf("leave out kind: static, which is about addresses", "no address is like %q", pattern)
	}
	return nil
}
