package resolver

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
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
	dnsURLHint   = "write dns://SERVER/NAME:PORT for addresses, dns://SERVER/NAME or srv://SERVER/NAME for SRV records"
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
		return Query{}, syntaxError(text, i+3, "write "+strings.TrimSpace(text[:i])+"://HOST:PORT/PATH?PARAM=VALUE", "%v", cause)
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
