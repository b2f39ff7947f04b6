package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/proxy/internal/dialfault"
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
	// answered the dial, or it closed it before the client did and without a byte.
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
	// OperatorClosed: an operator has asked for its end.
	OperatorClosed Reason = "operator_closed"
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
	{EndpointGone, "the endpoint reset the connection after it had answered the dial, or closed it without having sent a byte, before the client did"},
	{IdleTimeout, "no byte has moved, either way, for `idle-timeout`"},
	{HalfClosedTimeout, "one side has ended its stream and the other has not, for `half-closed-timeout`"},
	{LifetimeOver, "the connection has lasted for `max-lifetime`"},
	{EndpointRemoved, "the source no longer names the endpoint, and `on-removal` has the target's connections leave with it"},
	{EndpointUnhealthy, "checks of the endpoint fail, and `on-unhealthy` has the target's connections leave it then"},
	{FailedBack, "a preferred choice of the fallback chain has endpoints again, and `fail-back` has connections go back to it"},
	{OperatorClosed, "an operator has closed it: `ambassadord connections close`"},
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
	if f, ok := errors.AsType[*Failure](err); ok {
		return f.Reason
	}
	return ""
}

// ErrOwnWay is in the chain of an error of a dial that failed by the way it took, which is
// the client's own, such as a source address of another family.
var ErrOwnWay = errors.New("the way there is the client's own")

// OwnFault reports whether err, of a dial, is this host's doing or the client's rather
// than the endpoint's, so that it says nothing of the endpoint.
func OwnFault(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, ErrOwnWay) {
		return true
	}
	if reason := ReasonOf(err); reason == Denied || reason == OverLimit || reason == ClientGone {
		return true
	}
	f := dialfault.Of(err)
	return f != nil && f.Own
}

// nobodyAnswered is the error of a round in which no endpoint could be used: what became of
// each, and what to do about that.
func nobodyAnswered(route *Route, failures []error) error {
	const fewHints = 3
	own, asked := 0, 0
	var hints []string
	for _, err := range failures {
		if OwnFault(err) {
			own++
		}
		if len(hints) == fewHints {
			continue
		}
		if f := dialfault.Of(err); f != nil && f.Fix == dialfault.FixPorts { // which the kernel is asked about
			if asked++; asked > fewHints {
				continue
			}
		}
		if h := dialHint(route, err); h != "" && !slices.Contains(hints, h) {
			hints = append(hints, h)
		}
	}
	what := "%s dialled, none answered: %w"
	if own == len(failures) {
		what = "%s, of which this host could dial none: %w"
	}
	err := fmt.Errorf(what, shorten.Count(len(failures), "endpoint", "endpoints"), errors.Join(firstFew(failures)...))
	return Fail(DialFailed, hint.Wrap(err, strings.Join(hints, "; ")))
}

// safePreface is how long a PROXY header may be for every receiver that is known to take it.
const safePreface = 107

// prefaceHint is the error of a connection, with what to do if the endpoint has reset or closed it
// after a PROXY header and nothing else: one that expects none, or a shorter one, does that.
func prefaceHint(r *Record) error {
	if r.Err == nil || len(r.Route.Preface) == 0 || r.Down > 0 {
		return r.Err
	}
	f, ok := errors.AsType[*Failure](r.Err)
	if !ok || f.Reason != EndpointGone || hint.Of(r.Err) != "" {
		return r.Err
	}
	return Fail(f.Reason, hint.Wrap(f.Err, fixPreface(len(r.Route.Preface))))
}

// broke is how a peer has broken a connection, with the errno by which that was noticed.
func broke(peer string, err error) error {
	switch errnoOf(err) { //nolint:exhaustive // the others are said as the kernel does
	case unix.ECONNRESET, unix.EPIPE, unix.ENOTCONN: // the latter two by who writes after the reset
		return noticedBy{peer + " reset the connection", err}
	case unix.ETIMEDOUT:
		return noticedBy{peer + " no longer answers: what was sent to it is not acknowledged", err}
	}
	return fmt.Errorf("%s broke the connection: %w", peer, err)
}

// errnoOf is the errno in err's chain, 0 if there is none. Unlike errors.As it allocates nothing.
func errnoOf(err error) unix.Errno {
	for ; err != nil; err = errors.Unwrap(err) {
		if errno, ok := err.(unix.Errno); ok { //nolint:errorlint // the loop unwraps
			return errno
		}
	}
	return 0
}

// noticedBy is an error in words, and the kernel's, which says less.
type noticedBy struct {
	text string
	err  error
}

func (n noticedBy) Error() string { return n.text }
func (n noticedBy) Unwrap() error { return n.err }

var (
	errUnserved      = errors.New("the endpoint accepted the connection and closed it without a byte")
	errUnserving     = Fail(EndpointGone, errUnserved)
	errUnservingHint = Fail(EndpointGone, hint.Wrap(errUnserved, "look at its log: it may expect TLS or another protocol, refuse this client, or forward to nobody, as a published port does when nothing in the container listens"))
)

// unserving is why a connection has failed whose endpoint closed it without a byte, before the
// client did: reason, if there was another one.
func unserving(route *Route, reason error) error {
	switch {
	case reason != nil && ReasonOf(reason) != EndpointGone && ReasonOf(reason) != ClientGone:
		return reason
	case len(route.Preface) > 0: // whose hint is added at the end
		return errUnserving
	}
	return errUnservingHint
}

func fixPreface(long int) string {
	if long > safePreface {
		return fmt.Sprintf("the endpoint may not take a PROXY header as long as ours, of %d bytes: lower proxy-protocol-max (%d suits all that we know), or say less with proxy-protocol-tlvs; or it expects none", long, safePreface)
	}
	return "does the endpoint expect a PROXY header, of this version, and from this host? If not, set proxy-protocol=off"
}

// DialCheck dials an endpoint to see whether it is well; the error has a hint, as that of a
// connection.
func DialCheck(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	conn, err := dialTCP(ctx, addr, &Options{})
	if err != nil { // and no conn, of which a nil one would be an interface that is not nil
		return nil, hint.Wrap(err, dialHint(&Route{}, err))
	}
	return conn, nil
}

// dialHint is what to do about a dial that failed with err.
func dialHint(route *Route, err error) string {
	if h := hint.Of(err); h != "" {
		return h
	}
	var timeout net.Error
	switch f := dialfault.Of(err); {
	case len(route.Preface) > 0 && (errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)):
		return fixPreface(len(route.Preface))
	case f != nil && f.Fix == dialfault.FixPorts && route.Dial == nil:
		return dialfault.NoPort(err, route.Options.Source.IsValid())
	case f != nil:
		return f.Fix
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return dialfault.FixSilence
	}
	return "is the backend up, and reachable from this host?"
}

// firstFew keeps an error text readable when there were hundreds of endpoints.
func firstFew(errs []error) []error {
	const few = 5
	if len(errs) <= few {
		return errs
	}
	return append(errs[:few:few], fmt.Errorf("and %d more", len(errs)-few))
}

// isLoop reports whether err says that an endpoint leads back to us.
func isLoop(err error) bool { return ReasonOf(err) == Loop }
