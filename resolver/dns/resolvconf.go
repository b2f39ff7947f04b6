package dns

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	mdns "github.com/miekg/dns"
)

// The C library's defaults and ceilings (resolv.conf(5)); it takes what is above
// one for the ceiling, and so do we.
const (
	defaultNdots, maxNdots       = 1, 15
	defaultAttempts, maxAttempts = 2, 5
	maxTimeout                   = 30 * time.Second
)

// resolvConf is what a resolv.conf(5) file says.
type resolvConf struct {
	servers  []string // host:port
	search   []string // suffixes without dots around them; "" is the root
	ndots    int
	attempts int
	timeout  time.Duration // 0 when the file does not say
	rotate   bool
}

// parseResolvConf skips what it cannot read, as the C library does, comments at
// the end of a line too. It takes every server and not just the first three.
func parseResolvConf(text string) *resolvConf {
	conf := &resolvConf{ndots: defaultNdots, attempts: defaultAttempts}
	for line := range strings.Lines(text) {
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if addr, err := netip.ParseAddr(fields[1]); err == nil {
				conf.servers = append(conf.servers, net.JoinHostPort(addr.String(), "53"))
			}
		case "domain":
			conf.setSearch(fields[1:2])
		case "search":
			conf.setSearch(fields[1:])
		case "options":
			for _, option := range fields[1:] {
				conf.setOption(option)
			}
		}
	}
	return conf
}

// setSearch replaces the search list: the last line that has one counts.
func (c *resolvConf) setSearch(suffixes []string) {
	c.search = make([]string, len(suffixes))
	for i, suffix := range suffixes {
		c.search[i] = strings.Trim(suffix, ".")
	}
}

func (c *resolvConf) setOption(option string) {
	name, value, _ := strings.Cut(option, ":")
	n, err := strconv.ParseUint(value, 10, 16)
	switch {
	case name == "rotate":
		c.rotate = true
	case err != nil: // an option that we do not have, or nonsense
	case name == "ndots":
		c.ndots = min(int(n), maxNdots)
	case name == "attempts":
		c.attempts = max(1, min(int(n), maxAttempts))
	case name == "timeout":
		c.timeout = max(time.Second, min(time.Duration(n)*time.Second, maxTimeout))
	}
}

// names are what host may stand for, in the order to ask: as it is first if it
// has dots enough, else last.
func (c *resolvConf) names(host string) []string {
	if mdns.IsFqdn(host) {
		return []string{host}
	}
	name := host + "."
	var names []string
	if strings.Count(host, ".") >= c.ndots {
		names = append(names, name)
	}
	for _, suffix := range c.search {
		names = append(names, mdns.Fqdn(name+suffix))
	}
	names = append(names, name)
	// Each once, and none that is too long with its suffix.
	unique := names[:0]
	for _, name := range names {
		if _, ok := mdns.IsDomainName(name); ok && !slices.Contains(unique, name) {
			unique = append(unique, name)
		}
	}
	return unique
}
