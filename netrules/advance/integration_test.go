//go:build integration

package advance

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

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
	// A server of the container's own at the port that is declared, and a connection to it
	// that is older than our rules.
	older := map[netrules.Family][2]net.Conn{}
	for f, addr := range map[netrules.Family]string{netrules.IPv4: "127.0.0.5", netrules.IPv6: "::1"} {
		own, err := lab.NS().ListenTCP(netip.AddrPortFrom(netip.MustParseAddr(addr), 6379))
		if err != nil {
			t.Fatal(err)
		}
		defer own.Close()
		client := lab.Dial(t, own.Addr().String())
		server, err := own.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		older[f] = [2]net.Conn{client, server}
		exchange(t, older[f], "before all rules")
	}
	table, err := Redirect(lab.NS(), families, listen, ports)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range older {
		exchange(t, p, "that is older than the rules in advance")
	}
	if after := netlab.Save(t, lab.NS(), netrules.IPv4); after != before {
		t.Errorf("iptables sees the table:\n%s\nbefore:\n%s", after, before)
	}
	if _, err := Redirect(lab.NS(), families, listen, ports); err == nil {
		t.Error("there are two of them")
	}

	// Nobody else can take it away before iptables has caught up.
	for _, harm := range []string{"flush ruleset", "delete table inet " + Table, "flush table inet " + Table} {
		_ = lab.NS().Do(func() error { return exec.Command("nft", harm).Run() }) // which it may refuse
		if text := lab.Run(t, "", "nft", "list", "ruleset"); strings.Count(text, "redirect to") != 2 {
			t.Errorf("after %q there is:\n%s", harm, text)
		}
	}

	live := map[netrules.Family][2]net.Conn{}
	for _, f := range families {
		client := lab.Dial(t, net.JoinHostPort(hosts[f], "6379"))
		server, err := listeners[f].Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		live[f] = [2]net.Conn{client, server}
		exchange(t, live[f], "that came by the rules in advance")
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
	for _, f := range families {
		exchange(t, live[f], "after the handover")
		exchange(t, older[f], "that is older than all rules, after the handover")
		lab.Dial(t, net.JoinHostPort(hosts[f], "6379"))
	}
}

// exchange has both ends of a connection hear each other.
func exchange(t *testing.T, ends [2]net.Conn, what string) {
	t.Helper()
	for _, way := range [][2]net.Conn{{ends[0], ends[1]}, {ends[1], ends[0]}} {
		if err := way[1].SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := way[0].Write([]byte("x")); err != nil {
			t.Fatalf("a connection %s: %v", what, err)
		}
		if _, err := way[1].Read(make([]byte, 1)); err != nil {
			t.Fatalf("a connection %s: %v", what, err)
		}
	}
}

// An opening segment may carry the flags of ECN.
func TestECN(t *testing.T) {
	lab := netlab.New(t)
	if err := lab.NS().Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/tcp_ecn", []byte("1"), 0) }); err != nil {
		t.Fatal(err)
	}
	families := []netrules.Family{netrules.IPv4, netrules.IPv6}
	table, err := Redirect(lab.NS(), families, listen, []netrules.Port{{Number: 6379}})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	for _, host := range []string{"127.0.0.1", "::1"} {
		l, err := lab.NS().ListenTCP(netip.AddrPortFrom(netip.MustParseAddr(host), listen))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		lab.Dial(t, net.JoinHostPort(host, "6379"))
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
