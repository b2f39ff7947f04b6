package resolver

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"strconv"
)

// Endpoint is one place that can serve a target now. A source that learns an
// address sets Addr; one that learns only a name (an SRV record without glue, a
// host:port in a KV store) sets Host and Port instead, and the Resolver looks
// the name up through DNS, at the name's own TTL.
type Endpoint struct {
	// Addr is where to connect. It is invalid while only Host is known.
	Addr netip.AddrPort
	// Host is a DNS name still to be looked up; used when Addr is not valid.
	Host string
	// Port goes with Host.
	Port uint16
	// Name says who this is in the source's own words, for people: a container's
	// name, a Consul service ID, an SRV target.
	Name string
	// Priority orders endpoints: the lowest is tried first (RFC 2782).
	Priority uint16
	// Weight is the share among endpoints of one priority (RFC 2782). Zero is
	// the least share, not none.
	Weight uint16
	// Health is the state in the source's own words ("healthy", "warning"), ""
	// when it knows none. It is for people: what must not be used is no endpoint.
	Health string
	// Distance is how far it is from us.
	Distance Distance
	// Published says that Addr is one of this host's at which the engine publishes a
	// container's port, so that it is the container's.
	Published bool
	// Holder tells apart the containers that have Addr one after the other, by ID; "" where
	// nobody says.
	Holder string
}

// String is the endpoint's address, or host:port while it has none.
func (e Endpoint) String() string {
	if e.Addr.IsValid() {
		return e.Addr.String()
	}
	return net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port)))
}

// Distance is how far an endpoint is from us, as far as its source knows. Its zero
// value says that the source does not.
type Distance uint8

// From near to far, but for the first.
const (
	DistanceUnknown Distance = iota
	SameHost
	SameDatacenter
	OtherDatacenter
)

// String is the distance as "resolve -o json" prints it, "" when it is not known.
func (d Distance) String() string {
	switch d {
	case SameHost:
		return "host"
	case SameDatacenter:
		return "datacenter"
	case OtherDatacenter:
		return "remote"
	}
	return ""
}

// Answer is what a source knows of a query at one moment. No endpoints is an
// answer too: the source is well and says that nobody serves this now.
type Answer struct {
	Endpoints []Endpoint
	// LeftOut are the instances that are known and not offered. The Resolver keeps
	// the first MaxLeftOut.
	LeftOut []LeftOut
	// Note says, for people, what the rest does not: why there is nobody, for
	// instance. It may be empty.
	Note string
	// Hint says what to do about it where there is nobody. It may be empty.
	Hint string
	// Err, when set, is no answer: the source cannot tell now, as Watch's own error
	// would say, but goes on watching and publishes again once it can. A source
	// uses it that notices by itself when it is worth looking again.
	Err error
}

// MaxLeftOut is the most left-out instances that are kept of an answer.
const MaxLeftOut = 100

// LeftOut is an instance that is known and not offered.
type LeftOut struct {
	// Name is the instance in the source's own words, as in Endpoint.
	Name string
	// Addr is where it would be, "" when that is not known.
	Addr string
	// Why is to be read after the name: "is not running".
	Why string
	// Unhealthy says that it is left out since its health check fails, rather than for what
	// somebody wants, such as maintenance.
	Unhealthy bool
}

func (l LeftOut) String() string { return cmp.Or(l.Name, l.Addr, "an instance") + " " + l.Why }

// ByClient is a Source some of whose names mean something else to each client.
type ByClient interface {
	Source
	// ByClient reports whether q is about such a name. Watch reads for whom it is asked
	// from q.Client.
	ByClient(q Query) bool
}

// Source answers queries of one scheme.
type Source interface {
	// Check reports what is wrong with q, without any I/O: a parameter this
	// source does not know, a part that is missing. The error names the part and
	// carries a hint.
	Check(q Query) error

	// Watch asks q and hands every new answer to publish until ctx ends, then
	// returns nil. It returns an error when the source cannot be asked; the
	// caller keeps the last answer and calls Watch again after a backoff, so
	// Watch itself never retries. An answer must not be changed once published;
	// publish is not called after Watch has returned.
	Watch(ctx context.Context, q Query, publish func(Answer)) error
}
