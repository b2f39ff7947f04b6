package policy

import (
	"fmt"
	"net/netip"
	"path"
	"strings"
)

// Scope is what a policy says of one client and one target: the rules that are about
// both. It never changes. nil is what the default policy says of a container.
type Scope struct {
	policy *Policy
	client Client
	target Target
	rules  []*Rule // in their order; none after one that denies everywhere
	// undecided says that what comes after rules depends on what is not known yet.
	undecided bool
}

// Scope finds the rules that are about c and t. A rule that depends on what is unknown of
// c holds if it denies, and does not if it allows; if c is Partial, it is the other way
// round.
func (p *Policy) Scope(c Client, t Target) *Scope {
	p = p.orDefault()
	s := &Scope{policy: p, client: c, target: t}
	for i := range p.rules {
		r := &p.rules[i]
		if !r.isFor(&t) {
			continue
		}
		switch about := r.isAbout(&c); {
		case about == No, about == Unknown && c.Partial == (r.Action == Deny):
			continue
		case about == Unknown && c.Partial:
			s.undecided = true
			return s
		}
		s.rules = append(s.rules, r)
		if r.everywhere() && r.Action == Deny {
			break
		}
	}
	return s
}

// nobody is the Scope that a nil one is.
var nobody = defaultPolicy.Scope(Client{ByImage: Unknown}, Target{})

func (s *Scope) orDefault() *Scope {
	if s == nil {
		return nobody
	}
	return s
}

// Under is what p says of the same client and target: s itself if it was made by p.
func (s *Scope) Under(p *Policy) *Scope {
	s = s.orDefault()
	if p.orDefault() == s.policy {
		return s
	}
	return p.Scope(s.client, s.target)
}

// Verdict is whether an endpoint may be dialled, and by what that was decided.
type Verdict struct {
	Action Action
	// Rule has decided; nil is the default.
	Rule *Rule
	// what is the address to the default: "this host's loopback".
	what string
	fix  string
}

// Denied reports whether it may not.
func (v Verdict) Denied() bool { return v.Action == Deny }

var (
	allowed     = Verdict{Action: Allow}
	toLoopback  = Verdict{Action: Deny, what: "it is the loopback of this host", fix: "start the daemon with --allow-loopback, or allow it by a rule under policy: in the configuration file (docs/policy.md)"}
	toLinkLocal = Verdict{Action: Deny, what: "it is a link-local address", fix: "allow it by a rule under policy: in the configuration file, with to: link-local (docs/policy.md)"}
	toMetadata  = Verdict{Action: Deny, what: "it is where clouds tell a machine about itself", fix: "allow it by a rule under policy: in the configuration file, with to: metadata (docs/policy.md)"}
	toOwn       = Verdict{Action: Deny, what: "it is a socket of the engine's or the daemon's", fix: "allow it by a rule under policy: in the configuration file, with to: own, or with the address and the port (docs/policy.md)"}
	toMany      = Verdict{Action: Deny, what: "it is no address of one machine", fix: "name the address of the machine that serves it"}
	toUnclean   = Verdict{Action: Deny, what: "its path has ., .., // or a / at its end", fix: "write the path without these in the target"}
	toFile      = Verdict{Action: Deny, what: "it is in no folder whose files containers may name", fix: "move the file to a folder of --file-folder (without one " + DefaultFileFolder + "), or name its folder there"}
)

// Check says whether the client may dial addr for the target. published says that the
// engine publishes a container's port there, and that the target asks for that: then the
// default allows it. It allocates nothing and takes no lock.
func (s *Scope) Check(addr netip.AddrPort, published bool) Verdict {
	s = s.orDefault()
	if s.client.ByOperator && len(s.rules) == 0 {
		return allowed
	}
	e := s.policy.endpoint(addr)
	if e.fixed&(multicast|unspecified) != 0 && !s.client.ByOperator {
		return toMany
	}
	for _, r := range s.rules {
		if r.matches(&e) && (r.saysWhere() || !s.byDefault(&e, published).Denied()) {
			return Verdict{Action: r.Action, Rule: r}
		}
	}
	return s.byDefault(&e, published)
}

// byDefault is what holds where no rule decides.
func (s *Scope) byDefault(e *endpoint, published bool) Verdict {
	if s.undecided || s.client.ByOperator || published {
		return allowed
	}
	switch {
	case e.fixed&metadata != 0:
		return toMetadata
	case e.fixed&linkLocal != 0:
		return toLinkLocal
	case e.fixed&loopback != 0 && !s.policy.allowLoopback:
		return toLoopback
	case e.mayBeOwn() && e.classes()&own != 0:
		return toOwn
	}
	return allowed
}

// Target says whether the client may have the target at all, whatever it resolves to; and
// whether the servers may be asked that it names by their addresses. at is what must not
// be reached: "" for the target as a whole.
func (s *Scope) Target() (v Verdict, at string) {
	s = s.orDefault()
	if v := s.everywhere(); v.Denied() {
		return v, ""
	}
	for i := range s.target.Parts {
		p := &s.target.Parts[i]
		if p.Kind == "file" {
			if v := s.file(p.Name); v.Denied() {
				return v, p.Name
			}
		}
		for _, addr := range literal(p.Registry) {
			if v := s.Registry(p.Registry, addr); v.Denied() {
				return v, p.Registry
			}
		}
	}
	return s.addresses()
}

// addresses is what the default says of a target that is nothing but addresses, if it
// keeps all of them from the client by what they are, which no change of this host's own
// addresses and ports has a say in: so it can be told before anybody dials.
func (s *Scope) addresses() (v Verdict, at string) {
	for i := range s.target.Parts {
		addr := s.target.Parts[i].Addr
		if !addr.IsValid() {
			return allowed, ""
		}
		switch now := s.Check(addr, false); {
		case now != toLoopback && now != toMetadata && now != toMany:
			return allowed, ""
		case at == "":
			v, at = now, addr.String()
		}
	}
	return v, at
}

// everywhere is what the rules say wherever the endpoint is.
func (s *Scope) everywhere() Verdict {
	for _, r := range s.rules {
		if r.everywhere() {
			return Verdict{Action: r.Action, Rule: r}
		}
		if r.Action != Deny {
			break
		}
	}
	return allowed
}

// Registry says whether server, HOST:PORT as the target names it, may be asked at addr.
func (s *Scope) Registry(server string, addr netip.AddrPort) Verdict {
	s = s.orDefault()
	if s.policy.ConfiguredRegistry(server) {
		return allowed
	}
	return s.Check(addr, false)
}

// file says whether a file may be named as a target.
func (s *Scope) file(name string) Verdict {
	// A path with a .. in it goes where links lead, which nobody can tell here: neither the
	// rules nor the folders are asked about it.
	if !s.client.ByOperator && path.Clean(name) != name {
		return toUnclean
	}
	for _, r := range s.rules {
		// One that allows is to say that it is about files, or which.
		if r.everywhere() && (r.Action == Deny || len(r.Kinds)+len(r.Targets) > 0) {
			return Verdict{Action: r.Action, Rule: r}
		}
	}
	if s.undecided || s.client.ByOperator {
		return allowed
	}
	for _, folder := range s.policy.folders {
		if strings.HasPrefix(name, strings.TrimSuffix(folder, "/")+"/") {
			return allowed
		}
	}
	return toFile
}

// literal are the addresses that server, HOST:PORT, names without a lookup.
func literal(server string) []netip.AddrPort {
	colon := strings.LastIndexByte(server, ':')
	if colon < 0 {
		return nil
	}
	name := strings.TrimSuffix(strings.ToLower(server[:colon]), ".")
	if name == "localhost" || strings.HasSuffix(name, ".localhost") { // RFC 6761, section 6.3
		server = "127.0.0.1" + server[colon:]
	}
	addr, err := netip.ParseAddrPort(server)
	if err != nil {
		return nil
	}
	return []netip.AddrPort{addr}
}

// Key is the same for Scopes of one Policy that decide alike about endpoints.
func (s *Scope) Key() string {
	s = s.orDefault()
	var b strings.Builder
	fmt.Fprint(&b, s.undecided, s.client.ByOperator)
	for _, r := range s.rules {
		fmt.Fprintf(&b, " %p", r)
	}
	return b.String()
}
