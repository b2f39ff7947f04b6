package proxy

import (
	"errors"
	"fmt"
)

// Reason is why a connection failed: the same word in the log, in metrics and
// in the documentation.
type Reason string

// The closed set of reasons.
const (
	// UnknownClient: the source address is not surely one container's.
	UnknownClient Reason = "unknown_client"
	// NoBinding: the client declared nothing for the port, or nothing that parses.
	NoBinding Reason = "no_binding"
	// Denied: the client may not reach what it asks for; or the source address is a
	// container's, but another container could have forged it.
	Denied Reason = "denied"
	// Loop: what was dialled for the connection came back to one of our own listeners.
	Loop Reason = "loop"
	// ResolveFailed: the source of the target could not be asked.
	ResolveFailed Reason = "resolve_failed"
	// NoEndpoints: the source is well and knows nobody who serves the target.
	NoEndpoints Reason = "no_endpoints"
	// DialFailed: there are endpoints and none of them answered in time.
	DialFailed Reason = "dial_failed"
	// ClientGone: the client reset the connection or vanished.
	ClientGone Reason = "client_gone"
	// EndpointGone: the endpoint reset the connection or vanished after it had
	// answered the dial.
	EndpointGone Reason = "endpoint_gone"
	// OverLimit: as many connections are open, or wait, as may.
	OverLimit Reason = "over_limit"
	// IdleTimeout: no byte has moved for as long as that may last.
	IdleTimeout Reason = "idle_timeout"
	// HalfClosedTimeout: one side has ended its stream and the other has not, for
	// as long as that may last.
	HalfClosedTimeout Reason = "half_closed_timeout"
	// LifetimeOver: the connection has lasted as long as it may.
	LifetimeOver Reason = "lifetime_over"
	// EndpointRemoved: the source no longer names the endpoint, and the target's
	// connections are to leave with it.
	EndpointRemoved Reason = "endpoint_removed"
	// EndpointUnhealthy: checks of the endpoint fail, and the target's connections are to leave
	// it then.
	EndpointUnhealthy Reason = "endpoint_unhealthy"
	// FailedBack: a choice of the target that comes before the endpoint's has endpoints again,
	// and the target's connections are to go back to it.
	FailedBack Reason = "failed_back"
	// DaemonGone: the daemon was killed with bytes of the connection in its hands.
	DaemonGone Reason = "daemon_gone"
	// DrainTimeout: the daemon stopped and could wait no longer.
	DrainTimeout Reason = "drain_timeout"
)

// meanings has each Reason once, in the order of documentation, with what happened.
var meanings = []struct {
	reason  Reason
	meaning string
}{
	{UnknownClient, "the engine has been away for longer than the option `timeout` allows, and nothing else proves whose the connection is; modes host and link: the source address is not surely one running container's; mode redirect: the connection came to the container's socket from outside of it, by rules that a process with NET_ADMIN has made in there"},
	{NoBinding, "the container declares nothing for this port, or nothing that parses"},
	{Denied, "the policy keeps the client from what it asks for; or, in modes host and link without a source guard, another container could have forged the source address"},
	{ResolveFailed, "the target's source (DNS, Consul, etcd, the engine, a file) could not be asked"},
	{NoEndpoints, "the source is well and names no endpoint; the error says which instances were left out"},
	{DialFailed, "there are endpoints and none answered within the option `timeout`, or this host could dial none: no local port left, no route, a firewall"},
	{Loop, "what was dialled for the connection came back to a socket of the daemon's; the error names the way it took"},
	{OverLimit, "as many connections are open, or wait, as may"},
	{ClientGone, "the client reset the connection, or left before it was served"},
	{EndpointGone, "the endpoint reset the connection after it had answered the dial"},
	{IdleTimeout, "no byte has moved, either way, for `idle-timeout`"},
	{HalfClosedTimeout, "one side has ended its stream and the other has not, for `half-closed-timeout`"},
	{LifetimeOver, "the connection has lasted for `max-lifetime`"},
	{EndpointRemoved, "the source no longer names the endpoint, and `on-removal` has the target's connections leave with it"},
	{EndpointUnhealthy, "checks of the endpoint fail, and `on-unhealthy` has the target's connections leave it then"},
	{FailedBack, "a preferred choice of the fallback chain has endpoints again, and `fail-back` has connections go back to it"},
	{DaemonGone, "the daemon was killed while bytes of the connection were in its memory"},
	{DrainTimeout, "the daemon stopped, and `--drain-timeout` was over or a second signal cut it short"},
}

// Reasons lists every Reason, for documentation and metrics.
func Reasons() []Reason {
	reasons := make([]Reason, len(meanings))
	for i, m := range meanings {
		reasons[i] = m.reason
	}
	return reasons
}

// Meaning says in a line what happened to a connection that ended for the Reason; "" for a
// Reason that is not of the set. Options stand in backquotes.
func (r Reason) Meaning() string {
	for _, m := range meanings {
		if m.reason == r {
			return m.meaning
		}
	}
	return ""
}

// Failure is an error with its Reason.
type Failure struct {
	Reason Reason
	Err    error
}

func (f *Failure) Error() string { return fmt.Sprintf("%s: %v", f.Reason, f.Err) }

// Unwrap gives the error behind the reason.
func (f *Failure) Unwrap() error { return f.Err }

// Fail makes a Failure; a nil err stays nil.
func Fail(reason Reason, err error) error {
	if err == nil {
		return nil
	}
	return &Failure{Reason: reason, Err: err}
}

// ReasonOf returns the Reason in err's chain, "" for nil or an error without
// one.
func ReasonOf(err error) Reason {
	var f *Failure
	if errors.As(err, &f) {
		return f.Reason
	}
	return ""
}
