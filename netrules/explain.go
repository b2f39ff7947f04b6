package netrules

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Kind is what a rule of ours is for.
type Kind string

// The kinds. KindUnknown is a rule in a chain of ours, or a jump to one, that
// this version would not write.
const (
	KindJump     Kind = "jump"
	KindMarker   Kind = "marker"
	KindDNS      Kind = "dns"
	KindRedirect Kind = "redirect"
	KindLink     Kind = "link"
	KindHost     Kind = "host"
	KindAddress  Kind = "address" // not a rule: the address that it is about
	KindGuard    Kind = "guard"   // a rule of the bridge table
	KindBinding  Kind = "binding" // an entry of that table
	KindUnknown  Kind = "unknown"
)

// ownerPrefix starts the comment of every rule in a chain of ours.
const ownerPrefix = "ambassadord: "

// Explanation is what a rule is there for.
type Explanation struct {
	Kind   Kind
	Port   uint16 // the declared port; 0 but for KindRedirect
	Listen uint16 // the port it leads to; 0 where it leads to none
	Owner  string // who declared the port, as [Port] had it in Comment
	Why    string // a sentence without its full stop
}

// Explain says what a rule of a chain, as a [State] holds it, is there for. A rule
// counts as ours only if it is, word for word, one that [Redirect], [Link],
// [Host] or [Plan] would write.
func Explain(chain string, args []string) Explanation {
	if to := Target(args); !strings.HasPrefix(chain, ChainPrefix) && strings.HasPrefix(to, ChainPrefix) {
		if slices.Equal(args, Chain{Name: to}.Jump().Args()) {
			return Explanation{Kind: KindJump, Why: fmt.Sprintf("what passes %s goes through our chain, and on as before unless a rule there matches", chain)}
		}
		return unknown(args)
	}
	if slices.Equal(args, marker().Args()) {
		return Explanation{Kind: KindMarker, Why: "there was no nat table before us; whoever removes this chain removes the table too if it is empty"}
	}
	if e := explainTranslation(args); e.Kind != KindUnknown {
		return e
	}
	if e := explainTranslation(withOpening(args)); e.Kind != KindUnknown && e.Kind != KindDNS {
		e.Why += "; an older version wrote this rule, which resets connections that are older than it, and the next repair replaces it"
		return e
	}
	return unknown(args)
}

// explainTranslation is Explain for the rules of our chains that lead somewhere, and for
// those that except something from that.
func explainTranslation(args []string) Explanation {
	e := Explanation{Listen: number(args, "--to-ports"), Port: number(args, "--dport")}
	comment := strings.TrimPrefix(value(args, "--comment"), strings.TrimSpace(ownerPrefix))
	e.Owner = strings.TrimPrefix(comment, " ")
	declared := []Port{{Number: e.Port, Comment: e.Owner}}
	for _, f := range []Family{IPv4, IPv6} {
		for _, r := range Redirect(f, e.Listen, declared).Rules {
			switch {
			case !slices.Equal(args, r.Args()):
			case Target(args) == "RETURN":
				return Explanation{Kind: KindDNS, Why: "Docker's DNS server is at a loopback address too, and must answer whatever ports are declared"}
			default:
				e.Kind = KindRedirect
				e.Why = fmt.Sprintf("port %d is declared; who dials it on loopback reaches our socket on port %d", e.Port, e.Listen)
				return e
			}
		}
	}
	if slices.Equal(args, Link(IPv4, e.Listen).Rules[0].Args()) {
		return Explanation{Kind: KindLink, Listen: e.Listen,
			Why: fmt.Sprintf("who dials any port of this address from outside reaches the link listener on port %d", e.Listen)}
	}
	if to, err := netip.ParseAddrPort(value(args, "--to-destination")); err == nil {
		if slices.Equal(args, Host(IPv4, to.Addr(), to.Port()).Rules[0].Args()) {
			return Explanation{Kind: KindHost, Listen: to.Port(),
				Why: fmt.Sprintf("who dials any port of %s from outside reaches our listener there on port %d", to.Addr(), to.Port())}
		}
	}
	return unknown(args)
}

// withOpening is a rule as versions wrote it that matched every packet, not those alone that
// open a connection, as this version writes it. The port that it leads to is a living
// daemon's just the same.
func withOpening(args []string) []string {
	at := slices.Index(args, "comment") - 1 // -m comment stands behind all matches
	if at < 0 || args[at] != "-m" {
		return args
	}
	return slices.Insert(slices.Clone(args), at, opening()...)
}

func unknown(args []string) Explanation {
	return Explanation{Kind: KindUnknown, Listen: number(args, "--to-ports"),
		Why: "this version does not write such a rule; the next repair removes it"}
}

// value returns what follows a flag, or "".
func value(args []string, flag string) string {
	for i := 0; i+1 < len(args); i++ {
		if args[i] == flag {
			return args[i+1]
		}
		if args[i] == "--comment" {
			i++ // a comment may look like a flag
		}
	}
	return ""
}

// number returns the port that follows a flag, or 0.
func number(args []string, flag string) uint16 {
	n, err := strconv.ParseUint(value(args, flag), 10, 16)
	if err != nil {
		return 0
	}
	return uint16(n)
}

// AddressText is what a plan, and what is shown, has for an address of mode host.
func AddressText(addr netip.Addr) string { return "address " + addr.String() + " on lo" }
