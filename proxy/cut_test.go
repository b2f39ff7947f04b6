package proxy

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
)

// An operator closes one connection of several: both of its ends are reset, for that reason, and the
// others go on.
func TestCut(t *testing.T) {
	listener := listen(t)
	go func() {
		for {
			conn, err := listener.AcceptTCP()
			if err != nil {
				return
			}
			go func() { defer conn.Close(); _, _ = io.Copy(conn, conn) }()
		}
	}()
	l := newLab(t, new(Server), to(Endpoint{Addr: listener.Addr().(*net.TCPAddr).AddrPort()}))
	var all []*net.TCPConn
	echo := func(conn *net.TCPConn) error {
		if _, err := conn.Write([]byte("x")); err != nil {
			return err
		}
		_, err := io.ReadFull(conn, make([]byte, 1))
		return err
	}
	for range 3 {
		conn := l.dial()
		if err := echo(conn); err != nil {
			t.Fatal(err)
		}
		all = append(all, conn)
	}
	one := all[1].LocalAddr().(*net.TCPAddr).AddrPort()
	why := Fail(OperatorClosed, errors.New("an operator has closed it"))
	from := func(addr netip.AddrPort) func(*Carried) bool {
		return func(c *Carried) bool { return c.Source == addr && c.Up == 1 && c.Route.Target == "target" }
	}
	if n := l.server.Cut(from(netip.MustParseAddrPort("192.0.2.1:1")), why); n != 0 {
		t.Errorf("%d connections were closed that there are not", n)
	}
	if n := l.server.Cut(from(one), why); n != 1 {
		t.Errorf("%d connections were closed; want 1", n)
	}
	wantReset(t, all[1])
	if r := l.record(); ReasonOf(r.Err) != OperatorClosed || r.Source != one {
		t.Errorf("the record is of %s, %v; want %s, closed by an operator", r.Source, r.Err, one)
	}
	for _, conn := range []*net.TCPConn{all[0], all[2]} {
		if err := echo(conn); err != nil {
			t.Errorf("another one: %v", err)
		}
	}
	if n := l.server.Cut(func(*Carried) bool { return true }, why); n != 2 {
		t.Errorf("%d were closed of all; want the 2 that are left", n)
	}
	listener.Close()
}
