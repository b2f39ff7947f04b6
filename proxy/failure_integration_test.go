//go:build integration

package proxy

import (
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/proxy/internal/socket"
)

// TestWhyNobodyCouldBeDialled: what this host does to a dial is told from what the endpoint
// does, with what to do about it, and only the second counts against the endpoint.
func TestWhyNobodyCouldBeDialled(t *testing.T) {
	if !netlab.IsInside(t) && ways.again || !netlab.Inside(t) {
		return
	}
	for _, kind := range []string{"prohibit", "blackhole", "unreachable"} {
		at := map[string]string{"prohibit": "203.0.113.1", "blackhole": "203.0.113.2", "unreachable": "203.0.113.3"}[kind]
		if out, err := exec.Command("ip", "route", "replace", kind, at).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	netlab.LocalPorts(t, "32768", "60999")
	full, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 5000})
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, test := range []struct {
		name, addr string
		errno      unix.Errno
		own        bool
		hint       string
	}{
		{"nobody listens", "127.0.0.1:1", unix.ECONNREFUSED, false, "nobody listens there"},
		{"no route", "198.51.100.1:80", unix.ENETUNREACH, false, "has no route there"},
		{"a route that is unreachable", "203.0.113.3:80", unix.EHOSTUNREACH, false, "`unreachable`"},
		{"a route that prohibits", "203.0.113.1:80", unix.EACCES, true, "`prohibit`"},
		{"a route that swallows", "203.0.113.2:80", unix.EINVAL, true, "`blackhole`"},
		{"no local port", full.Addr().String(), unix.EADDRNOTAVAIL, true, "taken (1, from 40000 to 40000; this host has "},
	} {
		t.Run(test.name, func(t *testing.T) {
			endpoint := Endpoint{Addr: netip.MustParseAddrPort(test.addr)}
			netlab.LocalPorts(t, "32768", "60999")
			l := newLab(t, &Server{}, to(endpoint))
			if test.errno == unix.EADDRNOTAVAIL {
				netlab.LocalPorts(t, "40000", "40000")
				one, err := net.Dial("tcp", test.addr)
				if err != nil {
					t.Fatal(err)
				}
				defer socket.Reset(one.(*net.TCPConn))
			}
			from := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 30000}
			client, err := net.DialTCP("tcp", from, net.TCPAddrFromAddrPort(l.addr))
			if err == nil {
				defer socket.Reset(client)
			} else if !errors.Is(err, unix.ECONNRESET) { // it may be refused as soon as that
				t.Fatal(err)
			}
			r := l.record()
			l.wantReason(r, DialFailed)
			if !errors.Is(r.Err, test.errno) || OwnFault(r.Err) != test.own || strings.Contains(r.Err.Error(), "this host could dial none") != test.own {
				t.Errorf("%v, own %t; want %v, own %t", r.Err, OwnFault(r.Err), test.errno, test.own)
			}
			if got := hint.Of(r.Err); !strings.Contains(got, test.hint) {
				t.Errorf("hint %q; want one with %q", got, test.hint)
			}
		})
	}
}
