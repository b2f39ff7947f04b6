package option

import (
	"net/netip"
	"time"
)

// Set is the value of every option. It is comparable; Default has them all.
type Set struct {
	// Policy chooses among endpoints.
	Policy Policy
	// Locality says whether near endpoints come first.
	Locality Locality
	// SlowStart is how long a new endpoint is spared; 0 is not at all.
	SlowStart time.Duration

	// Timeout bounds the search for an endpoint that answers: all attempts and
	// holding together.
	Timeout time.Duration
	// AttemptTimeout bounds one attempt while other endpoints are left.
	AttemptTimeout time.Duration
	// Hedge is after how long a second dial runs beside a slow first; 0 is never.
	Hedge time.Duration
	// Retry says what is tried again at another endpoint.
	Retry Retry
	// Wait is how long a connection is held while nobody answers; 0 refuses at once.
	Wait time.Duration
	// Refuse says when a connection is refused for which there is nobody.
	Refuse Refuse

	// EjectAfter is after how many failures in a row an endpoint is ejected; 0 is
	// never.
	EjectAfter int
	// EjectFor is how long it is ejected the first time.
	EjectFor time.Duration
	// EjectForMax bounds the growing time of later ejections.
	EjectForMax time.Duration
	// EjectMost is the largest share of a target's endpoints that may be ejected, in
	// percent.
	EjectMost int

	// Check is how endpoints are probed.
	Check Check
	// CheckPort is the port that is probed; 0 is the endpoint's own.
	CheckPort uint16
	// CheckPath is what an HTTP check asks for.
	CheckPath string
	// CheckHost is an HTTP check's Host header; "" is the endpoint's address.
	CheckHost string
	// CheckSend is what a TCP check sends, escapes undone.
	CheckSend string
	// CheckExpect is what the answer to a TCP check must contain, escapes undone.
	CheckExpect string
	// CheckInterval is the time between checks of an endpoint.
	CheckInterval time.Duration
	// CheckTimeout bounds one check.
	CheckTimeout time.Duration
	// CheckJitter is by how much the interval varies, in percent.
	CheckJitter int
	// CheckRise is how many good checks in a row make an endpoint healthy.
	CheckRise int
	// CheckFall is how many bad checks in a row make it unhealthy.
	CheckFall int

	// ClientLimit is how many connections a client may have open by this port; 0 is
	// no limit.
	ClientLimit int
	// TargetLimit is how many all clients of this host may have open to this target;
	// 0 is no limit.
	TargetLimit int
	// ClientRate is how many connections a second a client may open by this port; 0
	// is no limit.
	ClientRate int
	// Queue is how many connections past a limit wait.
	Queue int

	// IdleTimeout ends a connection on which nothing moves; 0 is never.
	IdleTimeout time.Duration
	// HalfClosedTimeout ends one whose one side has ended; 0 is never.
	HalfClosedTimeout time.Duration
	// MaxLifetime ends any connection; 0 is never.
	MaxLifetime time.Duration
	// MaxLifetimeJitter is by how much that is less, at random, in percent.
	MaxLifetimeJitter int
	// Keepalive is the time before the first TCP keep-alive probe and between
	// probes; 0 sends none.
	Keepalive time.Duration
	// UserTimeout is TCP_USER_TIMEOUT; 0 is the kernel's own.
	UserTimeout time.Duration

	// OnRemoval says what becomes of connections to an endpoint that has left.
	OnRemoval OnRemoval
	// OnUnhealthy says what becomes of connections to an endpoint whose check fails.
	OnUnhealthy OnUnhealthy
	// FailBack says what becomes of connections to a later choice when one before it is back.
	FailBack OnRemoval
	// DrainAfter is how long they go on if they are drained.
	DrainAfter time.Duration

	// ProxyProtocol tells the endpoint who the client is.
	ProxyProtocol ProxyProtocol
	// ProxyProtocolTlvs is what a header of version 2 says beside the addresses.
	ProxyProtocolTlvs ProxyTLVs
	// ProxyProtocolMax is how long the header may be, in bytes.
	ProxyProtocolMax int
	// SourceAddress is what endpoints see as the source.
	SourceAddress Source
	// Mark is the firewall mark (SO_MARK) of connections to endpoints.
	Mark uint32
}

// Policy is a way to choose among endpoints.
type Policy string

// The policies.
const (
	LeastConnections Policy = "least-connections"
	RoundRobin       Policy = "round-robin"
	Random           Policy = "random"
	SourceAffinity   Policy = "source"
	First            Policy = "first"
)

// Locality says whether near endpoints come first.
type Locality string

// The localities.
const (
	LocalityOff    Locality = "off"
	LocalityPrefer Locality = "prefer"
)

// Retry is what is tried again at another endpoint.
type Retry string

// What is tried again.
const (
	RetryDial      Retry = "dial"
	RetryFirstByte Retry = "first-byte"
)

// Refuse is when a connection is refused for which there is nobody.
type Refuse string

// When it is refused: after it was accepted, or before.
const (
	RefuseLate  Refuse = "late"
	RefuseEarly Refuse = "early"
)

// Check is a way to probe endpoints.
type Check string

// The checks.
const (
	CheckNone Check = "none"
	CheckTCP  Check = "tcp"
	CheckHTTP Check = "http"
)

// OnRemoval is what becomes of connections whose endpoint has left.
type OnRemoval string

// What becomes of them.
const (
	Keep  OnRemoval = "keep"
	Drain OnRemoval = "drain"
)

// OnUnhealthy is what becomes of connections whose endpoint's check fails.
type OnUnhealthy string

// What becomes of them. UnhealthyAuto closes those whose endpoint fails a check of ours; where
// the registry's health takes it out, it is as with any endpoint that has left.
const (
	UnhealthyAuto  OnUnhealthy = "auto"
	UnhealthyClose OnUnhealthy = "close"
	UnhealthyDrain OnUnhealthy = "drain"
	UnhealthyKeep  OnUnhealthy = "keep"
)

// ProxyProtocol is a version of the PROXY protocol.
type ProxyProtocol string

// The versions.
const (
	ProxyOff ProxyProtocol = "off"
	ProxyV1  ProxyProtocol = "v1"
	ProxyV2  ProxyProtocol = "v2"
)

// ProxyTLVs is what a PROXY header of version 2 says of a container beside its address.
type ProxyTLVs string

// What it says.
const (
	TLVsNone      ProxyTLVs = "none"
	TLVsContainer ProxyTLVs = "container"
	TLVsLabels    ProxyTLVs = "labels"
)

// Source is the source address of connections to endpoints. The zero Source leaves
// it to the kernel.
type Source struct {
	// Addr is an address of this host; invalid when there is none to bind.
	Addr netip.Addr
	// Client means the client's own address.
	Client bool
}

func (s Source) String() string {
	switch {
	case s.Client:
		return sourceClient
	case s.Addr.IsValid():
		return s.Addr.String()
	}
	return ""
}
