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
	"github.com/ambassadord/ambassadord/internal/selfconnect"
)

// fixPorts is what to do when the kernel finds no local port.
const fixPorts = "widen net.ipv4.ip_local_port_range, give the target more endpoints or dial it from another source-address, and let clients keep their connections; does one of them leak connections?"

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
		if f := faultOf(err); f != nil && f.fix == fixPorts { // which the kernel is asked about
			if asked++; asked > fewHints {
				continue
			}
		}
		if h := dialHint(route, err); h != "" && !slices.Contains(hints, h) {
			hints = append(hints, h)
		}
	}
	what := "%d endpoints dialled, none answered: %w"
	if own == len(failures) {
		what = "%d endpoints, of which this host could dial none: %w"
	}
	err := fmt.Errorf(what, len(failures), errors.Join(firstFew(failures)...))
	return Fail(DialFailed, hint.Wrap(err, strings.Join(hints, "; ")))
}

// safePreface is how long a PROXY header may be for every receiver that is known to take it.
const safePreface = 107

// prefaceHint is the error of a connection, with what to do if the endpoint has reset it after
// a PROXY header and nothing else: one that expects none, or a shorter one, does that.
func prefaceHint(r *Record) error {
	var f *Failure
	if len(r.Route.Preface) == 0 || r.Down > 0 || !errors.As(r.Err, &f) || f.Reason != EndpointGone || hint.Of(r.Err) != "" {
		return r.Err
	}
	return Fail(f.Reason, hint.Wrap(f.Err, fixPreface(len(r.Route.Preface))))
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
	switch f := faultOf(err); {
	case len(route.Preface) > 0 && (errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)):
		return fixPreface(len(route.Preface))
	case f != nil && f.fix == fixPorts && route.Dial == nil:
		return noPort(err, &route.Options)
	case f != nil:
		return f.fix
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return fixSilence
	}
	return "is the backend up, and reachable from this host?"
}

// noPort says why connect(2) found no local address and port for a dial: this host has no
// address from which it could go there, or so many connections go there that no port is left.
func noPort(err error, o *Options) string {
	addr, known := dialled(err)
	if known && !o.Source.IsValid() {
		// The same question without TCP, which sends nothing.
		probe, err := selfconnect.DialContext(context.Background(), &net.Dialer{}, "udp", addr.String())
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			return "this host has no address from which it could go there: for IPv6, look whether it has one (`ip -6 addr`), or leave that endpoint out"
		}
		if err == nil {
			probe.Close()
		}
	}
	return "all local ports for connections there are taken" + portsInUse() + ": " + fixPorts
}

// dialled is the address that package net, or dialError, says was dialled.
func dialled(err error) (netip.AddrPort, bool) {
	var op *net.OpError
	if !errors.As(err, &op) {
		return netip.AddrPort{}, false
	}
	addr, ok := op.Addr.(*net.TCPAddr)
	if !ok || addr == nil {
		return netip.AddrPort{}, false
	}
	return addr.AddrPort(), true
}
