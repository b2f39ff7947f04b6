package resolver

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/shorten"
)

// Bounds on what one declaration may ask for; far above any real use.
const (
	maxTargetBytes = 4096
	maxListItems   = 256
	maxChoices     = 16
)

// SyntaxError is a target that does not parse, and where.
type SyntaxError struct {
	// Text is the whole target as it was written.
	Text string
	// Column is where the trouble starts, counted in bytes from 1.
	Column int
	// Msg says what is wrong there.
	Msg string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("target %q, column %d: %s", shorten.Text(e.Text, maxShown), e.Column, e.Msg)
}

// maxShown is how many bytes of what somebody wrote a message quotes in one place.
const maxShown = 256

func syntaxError(text string, offset int, fix, format string, args ...any) error {
	return hint.Wrap(&SyntaxError{Text: text, Column: offset + 1, Msg: shorten.Text(fmt.Sprintf(format, args...), maxShown)},
		shorten.Text(fix, maxShown))
}

const (
	hostPortHint = "write HOST:PORT, for example redis.example.com:6379 or [2001:db8::7]:6379"
	targetHint   = "write HOST:PORT, a list a:6379,b:6379, a service's DNS name, or SCHEME://…"
	weightHint   = "write HOST:PORT, or HOST:PORT WEIGHT, and a comma between two of them"
	chainHint    = "write T1 | T2; a | that belongs to an URL is written %7C"
)

// Parse reads the grammar of targets:
//
//	192.168.1.100:8080, [2001:db8::7]:8080   one address
//	redis.example.com:6379                   every A and AAAA record
//	a:6379,b:6379 3                          each of the list, b with three times the weight
//	redis.service.consul                     SRV records
//	dns://SERVER:PORT/NAME:PORT              the same of a DNS server of one's own choice
//	srv://SERVER:PORT/NAME
//	SCHEME://HOST:PORT/PATH?PARAMS           whatever the scheme's source reads
//	T1 | T2                                  the first of them that has endpoints
//
// It knows the forms, not the schemes: Resolver.Parse also asks the source
// whether the query makes sense. A mistake is a *SyntaxError with a hint.
func Parse(text string) (Target, error) {
	t, _, err := parse(text)
	return t, err
}

// parse is Parse that also tells at which byte of text each choice starts.
func parse(text string) (Target, []int, error) {
	if len(text) > maxTargetBytes {
		return Target{}, nil, syntaxError(text[:32]+"…", maxTargetBytes, "shorten it, or keep the list in a registry",
			"longer than %d bytes", maxTargetBytes)
	}
	parts := strings.Split(text, "|")
	if len(parts) > maxChoices {
		return Target{}, nil, syntaxError(text, 0, "keep a chain this long in a registry",
			"a chain of %d targets; the most is %d", len(parts), maxChoices)
	}
	t := Target{Choices: make([]Choice, 0, len(parts))}
	starts := make([]int, 0, len(parts))
	offset := 0
	for _, part := range parts {
		if len(parts) > 1 && strings.TrimSpace(part) == "" {
			return Target{}, nil, syntaxError(text, offset, chainHint, "a | without a target on both sides")
		}
		c, err := parseChoice(part)
		if err != nil {
			if len(parts) > 1 {
				err = relocate(err, text, offset)
			}
			return Target{}, nil, err
		}
		t.Choices, starts = append(t.Choices, c), append(starts, offset)
		offset += len(part) + 1
	}
	return t, starts, nil
}

// relocate makes a mistake in the part of text that starts at offset one of text.
func relocate(err error, text string, offset int) error {
	if e, ok := errors.AsType[*SyntaxError](err); ok {
		e.Text, e.Column = text, e.Column+offset
	}
	return err
}

func parseChoice(text string) (Choice, error) {
	if strings.TrimSpace(text) == "" {
		return Choice{}, syntaxError(text, 0, targetHint, "nothing to connect to")
	}
	if i := strings.Index(text, "://"); i >= 0 {
		q, err := parseURL(text, i)
		return Choice{Queries: []Query{q}}, err
	}
	if !strings.ContainsAny(text, ",:") {
		q, err := parseName(text)
		return Choice{Queries: []Query{q}}, err
	}
	return parseList(text)
}

// parseName reads a target without a scheme that is neither a list nor has a port.
func parseName(text string) (Query, error) {
	name := strings.TrimSpace(text)
	lead := strings.Index(text, name)
	if _, err := netip.ParseAddr(name); err == nil {
		return Query{}, syntaxError(text, lead+len(name), hostPortHint, "an address needs a port")
	}
	if err := checkHostname(text, lead, name); err != nil {
		return Query{}, err
	}
	return Query{Scheme: SchemeSRV, Host: strings.ToLower(name)}, nil
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
		for i, c := range []byte(label) {
			if !hostnameByte(c) {
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

// parseURL reads SCHEME://HOST:PORT/PATH?PARAMS; the "://" stands at i.
func parseURL(text string, i int) (Query, error) {
	switch strings.ToLower(strings.TrimSpace(text[:i])) {
	case SchemeDNS, SchemeSRV:
		return parseDNS(text, i)
	}
	u, err := url.Parse(strings.TrimSpace(text))
	if err != nil {
		cause := err
		if inner, ok := err.(*url.Error); ok { //nolint:errorlint // url.Parse documents this type, unwrapped
			cause = inner.Err
		}
		return Query{}, syntaxError(text, i+3, "write "+text[:i]+"://HOST:PORT/PATH?PARAM=VALUE", "%v", cause)
	}
	if u.Scheme == "" || u.Opaque != "" {
		return Query{}, syntaxError(text, 0, "write SCHEME://…, for example docker://web:80", "no scheme before ://")
	}
	if u.Scheme == SchemeStatic {
		return Query{}, syntaxError(text, 0, targetHint, "%s:// is no scheme to write", u.Scheme)
	}
	if host := u.Hostname(); strings.ContainsFunc(host, notInHost) {
		if ip, err := netip.ParseAddr(host); err != nil || !ip.Is6() || ip.Zone() != "" {
			return Query{}, syntaxError(text, i+3, hostPortHint, "%q is neither a name nor an address", host)
		}
	}
	if u.User != nil {
		return Query{}, syntaxError(text, i+3, "give credentials to the daemon, not in a target", "a user name in a target")
	}
	if u.Fragment != "" {
		return Query{}, syntaxError(text, strings.IndexByte(text, '#'), "write %23 for a literal #", "a fragment has no meaning here")
	}
	params, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Query{}, syntaxError(text, strings.IndexByte(text, '?')+1, "write ?NAME=VALUE&NAME=VALUE", "%v", err)
	}
	q := Query{
		Scheme: u.Scheme,
		Host:   u.Hostname(),
		Path:   strings.TrimPrefix(u.Path, "/"),
		Params: params.Encode(),
	}
	if portText := u.Port(); portText != "" {
		port, ok := parsePort(portText)
		if !ok {
			return Query{}, syntaxError(text, strings.LastIndex(text, portText), "a port is a number from 1 to 65535",
				"%q is not a port", portText)
		}
		q.Port = port
	}
	return q, nil
}

// notInHost reports whether r in a host would be taken for something else when the
// target is written again.
func notInHost(r rune) bool { return r <= ' ' || strings.ContainsRune(":[]/?#@%|", r) }
