package policy

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
)

// Action is what a rule does.
type Action uint8

// The actions. An audited connection is allowed, and logged.
const (
	Allow Action = iota
	Deny
	Audit
)

func (a Action) String() string { return [...]string{"allow", "deny", "audit"}[a] }

// Rule says what some clients may, or may not, reach. It matches where every list that
// is not empty has something that matches: an empty list is everybody, or everything.
type Rule struct {
	// Name is for people; it may be empty.
	Name string
	// Origin says where it was written: FILE:LINE:COLUMN, or a flag.
	Origin string
	// Number is its place in Origin's list, from 1; 0 for a flag.
	Number int
	Action Action

	// Containers and Images are patterns of names (path.Match; in images * matches a /
	// too), Labels are K=V, or K for any value, Projects and Networks are names.
	Containers, Labels, Projects, Images, Networks []string
	// Declared is by whom: the image itself, the container, the configuration.
	Declared []Declarer

	// To are addresses and Ports ports of endpoints, and of registries that targets name.
	To    []Place
	Ports []PortRange
	// Kinds are schemes of targets. Targets and Registries are patterns of what they name.
	// A rule that denies or audits matches a target of which any part matches; one that
	// allows, a target of which all parts do.
	Kinds, Targets, Registries []string
}

// Declarer is who declares a target.
type Declarer string

// The declarers.
const (
	ByImage         Declarer = "image"         // the labels or environment of the image itself
	ByContainer     Declarer = "container"     // those that the container was given
	ByConfiguration Declarer = "configuration" // the daemon's configuration file, or its command line
)

// Declarers lists every Declarer.
func Declarers() []Declarer { return []Declarer{ByImage, ByContainer, ByConfiguration} }

// kinds are what a rule may name as the kind of a target: each scheme of internal/sources.
var kinds = []struct {
	name string
	// server says that such a target can name the server to be asked, which is the Registry of its
	// Part then.
	server bool
}{
	{"static", false}, {"dns", true}, {"srv", true}, {"docker", false}, {"swarm", false},
	{"consul", true}, {"consul-service", false}, {"consul-query", false}, {"etcd", true}, {"file", false},
}

// Kinds lists what a rule may name as the kind of a target.
func Kinds() []string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = k.name
	}
	return names
}

// withServer are the kinds of target that can name the server to be asked.
func withServer() []string {
	var names []string
	for _, k := range kinds {
		if k.server {
			names = append(names, k.name)
		}
	}
	return names
}

// String names the rule as people find it again.
func (r *Rule) String() string {
	switch {
	case r.Number == 0:
		return "rule " + r.Origin
	case r.Name == "":
		return fmt.Sprintf("policy rule %d in %s", r.Number, r.Origin)
	}
	return fmt.Sprintf("policy rule %d %q in %s", r.Number, r.Name, r.Origin)
}

// everywhere reports whether the rule matches whatever the address.
func (r *Rule) everywhere() bool { return len(r.To) == 0 && len(r.Ports) == 0 }

// isAbout reports whether c is one of the clients of the rule.
func (r *Rule) isAbout(c *Client) Known {
	switch {
	case len(r.Containers) > 0 && (c.Container == "" || !anyMatches(r.Containers, c.Container)),
		len(r.Projects) > 0 && (c.Project == "" || !slices.Contains(r.Projects, c.Project)),
		len(r.Images) > 0 && (c.Image == "" || !slices.ContainsFunc(r.Images, func(p string) bool { return matchesAll(p, c.Image) })),
		len(r.Labels) > 0 && !slices.ContainsFunc(r.Labels, func(l string) bool { return labelled(c.Labels, l) }):
		return No
	}
	answer := r.declaredBy(c)
	if answer != No && len(r.Networks) > 0 && !slices.ContainsFunc(r.Networks, func(n string) bool { return slices.Contains(c.Networks, n) }) {
		if c.NetworksKnown {
			return No
		}
		return Unknown
	}
	return answer
}

// declaredBy reports whether the rule is about what declares for c.
func (r *Rule) declaredBy(c *Client) Known {
	switch {
	case len(r.Declared) == 0:
		return Yes
	case c.ByOperator:
		return known(slices.Contains(r.Declared, ByConfiguration))
	}
	image, container := slices.Contains(r.Declared, ByImage), slices.Contains(r.Declared, ByContainer)
	switch {
	case image && container:
		return Yes
	case !image && !container:
		return No
	case c.ByImage == Unknown:
		return Unknown
	}
	return known(image == (c.ByImage == Yes))
}

func labelled(labels map[string]string, wanted string) bool {
	key, value, valued := strings.Cut(wanted, "=")
	has, ok := labels[key]
	return ok && (!valued || has == value)
}

// isFor reports whether the rule is about t.
func (r *Rule) isFor(t *Target) bool {
	if len(r.Kinds) == 0 && len(r.Targets) == 0 && len(r.Registries) == 0 {
		return true
	}
	if r.Action == Allow {
		return len(t.Parts) > 0 && !slices.ContainsFunc(t.Parts, func(p Part) bool { return !r.isForPart(&p) })
	}
	return slices.ContainsFunc(t.Parts, func(p Part) bool { return r.isForPart(&p) })
}

func (r *Rule) isForPart(p *Part) bool {
	return (len(r.Kinds) == 0 || slices.ContainsFunc(r.Kinds, func(k string) bool { return includes(k, p.Kind) })) &&
		(len(r.Targets) == 0 || p.Name != "" && slices.ContainsFunc(r.Targets, func(t string) bool { return r.names(t, p) })) &&
		(len(r.Registries) == 0 || p.Registry != "" && slices.ContainsFunc(r.Registries, func(s string) bool { return serverMatches(s, p.Registry) }))
}

// includes reports whether a rule about kind is about targets of scheme. Those of Swarm are
// containers that docker:// leads to as well, so a rule about docker holds for both.
func includes(kind, scheme string) bool {
	return kind == scheme || kind == "consul" && strings.HasPrefix(scheme, "consul-") || kind == "docker" && scheme == "swarm"
}

// names reports whether pattern, of the rule's Targets, is of what p names. Hosts are matched
// in any case and without the dot at their end, files and keys as they are. A path that has
// a .. may lead to what is written or to what path.Clean makes of it, which links, and for
// Consul what stands before it, decide: a rule that allows has to be about both, another
// about one of them.
func (r *Rule) names(pattern string, p *Part) bool {
	name := p.Name
	switch p.Kind {
	case "file":
	case "consul", "etcd": // the sources ask for the key without the / at its ends
		pattern, name = strings.TrimSuffix(pattern, "/"), strings.Trim(name, "/")
	default:
		return matchesAll(withoutDot(pattern), canonicalHost(name))
	}
	written := matchesExactly(pattern, name)
	if clean := path.Clean(name); clean != name && written == (r.Action == Allow) {
		return matchesExactly(pattern, clean)
	}
	return written
}

// serverMatches reports whether pattern, of a HOST or a HOST:PORT, is of server.
func serverMatches(pattern, server string) bool {
	colon := max(0, strings.LastIndexByte(server, ':'))
	host := canonicalHost(strings.Trim(server[:colon], "[]"))
	written := host
	if strings.Contains(host, ":") {
		written = "[" + host + "]"
	}
	return matchesAll(pattern, host) || matchesAll(pattern, written) || matchesAll(pattern, written+server[colon:])
}

func anyMatches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(p, name) // a pattern was checked when it was read; what does not parse matches nothing
		return err == nil && ok
	})
}

// matchesAll is path.Match where * matches a / too, whatever the case.
func matchesAll(pattern, name string) bool {
	return matchesExactly(strings.ToLower(pattern), strings.ToLower(name))
}

// matchesExactly is path.Match where * matches a / too.
func matchesExactly(pattern, name string) bool {
	const other = "\x00" // no name has one
	ok, err := path.Match(strings.ReplaceAll(pattern, "/", other), strings.ReplaceAll(name, "/", other))
	return err == nil && ok
}

// Place is where an endpoint is: a network, or a word for several.
type Place struct {
	text   string
	prefix netip.Prefix // not valid for a word
	class  class
}

func (p Place) String() string { return p.text }

// PortRange is ports from one to another, both included.
type PortRange struct{ From, To uint16 }

// matches reports whether the rule is about an endpoint.
func (r *Rule) matches(e *endpoint) bool {
	if len(r.Ports) > 0 && !slices.ContainsFunc(r.Ports, func(p PortRange) bool { return e.port >= p.From && e.port <= p.To }) {
		return false
	}
	if len(r.To) == 0 {
		return true
	}
	c := e.classes()
	if r.Action == Deny {
		return slices.ContainsFunc(r.To, func(p Place) bool {
			return p.class&c != 0 || p.prefix.IsValid() && (p.prefix.Contains(e.addr) || slices.ContainsFunc(e.embedded.all(), p.prefix.Contains))
		})
	}
	return r.opens(e, c)
}

// saysWhere reports whether a rule that allows may be meant for what the default keeps from
// containers: one without a place never is. Its author wants to see what is dialled, to let
// everybody reach a service's port, or to leave a client out of a later rule; it would open
// the loopback of this host at that port, too.
func (r *Rule) saysWhere() bool { return r.Action == Deny || len(r.To) > 0 }

// opens reports whether a rule that allows is meant for e, of the classes c. What the
// default keeps from containers has to be meant: a network opens loopback, for instance,
// if it begins there, and the sockets of the engine and the daemon are to be named by the
// word own, or by their ports and a place that is this host or one address.
func (r *Rule) opens(e *endpoint, c class) bool {
	var words, named class
	matches, one := false, false
	for _, p := range r.To {
		switch {
		case p.class&c != 0:
			matches, words, one = true, words|p.class, one || p.class&(host|loopback) != 0
		case p.prefix.IsValid() && p.prefix.Contains(e.addr):
			matches = true
			first := classify(p.prefix.Addr())
			if e.embedded.count > 0 {
				first |= e.embedded.named(p.prefix, e.addr)
			}
			if !p.prefix.IsSingleIP() {
				first &^= metadata
			}
			// That a layout reads loopback does not make the prefix this host: the socket
			// may be where another layout leads.
			one = one || p.prefix.IsSingleIP() || first&loopback != 0 && !e.embedded.ambiguous
			named |= first
		}
	}
	if len(r.Ports) > 0 && one {
		named |= own
	}
	if words&metadata != 0 {
		named |= linkLocal
	}
	if words&own != 0 {
		named |= loopback
	}
	return matches && c&(loopback|linkLocal|metadata|own)&^(named|words) == 0
}
