package balance

import (
	"cmp"
	"net/netip"
	"time"
)

// Endpoint is a candidate.
type Endpoint struct {
	Addr netip.AddrPort
	// Name is for people: a container's name, a service instance's ID.
	Name string
	// Choice orders the choices of a fallback chain: only endpoints of one choice are chosen,
	// the first of which not every endpoint is out by its check; if all choices are, the first.
	Choice int
	// Priority orders endpoints: the lowest is tried first (RFC 2782).
	Priority uint16
	// Weight is the share among endpoints of one priority. Zero is the least
	// share, not none.
	Weight   uint16
	Distance Distance
	// Published is for the user of the endpoint; see resolver.Endpoint.
	Published bool
	// Holder tells apart who has Addr one after the other; see resolver.Endpoint.
	Holder string
}

// site is what a health belongs to: an address, as long as the same has it.
type site struct {
	addr   netip.AddrPort
	holder string
}

func (e *Endpoint) site() site { return site{e.Addr, e.Holder} }

// Distance says how far away an endpoint is.
type Distance uint8

// The distances. One that is not known counts as the farthest.
const (
	DistanceUnknown Distance = iota
	SameHost
	SameDatacenter
	Elsewhere
)

// String is the distance by the words of a resolver's, "" when it is not known.
func (d Distance) String() string {
	switch d {
	case SameHost:
		return "host"
	case SameDatacenter:
		return "datacenter"
	case Elsewhere:
		return "remote"
	}
	return ""
}

// Policy is how one of several equally good endpoints is chosen.
type Policy string

// The policies. The empty one is LeastConnections.
const (
	// LeastConnections draws two endpoints by weight and takes the one with fewer
	// connections for its weight, those of the whole host.
	LeastConnections Policy = "least-connections"
	// RoundRobin goes around; with unequal weights, each comes as often as its
	// weight says and as evenly as that allows.
	RoundRobin Policy = "round-robin"
	// Random draws by weight.
	Random Policy = "random"
	// Source keeps a client at one endpoint while it lives (weighted rendezvous
	// hashing).
	Source Policy = "source"
	// First takes the first that is well, in the order in which they were given.
	First Policy = "first"
)

// Options say how one binding's connections are balanced. The zero value of each
// is off unless it says otherwise.
type Options struct {
	// Policy is empty for the default.
	Policy Policy
	// PreferNear takes the nearest of one priority first, and Policy among those
	// that are equally near.
	PreferNear bool
	// SlowStart is how long the weight of an endpoint grows, from a tenth to all
	// of it, that joins others or has recovered.
	SlowStart time.Duration
	// EjectAfter is how many failures in a row eject an endpoint; 0 is never, and
	// ignores what others have ejected.
	EjectAfter int
	// EjectFor is how long the first ejection lasts. It doubles with each further
	// one, up to EjectForMax. Defaults 10 s and 5 min.
	EjectFor, EjectForMax time.Duration
	// EjectMost is how many percent of the pool's endpoints may be out, ejected or
	// by their check. When there are more, it is not them, and nobody counts as
	// out. 0 and 100 are no limit.
	EjectMost int
	// Check is the active check; the zero value is none.
	Check Check
}

const (
	defaultEjectFor    = 10 * time.Second
	defaultEjectForMax = 5 * time.Minute
)

// ejectFor is how long an ejection lasts that follows on so many others.
func (o *Options) ejectFor(others int) time.Duration {
	d, most := cmp.Or(o.EjectFor, defaultEjectFor), o.ejectForMax()
	for ; others > 0 && d < most; others-- {
		d *= 2
	}
	return min(d, most)
}

func (o *Options) ejectForMax() time.Duration {
	return max(cmp.Or(o.EjectForMax, defaultEjectForMax), cmp.Or(o.EjectFor, defaultEjectFor))
}

// CheckKind is what an active check does.
type CheckKind string

// The kinds of checks.
const (
	// NoCheck is none.
	NoCheck CheckKind = ""
	// TCPCheck connects; it sends Send, if set, and waits for Expect, if set.
	TCPCheck CheckKind = "tcp"
	// HTTPCheck gets Path, and expects a status of 200 to 399.
	HTTPCheck CheckKind = "http"
)

// Check is an active check of each endpoint.
type Check struct {
	Kind CheckKind
	// Port to check; 0 is the endpoint's own.
	Port uint16
	// Path and Host are of an HTTP check. Defaults "/" and the address.
	Path, Host string
	// Preface is what the endpoint wants to read first on each connection, if anything: a PROXY
	// header.
	Preface string
	// Send and Expect are of a TCP check.
	Send, Expect string
	// Interval is from one check to the next, Timeout for all of one. Defaults
	// 10 s and 2 s.
	Interval, Timeout time.Duration
	// Jitter is how many percent an interval is longer or shorter, at random.
	Jitter int
	// Rise and Fall are how many results in a row change the verdict. Defaults 2
	// and 3. The first result of all counts at once.
	Rise, Fall int
}
