//go:build integration

package advance

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/iptables"
)

const listen = 61000

// TestHandOverToIptables has connections that came by the rules in advance go on
// when iptables has caught up and these are gone.
func TestHandOverToIptables(t *testing.T) {
	rules, err := iptables.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	lab := netlab.New(t)
	families := []netrules.Family{netrules.IPv4, netrules.IPv6}
	ports := []netrules.Port{{Number: 6379, Comment: "web"}, {Number: 53}}
	listeners := map[netrules.Family]*net.TCPListener{}
	hosts := map[netrules.Family]string{netrules.IPv4: "127.0.0.5", netrules.IPv6: "::1"}
	for f, addr := range map[netrules.Family]string{netrules.IPv4: "127.0.0.1", netrules.IPv6: "::1"} {
		if listeners[f], err = lab.NS().ListenTCP(netip.AddrPortFrom(netip.MustParseAddr(addr), listen)); err != nil {
			t.Fatal(err)
		}
		defer listeners[f].Close()
	}
	before := netlab.Save(t, lab.NS(), netrules.IPv4)
	table, err := Redirect(lab.NS(), families, listen, ports)
	if err != nil {
		t.Fatal(err)
	}
	if after := netlab.Save(t, lab.NS(), netrules.IPv4); after != before {
		t.Errorf("iptables sees the table:\n%s\nbefore:\n%s", after, before)
	}
	if _, err := Redirect(lab.NS(), families, listen, ports); err == nil {
		t.Error("there are two of them")
	}

	type pair struct{ client, server net.Conn }
	live := map[netrules.Family]pair{}
	for _, f := range families {
		client := lab.Dial(t, net.JoinHostPort(hosts[f], "6379"))
		server, err := listeners[f].Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		live[f] = pair{client, server}
	}
	for _, other := range []string{"127.0.0.1:6380", "[::1]:6380", "127.0.0.11:53"} {
		if conn, err := lab.NS().DialTCP(t.Context(), netip.MustParseAddrPort(other)); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s, which is nothing to us: %v, %v; want it refused", other, conn, err)
		}
	}

	for _, f := range families {
		if _, err := rules.Apply(t.Context(), lab.NS(), netrules.Redirect(f, listen, ports)); err != nil {
			t.Fatal(err)
		}
	}
	if err := table.Close(); err != nil {
		t.Fatal(err)
	}
	if left := lab.Run(t, "", "nft", "list", "tables", "inet"); left != "" {
		t.Errorf("left behind: %s", left)
	}
	for f, p := range live {
		for _, way := range [][2]net.Conn{{p.client, p.server}, {p.server, p.client}} {
			if _, err := way[0].Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := way[1].Read(make([]byte, 1)); err != nil {
				t.Errorf("%s: after the handover: %v", f, err)
			}
		}
		lab.Dial(t, net.JoinHostPort(hosts[f], "6379"))
	}
}

// Containers start at the same time.
func TestManyAtOnce(t *testing.T) {
	var all sync.WaitGroup
	for range 8 {
		lab := netlab.New(t)
		all.Go(func() {
			table, err := Redirect(lab.NS(), []netrules.Family{netrules.IPv4, netrules.IPv6}, listen, []netrules.Port{{Number: 6379}})
			if err != nil {
				t.Error(err)
				return
			}
			if err := table.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}
