package resolver

import (
	"context"
	"net/netip"
	"syscall"
)

// Permission says why a server that a target names, HOST:PORT, must not be asked at addr;
// nil means that it may be.
type Permission func(server string, addr netip.AddrPort) error

// Control is net.Dialer.ControlContext for connections to server: it asks about each
// address just before that is connected to, when every name has been looked up. A nil
// Permission needs none.
func (p Permission) Control(server string) func(ctx context.Context, network, address string, c syscall.RawConn) error {
	if p == nil {
		return nil
	}
	return func(_ context.Context, _, address string, _ syscall.RawConn) error {
		addr, err := netip.ParseAddrPort(address)
		if err != nil {
			return err // it is no address of TCP or UDP, which is all that is dialled
		}
		if err := p(server, addr); err != nil {
			return &Refusal{err}
		}
		return nil
	}
}

// Refusal is the error of a connection that a Permission does not permit.
type Refusal struct{ Err error }

func (r *Refusal) Error() string { return r.Err.Error() }

// Unwrap gives the Permission's own error.
func (r *Refusal) Unwrap() error { return r.Err }
