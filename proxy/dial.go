package proxy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/selfconnect"
	"github.com/ambassadord/ambassadord/proxy/internal/socket"
)

// dialFunc is a way to open a connection to an endpoint.
type dialFunc func(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error)

// dialRoute opens a connection to addr and sends it the route's preface. It goes the way of the
// route, or that of server, the daemon's own, or plain TCP.
func dialRoute(ctx context.Context, route *Route, server dialFunc, addr netip.AddrPort) (*net.TCPConn, error) {
	conn, err := openRoute(ctx, route, server, addr)
	if err != nil {
		return nil, err
	}
	route.Options.apply(conn)
	if len(route.Preface) == 0 {
		return conn, nil
	}
	// A new connection takes many times as much without waiting.
	if err := writeAll(ctx, conn, route.Preface); err != nil {
		socket.Reset(conn)
		return nil, fmt.Errorf("dial %s: send the PROXY header: %w (%w)", addr, err, ErrOwnWay)
	}
	return conn, nil
}

func openRoute(ctx context.Context, route *Route, server dialFunc, addr netip.AddrPort) (*net.TCPConn, error) {
	switch {
	case route.Dial != nil:
		return route.Dial(ctx, addr)
	case server != nil:
		return server(ctx, addr)
	}
	return dialTCP(ctx, addr, &route.Options)
}

// dialTCP dials plain TCP, never MPTCP.
func dialTCP(ctx context.Context, addr netip.AddrPort, o *Options) (*net.TCPConn, error) {
	var dialer net.Dialer
	dialer.SetMultipathTCP(false)
	if o.Source.IsValid() {
		if o.Source.Is4() != addr.Addr().Unmap().Is4() {
			return nil, hint.Wrap(fmt.Errorf("dial %s: the source address %s is of another family: %w", addr, o.Source, ErrOwnWay),
				"choose a source-address of its family, or leave it out")
		}
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(o.Source, 0))
	}
	if o.prepares() {
		dialer.Control = func(_, _ string, raw syscall.RawConn) error {
			var errno error
			err := raw.Control(func(fd uintptr) { errno = o.prepare(int(fd)) })
			return errors.Join(err, errno)
		}
	}
	conn, err := selfconnect.DialContext(ctx, &dialer, "tcp", addr.String())
	if err != nil {
		if o.prepares() {
			err = o.explain(err)
		}
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// prepares reports whether prepare has anything to set. A connection of which it does is dialled
// by way of package net, never by a loop.
func (o *Options) prepares() bool { return o.Source.IsValid() || o.Mark != 0 }

// prepare sets what has to be set before a socket is bound. An option that is added here is asked for in
// prepares, too.
func (o *Options) prepare(fd int) error {
	if o.Mark != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(o.Mark)); err != nil {
			return hint.Wrap(fmt.Errorf("set the mark %#x: %w", o.Mark, err), "the option mark needs CAP_NET_ADMIN")
		}
	}
	if !o.Source.IsValid() {
		return nil
	}
	// Otherwise the port is chosen before the destination is known, and every one is
	// taken once for all of them (ip(7), IP_BIND_ADDRESS_NO_PORT).
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return fmt.Errorf("bind without a port: %w", err)
	}
	if !o.Transparent {
		return nil
	}
	level, option := unix.IPPROTO_IP, unix.IP_TRANSPARENT
	if o.Source.Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT
	}
	if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
		return hint.Wrap(fmt.Errorf("dial as %s: %w", o.Source, err), "source-address=client needs CAP_NET_ADMIN")
	}
	return nil
}

// explain adds what to do about a source address that this host does not have, and whose
// way it was on which there is no route.
func (o *Options) explain(err error) error {
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
		return fmt.Errorf("%w (%w)", err, ErrOwnWay)
	}
	var call *os.SyscallError
	if o.Source.IsValid() && errors.Is(err, unix.EADDRNOTAVAIL) && errors.As(err, &call) && call.Syscall == "bind" {
		return hint.Wrap(err, "source-address must be an address of the daemon's own network namespace")
	}
	return err
}

// apply sets what differs from the default of every connection. A socket that is gone
// by now shows that soon enough.
func (o *Options) apply(conn *net.TCPConn) {
	if o.KeepAlive != 0 && o.KeepAlive != socket.DefaultKeepAlive {
		_ = socket.SetKeepAlive(conn, max(o.KeepAlive, 0), max(o.KeepAlive, 0))
	}
	if o.UserTimeout > 0 {
		_ = socket.SetUserTimeout(conn, o.UserTimeout)
	}
}

// limits are those of a connection that was accepted then.
func (o *Options) limits(accepted time.Time) limits {
	l := limits{Idle: o.Idle, HalfClosed: o.HalfClosed}
	if o.Lifetime > 0 {
		l.Lifetime = max(o.lifetime()-time.Since(accepted), 1)
	}
	return l
}

// lifetime is how old a connection may become.
func (o *Options) lifetime() time.Duration {
	shorter := time.Duration(float64(o.Lifetime) * rand.Float64() * float64(o.LifetimeJitter) / 100)
	return o.Lifetime - shorter
}

// writeAll writes b before ctx ends.
func writeAll(ctx context.Context, conn *net.TCPConn, b []byte) error {
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetWriteDeadline(deadline); err != nil {
			return err
		}
	}
	if _, err := conn.Write(b); err != nil {
		return err
	}
	return conn.SetWriteDeadline(time.Time{})
}

// dial dials an endpoint, unless that leads back to us.
func (s *search) dial(ctx context.Context, a Attempt) attemptOutcome {
	o := attemptOutcome{attempt: a}
	if s.route.Dial == nil {
		if o.err = Fail(Loop, s.server.own.LeadsBack(s.by, s.hop, (*way)(s.route), a.Addr)); o.err != nil {
			return o
		}
	}
	o.outgoing = s.server.own.Departs(s.by, s.hop, a.Addr, s.route.Dial != nil, s.route.Options.Transparent)
	o.outgoing.Begin()
	o.conn, o.err = s.dialWithin(ctx, a)
	return o
}

// dialWithin gives an endpoint its fair share of the time that is left, and no more than
// AttemptTimeout, so that one that swallows packets leaves enough for those behind it.
// The last one gets all that is left, unless somebody else appears.
func (s *search) dialWithin(ctx context.Context, a Attempt) (*net.TCPConn, error) {
	patience := firstPositive(s.route.Options.AttemptTimeout, defaultAttemptTimeout)
	attempt, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if deadline, ok := ctx.Deadline(); ok && a.Left > 1 {
		share := time.Until(deadline) / time.Duration(a.Left)
		bounded, cancel := context.WithTimeout(attempt, min(share, patience))
		defer cancel()
		attempt = bounded
	} else {
		held := time.Until(s.holdUntil()) > patience
		others := time.AfterFunc(patience, func() {
			if othersAppear(attempt, s.route.Endpoints, held, patience) {
				cancel(errSilent)
			}
		})
		defer others.Stop()
	}
	conn, err := dialRoute(attempt, s.route, s.server.Dial, a.Addr)
	if err != nil && ctx.Err() == nil && context.Cause(attempt) != nil && !errors.Is(context.Cause(attempt), context.DeadlineExceeded) {
		err = fmt.Errorf("dial %s: %w", a.Addr, context.Cause(attempt))
	}
	return conn, err
}

var errSilent = errors.New("it did not answer, and by now there may be another endpoint")

// othersAppear waits while the last endpoint of a round is silent, and reports whether another
// round may find somebody else; if not, ctx has ended. Silence is as much news as a refusal, since
// nobody answers for the address of a container that was removed. So the source is asked again,
// each time that another attempt would be over. A connection that is held hears of every change.
func othersAppear(ctx context.Context, c Chooser, held bool, every time.Duration) bool {
	reresolver, _ := c.(Reresolver)
	for ctx.Err() == nil {
		if reresolver != nil && reresolver.Reresolve(ctx) {
			break
		}
		next, cancel := context.WithTimeout(ctx, every)
		if held {
			c.Changed(next)
		}
		changed := next.Err() == nil && held
		if changed && (reresolver == nil || reresolver.Reresolve(ctx)) {
			cancel()
			break
		}
		held = held && !changed // the same endpoints: the source has failed, or is well again
		<-next.Done()
		cancel()
	}
	return ctx.Err() == nil
}
