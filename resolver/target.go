package resolver

import (
	"cmp"
	"iter"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Schemes of the forms that need none in their text.
const (
	SchemeStatic = "static" // ip:port
	SchemeDNS    = "dns"    // host:port
	SchemeSRV    = "srv"    // a bare name
)

// Target is what a client wants to reach. Parse makes it.
type Target struct {
	// Choices are the alternatives of a fallback chain (T1 | T2) in order of
	// preference; there is one where there is no chain.
	Choices []Choice
}

// Choice is one query, or for a list form (a:6379,b:6379) several whose endpoints
// are taken together.
type Choice struct {
	Queries []Query
	// Weights are how many times the weight that its source gives each endpoint of a
	// query has; nil when all are 1.
	Weights []uint16
}

// weight is that of the query at i.
func (c Choice) weight(i int) uint16 {
	if c.Weights == nil {
		return 1
	}
	return c.Weights[i]
}

// only is the query at i alone.
func (c Choice) only(i int) Choice {
	one := Choice{Queries: c.Queries[i : i+1]}
	if c.Weights != nil {
		one.Weights = c.Weights[i : i+1]
	}
	return one
}

// Queries yields the queries of all choices, in order.
func (t Target) Queries() iter.Seq[Query] {
	return func(yield func(Query) bool) {
		for _, c := range t.Choices {
			for _, q := range c.Queries {
				if !yield(q) {
					return
				}
			}
		}
	}
}

// ByClient reports whether t means something else to each client.
func (t Target) ByClient() bool {
	for q := range t.Queries() {
		if q.Client != "" {
			return true
		}
	}
	return false
}

// For is t as client means it, who is described in the words of the sources that tell
// clients apart (ByClient); "" is the host itself.
func (t Target) For(client string) Target {
	if !t.ByClient() {
		return t
	}
	client = cmp.Or(client, ForHost)
	choices := slices.Clone(t.Choices)
	for i := range choices {
		choices[i].Queries = slices.Clone(choices[i].Queries)
		for j := range choices[i].Queries {
			if q := &choices[i].Queries[j]; q.Client != "" {
				q.Client = client
			}
		}
	}
	return Target{Choices: choices}
}

// String is the target in canonical form.
func (t Target) String() string {
	parts := make([]string, len(t.Choices))
	for i, c := range t.Choices {
		parts[i] = c.String()
	}
	return strings.Join(parts, " | ")
}

// String is the choice in canonical form.
func (c Choice) String() string {
	parts := make([]string, len(c.Queries))
	for i, q := range c.Queries {
		parts[i] = q.String()
		if w := c.weight(i); w != 1 {
			parts[i] += " " + strconv.Itoa(int(w))
		}
	}
	return strings.Join(parts, ",")
}

// Query is one question to one source. It is comparable: equal queries share
// one watch.
type Query struct {
	// Scheme names the source.
	Scheme string
	// Host is the name or IP address that is asked for; of consul://HOST:PORT/path,
	// the agent's host. It may be empty.
	Host string
	// Port goes with Host; 0 when the text has none.
	Port uint16
	// Server is the HOST:PORT of the DNS server that a target of the schemes dns and
	// srv names; empty for the system's.
	Server string
	// Path is what follows the authority, without its leading slash.
	Path string
	// Params is the query string in canonical form (sorted by key).
	Params string
	// Client says who asks, where that decides what a name means: ForHost or, in the words
	// of Target.For, a client. It is "" for a query that means the same to all, and no part
	// of its text.
	Client string
}

// ForHost is the Client of a query that the host itself asks.
const ForHost = "host"

// Values are the query's parameters.
func (q Query) Values() url.Values {
	v, err := url.ParseQuery(q.Params)
	if err != nil { // Params is written by url.Values.Encode alone
		return url.Values{}
	}
	return v
}

// HostPort is Host and Port joined, or Host alone when there is no port.
func (q Query) HostPort() string {
	if q.Port == 0 {
		return q.Host
	}
	return net.JoinHostPort(q.Host, strconv.Itoa(int(q.Port)))
}

// String is the query as it would be written in a target.
func (q Query) String() string {
	switch q.Scheme {
	case SchemeStatic, SchemeDNS, SchemeSRV:
		if q.Server != "" {
			return q.Scheme + "://" + q.Server + "/" + q.HostPort()
		}
		return q.HostPort()
	}
	var b strings.Builder
	b.WriteString(q.Scheme)
	b.WriteString("://")
	if q.Port == 0 && strings.Contains(q.Host, ":") {
		b.WriteString("[" + q.Host + "]")
	} else {
		b.WriteString(q.HostPort())
	}
	if q.Path != "" {
		b.WriteString((&url.URL{Path: "/" + q.Path}).EscapedPath())
	}
	if q.Params != "" {
		b.WriteByte('?')
		b.WriteString(q.Params)
	}
	return b.String()
}

// AddrPort is Host and Port as an address, for static queries; for any other it
// is not valid.
func (q Query) AddrPort() netip.AddrPort {
	ip, err := netip.ParseAddr(q.Host)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip, q.Port)
}
