package option

import (
	"math"
	"slices"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/suggest"
)

// Group is what an option is about.
type Group string

// The groups, in the order in which people meet them.
const (
	Balancing Group = "Balancing"
	Failover  Group = "Failover"
	Health    Group = "Health"
	Limits    Group = "Limits"
	Timeouts  Group = "Timeouts"
	Removal   Group = "Removal"
	Upstream  Group = "Upstream"
)

// Kind is how an option is written.
type Kind string

// The kinds.
const (
	Duration    Kind = "duration"
	Integer     Kind = "number"
	Percent     Kind = "percent"
	Enumeration Kind = "word"
	Text        Kind = "text"
	Address     Kind = "address"
)

// Option is a row of the table.
type Option struct {
	// Name is the label connect.PORT.Name and the file key.
	Name  string
	Group Group
	Kind  Kind
	// Default is the built-in value, as one would write it.
	Default string
	// Range says what may be written, for people.
	Range string
	// Words are the words that it takes, if it takes words.
	Words []string
	// Help is one line.
	Help string
	// Owner is who may set it.
	Owner Owner

	// size is how much a value that the option takes is; nil of an option that is no amount.
	size func(string) int64
	// zero says what 0 means, and zeroIsMost that this is more than any number.
	zero       string
	zeroIsMost bool

	put func(*Set, string) error
	get func(*Set) string
}

// How long a PROXY header may be: by default as every receiver takes it, at most as our own
// does. Package proxyproto has the same, which a test compares.
const proxySafe, proxyMost = 107, 16 + 4096

const (
	day   = 24 * time.Hour
	no    = ""    // a 0 that means nothing special, or is not allowed
	off   = "off" // a 0 that turns it off
	never = "never"
)

// table is made once and never changes; All gives it away by copy.
var table = sync.OnceValue(func() []Option {
	return []Option{
		word("policy", Balancing, LeastConnections, []Policy{LeastConnections, RoundRobin, Random, SourceAffinity, First},
			"how an endpoint is chosen: the fewer connections of two, in turn, by chance, always the same for a client, or the first that answers",
			func(s *Set) *Policy { return &s.Policy }),
		word("locality", Balancing, LocalityOff, []Locality{LocalityOff, LocalityPrefer},
			"prefer endpoints on this host, then those in this datacentre",
			func(s *Set) *Locality { return &s.Locality }),
		duration("slow-start", Balancing, 10*time.Second, off, time.Millisecond, time.Hour,
			"how long a new endpoint gets fewer connections than its share",
			func(s *Set) *time.Duration { return &s.SlowStart }),

		duration("timeout", Failover, 10*time.Second, no, time.Millisecond, time.Hour,
			"how long to look for an endpoint that answers, all attempts and holding together",
			func(s *Set) *time.Duration { return &s.Timeout }),
		duration("attempt-timeout", Failover, 1500*time.Millisecond, no, time.Millisecond, time.Hour,
			"how long one attempt may take while other endpoints are left",
			func(s *Set) *time.Duration { return &s.AttemptTimeout }),
		unlimited(duration("hedge", Failover, 0, off, time.Millisecond, time.Minute,
			"after how long a second dial runs beside a slow first",
			func(s *Set) *time.Duration { return &s.Hedge })),
		word("retry", Failover, RetryDial, []Retry{RetryDial, RetryFirstByte},
			"what the next endpoint is for: a dial that failed, or a connection, too, that ended before the endpoint's first byte; what the client had sent is then sent again, so an endpoint may get it in vain",
			func(s *Set) *Retry { return &s.Retry }),
		duration("wait", Failover, 3*time.Second, "refuse at once", time.Millisecond, 5*time.Minute,
			"how long a connection is held while nobody answers",
			func(s *Set) *time.Duration { return &s.Wait }),
		word("refuse", Failover, RefuseLate, []Refuse{RefuseLate, RefuseEarly},
			"when a connection is refused for which there is nobody: late, by a reset after it was accepted and held; or early, while its target has had no endpoint for `wait`, before it is accepted, so that who only connects (`nc -z`) is told the truth; modes redirect and listen alone",
			func(s *Set) *Refuse { return &s.Refuse }),
		operators(unlimited(integer("eject-after", Failover, 3, never, 1, 1000,
			"after how many failures in a row an endpoint is left out",
			func(s *Set) *int { return &s.EjectAfter }))),
		operators(duration("eject-for", Failover, 10*time.Second, no, time.Millisecond, day,
			"how long it is left out the first time; then ever longer",
			func(s *Set) *time.Duration { return &s.EjectFor })),
		operators(duration("eject-for-max", Failover, 5*time.Minute, no, time.Millisecond, day,
			"how long it is left out at most",
			func(s *Set) *time.Duration { return &s.EjectForMax })),
		operators(percent("eject-most", Failover, 50,
			"the share of a target's endpoints that may be left out at a time",
			func(s *Set) *int { return &s.EjectMost })),

		operators(word("check", Health, CheckNone, []Check{CheckNone, CheckTCP, CheckHTTP},
			"how the endpoints of a target in use are probed",
			func(s *Set) *Check { return &s.Check })),
		operators(integer("check-port", Health, 0, "the endpoint's", 1, math.MaxUint16,
			"the port that is probed",
			func(s *Set) *uint16 { return &s.CheckPort })),
		operators(text("check-path", "/", pathOf,
			"what an HTTP check asks for; any answer from 200 to 399 is good",
			func(s *Set) *string { return &s.CheckPath })),
		operators(text("check-host", "", hostOf,
			"an HTTP check's Host header; empty is the endpoint's address",
			func(s *Set) *string { return &s.CheckHost })),
		operators(text("check-send", "", escapedOf,
			"what a TCP check sends once it is connected",
			func(s *Set) *string { return &s.CheckSend })),
		operators(text("check-expect", "", escapedOf,
			"what the answer to a TCP check must contain",
			func(s *Set) *string { return &s.CheckExpect })),
		operators(duration("check-interval", Health, 5*time.Second, no, 100*time.Millisecond, day,
			"the time between checks of an endpoint",
			func(s *Set) *time.Duration { return &s.CheckInterval })),
		operators(duration("check-timeout", Health, 2*time.Second, no, time.Millisecond, 5*time.Minute,
			"how long a check may take",
			func(s *Set) *time.Duration { return &s.CheckTimeout })),
		operators(percent("check-jitter", Health, 10,
			"by how much the interval varies, so that checks do not come in bursts",
			func(s *Set) *int { return &s.CheckJitter })),
		operators(integer("check-rise", Health, 2, no, 1, 100,
			"how many good checks in a row make an endpoint healthy",
			func(s *Set) *int { return &s.CheckRise })),
		operators(integer("check-fall", Health, 3, no, 1, 100,
			"how many bad checks in a row make it unhealthy",
			func(s *Set) *int { return &s.CheckFall })),

		unlimited(integer("client-limit", Limits, 0, "no limit", 1, 1_000_000,
			"how many connections a client may have open by this port",
			func(s *Set) *int { return &s.ClientLimit })),
		unlimited(integer("target-limit", Limits, 0, "no limit", 1, 1_000_000,
			"how many connections all clients of this host may have open to this target",
			func(s *Set) *int { return &s.TargetLimit })),
		unlimited(integer("client-rate", Limits, 0, "no limit", 1, 1_000_000,
			"how many connections a second a client may open by this port",
			func(s *Set) *int { return &s.ClientRate })),
		integer("queue", Limits, 128, "none", 1, math.MaxUint16,
			"how many connections past a limit wait; those beyond are reset with the reason `over_limit`",
			func(s *Set) *int { return &s.Queue }),

		unlimited(duration("idle-timeout", Timeouts, 0, off, time.Millisecond, 365*day,
			"ends a connection on which nothing has moved for so long",
			func(s *Set) *time.Duration { return &s.IdleTimeout })),
		unlimited(duration("half-closed-timeout", Timeouts, 0, off, time.Millisecond, 365*day,
			"ends a connection so long after one side has ended its stream",
			func(s *Set) *time.Duration { return &s.HalfClosedTimeout })),
		unlimited(duration("max-lifetime", Timeouts, 0, off, time.Millisecond, 365*day,
			"ends any connection that is so old",
			func(s *Set) *time.Duration { return &s.MaxLifetime })),
		percent("max-lifetime-jitter", Timeouts, 10,
			"by how much less that is, at random, so that what began at once does not end at once",
			func(s *Set) *int { return &s.MaxLifetimeJitter }),
		unlimited(duration("keepalive", Timeouts, 15*time.Second, off, time.Second, 9*time.Hour, // the kernel takes 32767 s
			"the time before the first TCP keep-alive probe, and between probes, on both sides",
			func(s *Set) *time.Duration { return &s.Keepalive })),
		unlimited(duration("user-timeout", Timeouts, 0, "the kernel's", time.Millisecond, day,
			"how long what was sent may stay unacknowledged (TCP_USER_TIMEOUT), on both sides",
			func(s *Set) *time.Duration { return &s.UserTimeout })),

		word("on-removal", Removal, Keep, []OnRemoval{Keep, Drain},
			"what becomes of live connections when their endpoint has left the target",
			func(s *Set) *OnRemoval { return &s.OnRemoval }),
		word("on-unhealthy", Removal, UnhealthyAuto, []OnUnhealthy{UnhealthyAuto, UnhealthyClose, UnhealthyDrain, UnhealthyKeep},
			"what becomes of live connections when `check-fall` checks of their endpoint in a row have failed: they are closed (auto, close), go on for `drain-after`, or are kept; close, drain and keep hold as well where the registry's own health check takes the endpoint out, which to auto is a removal",
			func(s *Set) *OnUnhealthy { return &s.OnUnhealthy }),
		word("fail-back", Removal, Keep, []OnRemoval{Keep, Drain},
			"what becomes of live connections to a later choice of a fallback chain when one before it has endpoints again",
			func(s *Set) *OnRemoval { return &s.FailBack }),
		duration("drain-after", Removal, 30*time.Second, "at once", time.Millisecond, 365*day,
			"how long they go on if they are drained",
			func(s *Set) *time.Duration { return &s.DrainAfter }),

		operators(word("proxy-protocol", Upstream, ProxyOff, []ProxyProtocol{ProxyOff, ProxyV1, ProxyV2},
			"tells the endpoint who the client is, by the PROXY protocol",
			func(s *Set) *ProxyProtocol { return &s.ProxyProtocol })),
		operators(word("proxy-protocol-tlvs", Upstream, TLVsNone, []ProxyTLVs{TLVsNone, TLVsContainer, TLVsLabels},
			"what a header of version 2 says beside the addresses: nothing, the container's name and ID, or its labels, too ([proxy-protocol.md](proxy-protocol.md))",
			func(s *Set) *ProxyTLVs { return &s.ProxyProtocolTlvs })),
		operators(integer("proxy-protocol-max", Upstream, proxySafe, no, 52, proxyMost,
			"how many bytes a header may have; what does not fit is left out. Many endpoints reset a connection whose header is longer than they take",
			func(s *Set) *int { return &s.ProxyProtocolMax })),
		operators(address("source-address", Upstream,
			"the source address of connections to endpoints: one of this host's, or the client's own; empty is the kernel's choice",
			func(s *Set) *Source { return &s.SourceAddress })),
		operators(integer("mark", Upstream, 0, "none", 1, math.MaxUint32,
			"the firewall mark (SO_MARK) of connections to endpoints",
			func(s *Set) *uint32 { return &s.Mark })),
	}
})

// All lists the options in the order of the table.
func All() []Option { return slices.Clone(table()) }

// Names lists the names of the options in the order of the table.
func Names() []string {
	var names []string
	for _, o := range table() {
		names = append(names, o.Name)
	}
	return names
}

// Lookup returns the option of that name. The error of an unknown one says which
// was probably meant.
func Lookup(name string) (Option, error) {
	if i, ok := places()[name]; ok {
		return table()[i], nil
	}
	fix := "the options are listed in docs/options.md"
	if s := suggest.Closest(name, Names()); s != "" {
		fix = "did you mean " + s + "?"
	}
	return Option{}, hint.Errorf(fix, "unknown option %q", shown(name))
}

// Known reports whether there is an option of that name.
func Known(name string) bool {
	_, ok := places()[name]
	return ok
}

// places are the rows of the table by their options' names.
var places = sync.OnceValue(func() map[string]int {
	rows := table()
	byName := make(map[string]int, len(rows))
	for i, o := range rows {
		byName[o.Name] = i
	}
	return byName
})

// Validate says what is wrong with text as a value of o.
func (o Option) Validate(text string) error { return o.put(new(Set), text) }

// In returns o's value in s, as one would write it.
func (o Option) In(s Set) string { return o.get(&s) }

// Default is what holds where nobody has said anything.
func Default() Set { return defaults() }

var defaults = sync.OnceValue(func() Set {
	var s Set
	for _, o := range table() {
		if err := o.put(&s, o.Default); err != nil {
			panic("option " + o.Name + ": its own default: " + err.Error()) // a test reads them all
		}
	}
	return s
})
